"""Where a service listens: `host:port`, and the next free port when that one is taken."""

import errno
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

from troupe.chassis.errors import FailedPrecondition

T = TypeVar("T")

TRIES = 100
"""Ports tried from the default one on. More services than that on one machine choose their ports themselves."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host name or IP address, without brackets, and a port; port 0 stands for one that the system picks."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `127.0.0.1:7070`, `[::1]:7070`, `worker-0.fleet:7070`. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65_535:
            raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:7070")
        bracketed = host.startswith("[") and host.endswith("]")
        if ":" in host and not bracketed:
            raise ValueError(f"{text!r} needs brackets around its IPv6 address, such as [::1]:7070")
        return cls(host[1:-1] if bracketed else host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than `localhost` counts as reachable."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listening(listen: str, *, asked: bool, setting: str = "listen") -> socket.socket:
    """A TCP socket that listens at `listen`, for servers that take one. Rules and errors are those of `bound`."""
    return bound(listen, bind, asked=asked, setting=setting)


def bound(listen: str, attempt: Callable[[Address], T], *, asked: bool, setting: str = "listen") -> T:
    """What `attempt` gives for the first address that is free: `listen` itself or, unless that one was `asked` for,
    the first of the ports after it.

    `attempt` raises OSError where it cannot listen. `setting` is the name of the setting behind `listen`, for the
    message. Raises FailedPrecondition: PORT_IN_USE, or CANNOT_LISTEN for what another port would not mend.
    """
    wanted = _resolved(Address.parse(listen))
    last = wanted.port + (1 if asked or wanted.port == 0 else TRIES)
    for port in range(wanted.port, min(last, 65_536)):
        try:
            return attempt(Address(wanted.host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _cannot_listen(wanted, error, setting) from error
    flag = f"--{setting.replace('_', '-')}"
    taken = f"port {wanted.port} is" if asked else f"ports {wanted.port} to {min(last, 65_536) - 1} are all"
    raise FailedPrecondition(
        "PORT_IN_USE",
        f"{taken} in use at {wanted.host}: name another with {flag} HOST:PORT, "
        f"or let the system pick one with {flag} {Address(wanted.host, 0)}",
    )


def bind(address: Address) -> socket.socket:
    """A socket that listens there. Raises OSError; a port with a listener is in use, one that just closed is not."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _resolved(address: Address) -> Address:
    # `localhost` is two addresses, and a server that gets only one of them would share the name with a stranger.
    return Address("127.0.0.1", address.port) if address.host == "localhost" else address


def _cannot_listen(address: Address, error: OSError, setting: str) -> FailedPrecondition:
    why = (error.strerror or str(error)).lower()
    return FailedPrecondition("CANNOT_LISTEN", f"cannot listen at {address}: {why}; change the setting {setting}")
