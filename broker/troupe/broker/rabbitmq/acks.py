"""Which of a channel's deliveries are to be acked next, and in how few frames. Pure."""


class Acks:
    """Delivery tags of one channel, which counts them from 1."""

    def __init__(self) -> None:
        self._floor = 0  # all tags up to here were settled
        self._beyond: set[int] = set()  # settled, with others before them that are not
        self._fresh: list[int] = []  # settled, and not told to the server yet

    def add(self, tag: int) -> int:
        """A delivery was settled. How many were since `take`."""
        self._fresh.append(tag)
        return len(self._fresh)

    def take(self) -> tuple[int, int, list[int]]:
        """How many were settled since the last `take`, and what to tell the server of them: the tag up to which all
        are acked at once, 0 for none, and single ones."""
        fresh, self._fresh = self._fresh, []
        beyond, floor = self._beyond, self._floor
        beyond.update(fresh)
        while floor + 1 in beyond:
            floor += 1
            beyond.remove(floor)
        self._floor = floor
        # The server knows no tag that was acked before: the bound must be one of those that are told now.
        return len(fresh), max((tag for tag in fresh if tag <= floor), default=0), [tag for tag in fresh if tag > floor]
