"""How a difference between two sets of resources is shown."""

from typing import Any

from rich.text import Text

from troupe.resources.content import Diff, changes, key


def diff_text(difference: Diff) -> Text:
    """One line for each resource, with a line for each field of those that changed."""
    lines = [Text(f"+ {key(resource)}", style="green") for resource in difference.added]
    for old, new in difference.changed:
        lines.append(Text(f"~ {key(new)}", style="yellow"))
        lines += [Text(f"    {change}") for change in changes(old, new)]
    lines += [Text(f"- {key(resource)}", style="red") for resource in difference.removed]
    return Text("\n").join(lines)


def diff_document(difference: Diff) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        *({"action": "added", "resource": str(key(resource))} for resource in difference.added),
        *(
            {
                "action": "changed",
                "resource": str(key(new)),
                "fields": [{"path": one.path, "old": one.old, "new": one.new} for one in changes(old, new)],
            }
            for old, new in difference.changed
        ),
        *({"action": "removed", "resource": str(key(resource))} for resource in difference.removed),
    ]
