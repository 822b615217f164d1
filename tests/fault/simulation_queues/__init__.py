"""Task and delay queues under seeded faults, in virtual time: the whole real client of RabbitMQ, which is
`troupe.broker.rabbitmq` and pika down to the bytes, in several processes, over a network that delays, holds up and
cuts, to a server that is a model: it takes the arguments of queues and exchanges as they are declared, and does by them
what RabbitMQ 3.10 does. What pools promise lies half in those arguments, so they are what is tried, not a copy of them.

The embedded broker is tried beside it (`embedded.py`): the real one on a real SQLite database, of which only the
threads are made up.

What becomes of a task is decided by a model of a worker, for task graphs are not built; it does what
`troupe.broker.port` asks of whoever consumes. Retries, attempts, dead letters, redriving and purging are the real ones.
"""
