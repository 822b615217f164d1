"""When a failed message is tried again. Pure: the time and the dice are arguments."""

from dataclasses import dataclass

JITTER = 0.2
"""Each delay is spread by ± this share, so that what failed together does not come back together."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Delays in seconds: `initial_delay` doubled with each failure, at most `max_delay`, before jitter."""

    max_retries: int = 3
    initial_delay: float = 0.1
    max_delay: float = 1.6

    def delay(self, failures: int, dice: float) -> float:
        """Seconds to wait after the `failures`-th failure (from 1). `dice` is uniform in [0, 1)."""
        plain = min(self.max_delay, self.initial_delay * 2.0 ** min(failures - 1, 64))
        return plain * (1 + JITTER * (2 * dice - 1))

    def retry_at(
        self, failures: int, now: float, dice: float, expires: float, retry_after: float | None = None
    ) -> float | None:
        """When to try again after the `failures`-th failure, or None when the message has had its tries or would
        expire first. `retry_after` is what the failing side asked for, honoured up to `expires`."""
        if failures > self.max_retries:
            return None
        at = now + max(self.delay(failures, dice), retry_after or 0.0)
        return at if at < expires else None
