"""Attributes as people write them: `KEY=VALUE`, once for each."""

from collections.abc import Iterable
from typing import Annotated

import typer

from troupe.chassis.errors import InvalidArgument

AttributeOption = Annotated[
    list[str] | None,
    typer.Option("--attribute", "-a", metavar="KEY=VALUE", help="Attribute of the message; may be given again."),
]


def parse(given: Iterable[str] | None) -> dict[str, str]:
    """The pairs. InvalidArgument for what is none, and for a key given twice."""
    pairs: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidArgument("BAD_ATTRIBUTE", f"{text!r} is no attribute; write KEY=VALUE, for example team=shop")
        if key in pairs:
            raise InvalidArgument("BAD_ATTRIBUTE", f"attribute {key!r} is given twice; it has one value")
        pairs[key] = value
    return pairs
