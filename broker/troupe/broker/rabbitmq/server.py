"""What can be known of a server before trusting it. Pure."""

import re
from collections.abc import Mapping

from troupe.chassis.errors import FailedPrecondition

OLDEST = (3, 10)
_WEDGES = ((4, 3, 0), (4, 3, 5))
"""From and to: releases in which a quorum queue with single active consumer can stop after a consumer timeout."""


def check(properties: Mapping[str, object] | None) -> tuple[int, ...]:
    """The version in `server_properties`. Raises FailedPrecondition for what is no RabbitMQ, or too old: it would
    accept the arguments of queues and not act on them."""
    product, version = ((properties or {}).get(name, "") for name in ("product", "version"))
    if product != "RabbitMQ" or not isinstance(version, str) or (numbers := _numbers(version)) is None:
        raise FailedPrecondition(
            "BROKER_UNSUPPORTED",
            f"the broker calls itself {product or 'nothing'} {version}, and Troupe needs RabbitMQ 3.10 or newer",
        )
    if numbers < OLDEST:
        raise FailedPrecondition(
            "BROKER_UNSUPPORTED", f"RabbitMQ {version} is too old: Troupe needs 3.10 or newer; upgrade it"
        )
    return numbers


def warnings(version: tuple[int, ...]) -> list[str]:
    """What an operator should know of this version, each a sentence."""
    first, last = _WEDGES
    if first <= version <= last:
        return [
            f"RabbitMQ {'.'.join(map(str, version))} can stop delivering from a mailbox after a consumer timeout; "
            "upgrade to 4.3.6 or newer"
        ]
    return []


def _numbers(version: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in found.groups()) if found else None
