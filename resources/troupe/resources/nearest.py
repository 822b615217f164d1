"""The known name that somebody probably meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` that looks most like `name`, by letters alone (case, `_` and `-` do not count); empty when
    none comes close. Names longer than 100 characters have no neighbour."""
    if len(name) > 100:
        return ""
    folded = {_fold(candidate): candidate for candidate in known}
    found = difflib.get_close_matches(_fold(name), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else ""


def _fold(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")
