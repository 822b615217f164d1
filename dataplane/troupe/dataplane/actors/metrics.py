"""What the actor runtime counts. Labels are bounded: never a session."""

import functools

from prometheus_client import Counter, Gauge, Histogram

from troupe.v1.turn_pb2 import Fate, LedgerCause

TURNS = Counter("troupe_turns", "Messages settled, by what became of them.", ["fate"])
TURN_LATENCY = Histogram(
    "troupe_turn_latency_seconds",
    "From a message's publish confirm to its commit, for messages that were answered.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
TURN_TIME = Counter("troupe_turn_time_seconds", "Time of answered messages, by agent and cause.", ["agent", "cause"])


@functools.cache
def turns(fate: Fate.ValueType) -> Counter:
    """Of this fate."""
    return TURNS.labels(Fate.Name(fate).removeprefix("FATE_").lower())


@functools.lru_cache(4096)
def turn_time(agent: str, cause: LedgerCause.ValueType) -> Counter:
    """Of this agent and cause; LEDGER_CAUSE_UNSPECIFIED is the residual."""
    name = LedgerCause.Name(cause).removeprefix("LEDGER_CAUSE_").lower() if cause else "residual"
    return TURN_TIME.labels(agent, name)


MAX_ATTEMPTS = 10
"""Attempts that are told apart; beyond, they count as this one."""
RETRIES = Counter(
    "troupe_turn_retries",
    f"Attempts that failed and are tried again, by reason and attempt, from 0; {MAX_ATTEMPTS} stands for all beyond.",
    ["reason", "attempt"],
)
INBOX_WRITES = Counter("troupe_inbox_writes", "Messages that had to wait and were written to an inbox.")
INBOX_MESSAGES = Gauge(
    "troupe_inbox_messages", "Messages that wait in the sessions that are in memory, counted every 10 s."
)
SENT = Counter("troupe_outbox_sent", "Messages that actors sent and the broker confirmed.")
HANDOVERS = Counter("troupe_handovers", "Shards handed over, by how that ended.", ["end"])
TAKEOVERS = Counter("troupe_takeovers", "Messages taken from an owner that did not end their turn in time, or is gone.")
GAPS = Counter("troupe_gaps", "Missing messages that a session waited for, by end.", ["end"])
LEFT_BEHIND = Counter(
    "troupe_turns_left_behind", "Turns that nothing ended at their deadlines, and that go on without their sessions."
)
FENCED = Counter("troupe_fenced", "Writes that the store refused because a shard has another owner.")
HOT_SESSIONS = Gauge("troupe_hot_sessions", "Sessions in memory.")
DEFECTS = Counter("troupe_runtime_defects", "Failures of the runtime itself. Anything but 0 wants a bug report.")
