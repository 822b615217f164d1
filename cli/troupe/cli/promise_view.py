"""Promises for people: a line for each, and one with all that is known of it."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from troupe.cli import moments, names
from troupe.cli.columns import age
from troupe.cli.output import printable, table, word
from troupe.v1 import promise_pb2
from troupe.v1.promise_pb2 import Promise, PromiseState

TITLE = 12
"""Columns of what stands before each fact."""

_STYLES = {
    promise_pb2.PROMISE_STATE_OPEN: "cyan",
    promise_pb2.PROMISE_STATE_RESOLVED: "green",
}


def promise_table(found: Sequence[Promise]) -> Table:
    """One line for each."""
    rows = (
        (full_name(one), _state(one), age(one.created_at), moments.shown(one.expires) if _expires(one) else "-")
        for one in found
    )
    return table(("PROMISE", "STATE", "AGE", "EXPIRES"), rows, right=("AGE",))


def promise_view(promise: Promise) -> Group:
    """All that is known of one."""
    rows: dict[str, str | Text] = {
        "promise": full_name(promise),
        "state": _state(promise),
        "made": moments.shown(promise.created_at),
        "expires": moments.shown(promise.expires) if _expires(promise) else "",
        "settled": moments.shown(promise.settled_at) if promise.HasField("settled_at") else "",
        "settled by": printable(promise.settled_by),
        "approvers": printable(", ".join(promise.approvers)),
        "schema": printable(promise.json_schema),
        "reason": printable(promise.rejection),
    }
    facts = [Text.assemble((f"{title:<{TITLE}}", "bold"), value) for title, value in rows.items() if value]
    parts: list[RenderableType] = [*facts]
    if promise.HasField("value"):
        parts += [Text(), Text(_value(promise))]
    return Group(*parts)


def full_name(promise: Promise) -> str:
    """As `troupe promise` takes it."""
    return printable(names.shown(promise.session, promise.promise_id))


def settled_how(promise: Promise) -> str:
    """What became of one that somebody was too late for."""
    state = word(PromiseState.Name(promise.state), "PROMISE_STATE_")
    by = f" by {printable(promise.settled_by)}" if promise.settled_by else ""
    when = f", {age(promise.settled_at)} ago" if promise.HasField("settled_at") else ""
    return f"is {state} already{by}{when}"


def _expires(promise: Promise) -> bool:
    return promise.HasField("expires")


def _state(promise: Promise) -> Text:
    return Text(word(PromiseState.Name(promise.state), "PROMISE_STATE_"), style=_STYLES.get(promise.state, "red"))


def _value(promise: Promise) -> str:
    value = promise.value
    if value.HasField("text"):
        return printable(value.text)
    if value.data.content_type == "application/json":
        return printable(value.data.value.decode(errors="replace"))
    return f"({value.data.content_type}, {len(value.data.value)} bytes; -o json shows them)"
