"""What a client trusts and shows to those that it calls."""

from dataclasses import dataclass, field
from pathlib import Path

from troupe.chassis.access import bearer
from troupe.chassis.access.settings import AccessSettings
from troupe.chassis.address import Address
from troupe.chassis.errors import InvalidArgument
from troupe.chassis.files import Stamp, stamp
from troupe.chassis.tls import ClientTls

FROM_FILE = "@"
"""What a token begins with that is the path of a file instead."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """`tls` None is in the clear; `token` is a bearer token, `@FILE` that holds it, or empty."""

    tls: ClientTls | None = None
    token: str = field(default="", repr=False)

    @staticmethod
    def among_peers(settings: AccessSettings) -> "Credentials":
        """How a service calls the others of its fleet, which is of one kind: with a certificate of its own it speaks
        TLS to them too, trusts their authority and shows what it has."""
        token = settings.token.get_secret_value()
        if settings.tls_cert is None and settings.tls_trust is None:
            return Credentials(None, token)
        return Credentials(ClientTls(settings.tls_trust or settings.tls_ca, settings.tls_cert, settings.tls_key), token)

    def check(self, address: str) -> None:
        """Raise InvalidArgument TOKEN_IN_THE_CLEAR where the token would go over a network for all to read."""
        if not self.token or self.tls is not None:
            return
        try:
            near = Address.parse(address).loopback
        except ValueError:
            near = address.startswith("unix:")
        if not near:
            raise InvalidArgument(
                "TOKEN_IN_THE_CLEAR",
                f"a token would go to {address} for all on the way to read: name the authority of its certificate "
                "(TROUPE_TLS_CA), or leave the token out",
            )


class BearerToken:
    """A token, read again when its file changes."""

    def __init__(self, token: str) -> None:
        """Raises InvalidArgument BAD_TOKEN where the file cannot be read or holds none."""
        self._path = Path(token.removeprefix(FROM_FILE)) if token.startswith(FROM_FILE) else None
        self._seen: Stamp = stamp(self._path)
        self._token = token if self._path is None else _read(self._path)

    def header(self) -> tuple[str, str]:
        """The metadata that carries it."""
        return bearer.header(self._token)

    def refresh(self) -> None:
        """Look at the file. One that cannot be read, while it is written, leaves the token as it was."""
        seen = stamp(self._path)
        if self._path is None or seen == self._seen:
            return
        try:
            self._token = _read(self._path)
        except InvalidArgument:
            return
        self._seen = seen


def _read(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument("BAD_TOKEN", f"cannot read a token from {path}: {error}") from error
    if not token or len(token.split()) > 1:
        raise InvalidArgument("BAD_TOKEN", f"{path} must hold one token and nothing else")
    return token
