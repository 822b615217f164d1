"""What a worker counts of the calls that it serves. Labels are bounded: never a session."""

from prometheus_client import Counter, Gauge

RELAYED_STREAMS = Gauge(
    "troupe_relayed_streams", "Streams of events that come from the session's owner for callers here."
)
REFUSED = Counter("troupe_gateway_refused", "Messages that were refused and not sent, by reason.", ["reason"])
UNCONFIRMED = Counter(
    "troupe_gateway_unconfirmed", "Messages whose confirm did not come in time; a SKIP takes their place."
)
VERBS = Counter("troupe_verbs", "Verbs on messages, by what they came to.", ["verb", "answer"])
SETTLEMENTS = Counter("troupe_settlements", "Tries to settle promises, by what they came to.", ["answer"])
REGISTERED = Gauge("troupe_registered", "1 while a control plane takes this worker's registration, else 0.")
IN_TROUBLE = Gauge("troupe_worker_in_trouble", "1 while this worker does not get on with its work, else 0.")
LOOP_BLOCKED = Gauge(
    "troupe_loop_blocked_seconds", "How long the event loop has been blocked by now; 0 while it is not."
)
REVISION_CLASHES = Counter(
    "troupe_revision_clashes",
    "Revisions that came with the place in order of another one: two control planes write, or a store was restored.",
)
