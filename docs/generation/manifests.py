"""The page of manifests, from the specs of `resource.proto` and their comments."""

import re
from collections.abc import Iterator

from generation.descriptors import Declaration, Member, contracts, message
from generation.markdown import anchor, code, table
from troupe.resources.kinds import API_VERSION, SPECS

INTRODUCTION = f"""# Manifests

A manifest is YAML or JSON; a file may hold several documents. Each declares one resource:

```yaml
apiVersion: {API_VERSION}
kind: Agent
metadata:
  name: clerk
spec:
  model: default
  systemPrompt: You are a clerk.
  turnDeadline: 5m
```

Fields are written in camelCase. A duration is a number and its unit: `100ms`, `30s`, `5m`, `1.5h`. An enum's value is
its full name. A secret is a reference (`apiKey: {{env: NAME}}` or `{{file: PATH}}`), never a value. Text that YAML
reads as something else (`1.0`, `yes`, a date) is quoted. A file has at most 1 MiB. Every mistake is told with file,
line, field and the nearest known name, and nothing changes.

"""

_ABSENT = re.compile(r"Absent(?: or 0)? (?:means )?(?P<default>[^.]*(?:\.\d+[^.]*)*)\.\s*")
_WORDS = {
    "string": "text",
    "bool": "`true` or `false`",
    "double": "number",
    "uint32": "whole number",
    "Duration": "duration",
}


def page() -> str:
    """Metadata, each kind, then the messages that they share."""
    enums = {one.name: one for contract in contracts() for one in contract.enums}
    parts = [INTRODUCTION, _section("metadata", message("Metadata"))]
    shared: dict[str, None] = {}
    for kind, spec in SPECS.items():
        declared = message(spec.DESCRIPTOR.name)
        parts.append(_section(kind, declared))
        shared |= dict.fromkeys(_below(declared))
    for name in shared:
        parts.append(_enum(enums[name]) if name in enums else _section(name, message(name)))
    return "\n".join(parts)


def meaning(member: Member) -> tuple[str, str]:
    """(default, the rest) of a field's comment."""
    comment = member.comment
    if "Required." in comment:
        return "required", comment.replace("Required.", "").strip()
    if found := _ABSENT.search(comment):
        default = found["default"].strip().replace("leaves it to", "left to")
        return default, (comment[: found.start()] + comment[found.end() :]).strip()
    return "", comment


def _meaning(member: Member) -> tuple[str, str]:
    default, rest = meaning(member)
    return (f"one of {code(member.oneof)}", rest) if member.oneof else (default, rest)


def camel(name: str) -> str:
    """A field as manifests spell it."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _section(title: str, declared: Declaration) -> str:
    rows = ([code(camel(one.name)), _holds(one), *_meaning(one)] for one in declared.members)
    return f"## {title}\n\n{declared.comment}\n\n" + table(["field", "holds", "default", "meaning"], rows)


def _enum(declared: Declaration) -> str:
    rows = ([code(one.name), one.comment] for one in declared.members if not one.name.endswith("_UNSPECIFIED"))
    return f"## {declared.name}\n\n{declared.comment}\n\n" + table(["value", "meaning"], rows)


def _holds(member: Member) -> str:
    base = member.type.removeprefix("repeated ")
    if base.startswith("map<"):
        return "map of text to text"
    word = _WORDS.get(base) or f"[{base}](#{anchor(base)})"
    return f"list of {word}" if member.type.startswith("repeated ") else word


def _below(declared: Declaration) -> Iterator[str]:
    for member in declared.members:
        base = member.type.removeprefix("repeated ")
        if base not in _WORDS and not base.startswith("map<"):
            yield base
            known = {one.name for contract in contracts() for one in contract.messages}
            if base in known:
                yield from _below(message(base))
