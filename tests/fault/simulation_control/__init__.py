"""A whole control plane under seeded faults, in virtual time: the real classes from the candidacy to the links, over a
store in memory, between a network that delays, loses and repeats calls and workers that die, hang, refuse and drain.

A worker's rules of order are the real ones (`Applier`, and the data plane's `Placement`); what it runs is a model.
"""
