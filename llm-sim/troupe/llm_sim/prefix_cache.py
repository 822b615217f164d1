"""The prefix cache of a model server, counted: whole blocks of tokens, known by all that stands before them.

A block is found again only when every token from the start of the prompt up to its end is the same, and the last token
of a prompt is always computed, so that a prompt seen before has at most its length less one from the cache.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise

BLOCK = 16


class PrefixCache:
    """Keeps at most `capacity` blocks of 16 tokens; the block not used for longest goes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def cached(self, prompt: Sequence[str]) -> int:
        """How many of the first tokens of `prompt` need no computing: a multiple of the block, less than its length."""
        found = 0
        for block in _chain(prompt[:-1]):
            if block not in self._blocks:
                break
            found += BLOCK
        return found

    def fill(self, tokens: Sequence[str]) -> None:
        """Keep the whole blocks of `tokens`: a prompt, or a prompt with its answer."""
        # Latest first, so that of one text the end is let go before the beginning that other texts may share.
        for block in reversed(list(_chain(tokens))):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)


def _chain(tokens: Sequence[str]) -> Iterator[int]:
    above = 0
    for start, end in pairwise(range(0, len(tokens) + 1, BLOCK)):
        above = hash((above, *tokens[start:end]))
        yield above
