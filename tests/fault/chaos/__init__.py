"""Kill anything, lose nothing, repeat nothing: real processes under a seeded storm, and what must hold of them.

A driver (`driver`) sends numbered operations (`operations`) to hundreds of sessions through every gateway, and sends
each again under its id until it is accepted. An actor (`actor`) keeps a list of what it applied and calls a recorder
(`recorder`): a process with a durable log of its own. Meanwhile victims (`victims`) suffer what a schedule (`schedule`)
has for them: workers, control planes, RabbitMQ, Redis and the lines between them are killed, stopped, cut and started
again, and processes kill themselves at fault points (`troupe.chassis.fault_points`). Then a checker (`checker`) reads
what was sent, answered, applied and recorded, and says what was lost or repeated.

`make chaos SECONDS=600 SEED=1` runs it as long as asked.
"""
