"""How fast the store takes writes just now, and how long it is worth waiting for one's turn without one. Pure.

What arrives and waits holds one of the places that its shard has at the broker, which messages of other sessions need.
"""

from typing import Final

PATIENCE: Final = (0.05, 5.0)
"""Seconds that an arrival may wait for its session before it is written to the inbox: at least, and at most."""
WORTH: Final = 4
"""Commits' time that it is better to wait: an arrival that is written and counted as started pays two more of them, and
so does all behind it."""
WEIGHT: Final = 1 / 16
"""Of the newest commit."""


class Patience:
    """Of one worker. Where the store or the loop is what all wait for, writes to the inbox would hold them up more."""

    def __init__(self) -> None:
        self.seconds = PATIENCE[0]
        """That an arrival waits now, where its turn may come within them."""
        self._commit = 0.0

    def committed(self, seconds: float) -> None:
        """A commit took so long."""
        self._commit += (seconds - self._commit) * WEIGHT
        least, most = PATIENCE
        self.seconds = min(most, max(least, WORTH * self._commit))

    def behind_commits(self, count: int) -> float:
        """Seconds that arrivals of a session wait now, the last of which starts after so many commits: what comes too
        late however long it waits is written at once, and others of its shard get its place."""
        return self.seconds if count <= WORTH else PATIENCE[0]
