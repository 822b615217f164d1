"""Where a message stands, for people, and whether that counts as success."""

from rich.console import Group, RenderableType
from rich.text import Text

from troupe.cli import moments, names
from troupe.cli.ledger_view import ledger_table
from troupe.cli.output import counted, printable, word
from troupe.cli.transcript import usage
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import MessageStatus

_SETTLED = (
    turn_pb2.FATE_DONE,
    turn_pb2.FATE_DEAD,
    turn_pb2.FATE_EXPIRED,
    turn_pb2.FATE_SKIPPED,
    turn_pb2.FATE_CANCELLED,
    turn_pb2.FATE_REJECTED,
)
_STYLES = {
    turn_pb2.FATE_DONE: "green",
    turn_pb2.FATE_RUNNING: "cyan",
    turn_pb2.FATE_WAITING: "cyan",
    turn_pb2.FATE_SCHEDULED: "cyan",
    turn_pb2.FATE_UNSEEN: "yellow",
    turn_pb2.FATE_PAUSED: "yellow",
}


def settled(status: MessageStatus) -> bool:
    """Whether nothing more becomes of it."""
    return status.fate in _SETTLED


def settled_well(status: MessageStatus) -> bool:
    """Whether it has an answer."""
    return status.fate == turn_pb2.FATE_DONE


def status_view(status: MessageStatus) -> RenderableType:
    """Name and fate, then the answer or the error, then where the time went."""
    parts: list[RenderableType] = [_headline(status), *_next(status)]
    if status.HasField("result"):
        parts += [Text(), Text(_result(status))]
    if status.HasField("error"):
        parts.append(Text(f"{status.error.reason}: {printable(status.error.message)}", style="red"))
    if status.HasField("ledger"):
        parts += [Text(), ledger_table(status.ledger)]
    if status.HasField("usage"):
        parts.append(Text(usage(status.usage), style="dim"))
    return Group(*parts)


def _headline(status: MessageStatus) -> Text:
    name = printable(names.shown(status.session, status.message_id))
    fate = word(turn_pb2.Fate.Name(status.fate), "FATE_")
    due = f" for {moments.shown(status.due)}" if status.HasField("due") else ""
    attempts = f" after {counted(status.attempts, 'attempt')}" if status.attempts > 1 else ""
    failed = f", {status.failures} of them failed" if 0 < status.failures < status.attempts else ""
    unsettled = "" if settled(status) else "; not settled yet"
    return Text.assemble(f"{name} ", (fate, _STYLES.get(status.fate, "red")), f"{due}{attempts}{failed}{unsettled}")


def _next(status: MessageStatus) -> list[Text]:
    """What has to come before it goes on, where that is somebody's to do."""
    name = printable(names.shown(status.session, status.message_id))
    if status.fate == turn_pb2.FATE_PAUSED:
        return [Text(f"it goes on with: troupe turns resume {name}")]
    awaited = (printable(names.shown(status.session, promise_id)) for promise_id in status.awaits)
    return [Text(f"it waits for promise {promise}") for promise in awaited]


def _result(status: MessageStatus) -> str:
    if status.result.HasField("text"):
        return printable(status.result.text)
    data = status.result.data
    return f"({data.content_type}, {len(data.value)} bytes; -o json shows them)"
