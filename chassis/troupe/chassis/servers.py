"""Which of several control planes to call: the one that leads, as far as is known. Pure, and cheap to import.

What a server says of the leader is believed whether or not that address was named: whoever may say it could as well
have answered in the leader's place, and with TLS the process that is found there has to show a certificate like any
other.
"""

from collections.abc import Sequence
from typing import Final

from troupe.chassis.address import Address
from troupe.chassis.errors import DeadlineExceeded, TroupeError, Unavailable

NOT_LEADER: Final = "NOT_LEADER"
LEADER_ADDRESS: Final = "leader_address"
"""The key in the metadata of a NOT_LEADER that names `host:port` of the leader, where it is known."""


def addresses(text: str) -> list[str]:
    """The addresses in `a:7071,b:7071`, each once. Raises ValueError for what is no `host:port`, and for none."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for address in found:
        Address.parse(address)
    if not found:
        raise ValueError("names no address; it must be host:port, or several with commas between")
    return found


class Servers:
    """One caller's choice among `named`, at least one. Each failure leads on to a server that was not tried in this
    round; a round ends when there is none, or with success."""

    def __init__(self, named: Sequence[str]) -> None:
        self._named = tuple(named)
        self._tried: set[str] = set()
        self.address = self._named[0]
        """`host:port` of the one to call now."""

    def answered(self) -> None:
        """It did what it was asked: the next call goes there too."""
        self._tried.clear()

    def failed(self, error: TroupeError) -> bool:
        """It did not. True: `address` is another one now that is worth a call at once. False: all were tried, and it
        is time to wait before a new round."""
        self._tried.add(self.address)
        leader = leader_of(error)
        candidates = [*([leader] if leader else []), *self._after(self.address)]
        self.address = next((one for one in candidates if one not in self._tried), candidates[0])
        if self.address not in self._tried:
            return True
        self._tried.clear()
        return False

    def _after(self, address: str) -> tuple[str, ...]:
        """Those that were named, from the one after this on; all of them, where it was not named."""
        at = self._named.index(address) + 1 if address in self._named else 0
        return self._named[at:] + self._named[:at]


def is_elsewhere(error: TroupeError) -> bool:
    """Whether another server may do what this one did not."""
    return isinstance(error, Unavailable | DeadlineExceeded)


def leader_of(error: TroupeError) -> str:
    """`host:port` of the leader, where the error names it; else empty."""
    named = error.metadata.get(LEADER_ADDRESS, "") if error.reason == NOT_LEADER else ""
    try:
        return str(Address.parse(named)) if named else ""
    except ValueError:
        return ""
