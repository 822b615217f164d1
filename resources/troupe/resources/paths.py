"""Field paths, and values as messages quote them."""

import re


def joined(path: str, name: str) -> str:
    """The path of the entry `name` of what is at `path`: `spec.model`, `metadata.labels["a.b/c"]`."""
    if re.fullmatch(r"[\w-]{1,64}", name):
        return f"{path}.{name}" if path else name
    return f'{path}["{shown(name)}"]'


def shown(text: str) -> str:
    """The text on one line, cut at 40 characters: for messages."""
    flat = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:41])
    return flat if len(text) <= 40 else f"{flat[:39]}…"
