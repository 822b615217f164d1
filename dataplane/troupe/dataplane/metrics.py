"""What a worker counts of the calls that it serves. Labels are bounded: never a session."""

from prometheus_client import Counter, Gauge

RELAYED_STREAMS = Gauge(
    "troupe_relayed_streams", "Streams of events that come from the session's owner for callers here."
)
REFUSED = Counter("troupe_gateway_refused", "Messages that were refused and not sent, by reason.", ["reason"])
UNCONFIRMED = Counter(
    "troupe_gateway_unconfirmed", "Messages whose confirm did not come in time; a SKIP takes their place."
)
REGISTERED = Gauge("troupe_registered", "1 while a control plane takes this worker's registration, else 0.")
REVISION_CLASHES = Counter(
    "troupe_revision_clashes",
    "Revisions that came with the place in order of another one: two control planes write, or a store was restored.",
)
