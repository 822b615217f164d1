"""The things that `get` lists and `delete` removes, under every name that people type."""

import typer

from troupe.resources.kinds import SPECS
from troupe.resources.nearest import nearest

LISTED = ("workers", "revisions", "sessions")
"""What `get` lists beside the kinds of resources."""

_RESOURCES = {alias: kind for kind in SPECS for alias in (kind.lower(), f"{kind.lower()}s")}
_LISTED = {alias: name for name in LISTED for alias in (name, name.removesuffix("s"))}


def kind_named(text: str) -> str:
    """The resource kind: `Agent` for `agent`, `agents`, `Agent`. A usage error for anything else."""
    return _named(text, _RESOURCES, [f"{kind.lower()}s" for kind in SPECS])


def listed(text: str) -> str:
    """The resource kind, or one of LISTED. A usage error for anything else."""
    return _named(text, _RESOURCES | _LISTED, [*(f"{kind.lower()}s" for kind in SPECS), *LISTED])


def _named(text: str, names: dict[str, str], offered: list[str]) -> str:
    if found := names.get(text.casefold()):
        return found
    guess = nearest(text, offered)
    meant = f"did you mean {guess}?" if guess else f"there are {', '.join(offered)}"
    raise typer.BadParameter(f"{text!r} is no kind; {meant}", param_hint="KIND")
