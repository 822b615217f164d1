"""The bearer token in a call's metadata. Pure: it meets bytes of strangers, and any of them end in an answer."""

import re
from collections.abc import Iterable
from typing import Final

from troupe.chassis.rpc_errors import Unauthenticated

HEADER: Final = "authorization"
MAX_TOKEN: Final = 8 * 1024
"""Bytes. Half of what a server takes as metadata."""

_TOKEN = re.compile(r"bearer +(?P<token>[A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE | re.ASCII)
"""RFC 6750, with the scheme in any case, as RFC 9110 has it."""


def token_of(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The token, None where no credential came along. Raises Unauthenticated BAD_CREDENTIAL for what is no token."""
    given = [value for name, value in metadata if name.lower() == HEADER]
    if not given:
        return None
    if len(given) > 1:
        raise Unauthenticated("BAD_CREDENTIAL", "the call carries several credentials; send one authorization header")
    value = given[0] if isinstance(given[0], str) else given[0].decode("latin-1")
    found = _TOKEN.fullmatch(value) if len(value) <= MAX_TOKEN else None
    if found is None:
        raise Unauthenticated(
            "BAD_CREDENTIAL",
            f"the authorization header is no `Bearer TOKEN` of at most {MAX_TOKEN} bytes; send the token as given",
        )
    return found["token"]


def header(token: str) -> tuple[str, str]:
    """The metadata that carries a token."""
    return HEADER, f"Bearer {token}"
