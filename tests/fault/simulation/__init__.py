"""A seeded simulation of the actor runtime: the real hosts, gateways, store and mailboxes, in virtual time and under
faults. One seed is one schedule: the same seed takes the same steps."""
