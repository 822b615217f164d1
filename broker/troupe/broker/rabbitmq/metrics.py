"""What only the RabbitMQ backend can count."""

from prometheus_client import Counter

RESUBSCRIPTIONS = Counter("troupe_broker_resubscriptions_total", "Subscriptions made in place of one that was lost.")
BLOCKED_SECONDS = Counter("troupe_broker_blocked_seconds_total", "Time in which the server took no messages.")
