"""From a URL to where a store in Redis is. Pure."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from troupe.chassis.errors import InvalidArgument

DEFAULT_PREFIX = "troupe"


@dataclass(frozen=True, slots=True)
class Address:
    """A URL in parts."""

    url: str
    """For the client library, secrets included."""
    shown: str
    """For people: host and port."""
    prefix: str
    """What all keys begin with: one fleet's."""


def address(url: str, store: str) -> Address:
    """From `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE][?prefix=NAME]`. `rediss://` is the same with TLS; what
    the client library offers for it (`ssl_ca_certs` and the like) goes into the query. Raises
    InvalidArgument, which calls it the URL of `store`."""
    try:
        parts = urlsplit(url)
        shown = f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
    except ValueError as error:
        raise refused(store, str(error)) from error
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = query.pop("prefix", DEFAULT_PREFIX)
    if not prefix or "{" in prefix or "}" in prefix:
        raise refused(store, f"a prefix is not empty and has no braces, got {prefix!r}")
    return Address(urlunsplit(parts._replace(query=urlencode(query))), shown, f"{prefix}:")


def refused(store: str, why: str) -> InvalidArgument:
    """What is raised for a URL that names no Redis. It is not said again: it may hold a password."""
    return InvalidArgument(
        "BAD_REDIS_URL",
        f"the {store}'s URL names no Redis ({why}): it must be "
        "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE][?prefix=NAME]",
    )
