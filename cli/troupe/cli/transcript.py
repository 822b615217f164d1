"""A turn as it is shown while it happens: the answer's text, the tool calls with their results, the ledger."""

import json
import sys
from typing import TextIO

from rich.text import Text

from troupe.chassis.wire import seconds
from troupe.cli import durations, moments, names
from troupe.cli.ledger_view import ledger_table
from troupe.cli.output import Output, counted, printable, word
from troupe.v1 import turn_pb2

SHOWN = 500
"""Characters of a tool's arguments or result that are shown."""


class Transcript:
    """Shows the events of one turn, as they come; `show` answers whether the turn goes on."""

    def __init__(self, output: Output, stream: TextIO | None = None) -> None:
        self._output = output
        self._stream = stream or sys.stdout
        self._shown = ""
        self._calls: set[tuple[str, str]] = set()
        """Starts and ends of calls that stand: an attempt that goes on after a wait comes to them again."""
        self.calls = 0
        self.fate: turn_pb2.Fate.ValueType = turn_pb2.FATE_RUNNING

    def show(self, event: turn_pb2.Event) -> None:
        """Show one event. In the formats for programs it is a line of JSON."""
        kind = event.WhichOneof("kind")
        if self._output.human and self._stands(event):
            return
        if kind == "tool_call_started":
            self.calls += 1
        elif kind == "completed":
            self.fate = turn_pb2.FATE_DONE
        elif kind == "failed":
            self.fate = event.failed.fate
        if self._output.human:
            self._show(event)
        else:
            self._output.event(event)

    def _show(self, event: turn_pb2.Event) -> None:
        match event.WhichOneof("kind"):
            case "token_delta":
                self._write(event.token_delta.text)
            case "tool_call_started":
                self._line(Text(f"→ {call_text(event.tool_call_started)}", style="cyan"))
            case "tool_call_finished":
                self._line(_finished(event.tool_call_finished))
            case "sealed":
                self._line(Text(_void(event), style="yellow"))
                self._shown = ""
            case "suspended":
                for line in _waits(event):
                    self._line(Text(line, style="yellow"))
            case "completed":
                self._completed(event.completed)
            case "failed":
                self._failed(event.failed)
            case _:
                pass

    def _stands(self, event: turn_pb2.Event) -> bool:
        """Whether the event is of a call that was shown before, and counts."""
        match event.WhichOneof("kind"):
            case "sealed":
                self._calls.clear()
                return False
            case "tool_call_started" | "tool_call_finished" as kind:
                call = kind, getattr(event, kind).call_id
                known = call in self._calls
                self._calls.add(call)
                return known
            case _:
                return False

    def _completed(self, completed: turn_pb2.Completed) -> None:
        result = completed.result
        text = result.text if result.HasField("text") else f"({result.data.content_type}, {len(result.data.value)} B)"
        if not self._shown.strip().endswith(text.strip()):
            self._break()
            self._write(text)
        self._break()
        self._output.say(Text())
        if completed.HasField("ledger"):
            self._output.say(ledger_table(completed.ledger))
            self._output.say(Text(usage(completed.usage), style="dim"))

    def _failed(self, failed: turn_pb2.Failed) -> None:
        fate = word(turn_pb2.Fate.Name(failed.fate), "FATE_").lower()
        why = printable(failed.error.message) or failed.error.reason
        self._line(Text(f"{fate}: {why}" if why else fate, style="red"))
        if failed.HasField("ledger"):
            self._output.say(Text(), ledger_table(failed.ledger))

    def _write(self, text: str) -> None:
        self._shown += text
        self._stream.write(printable(text))
        self._stream.flush()

    def _line(self, line: Text) -> None:
        self._break()
        self._shown += "\n"
        self._output.say(line)

    def _break(self) -> None:
        if self._shown and not self._shown.endswith("\n"):
            self._write("\n")


def usage(used: turn_pb2.Usage) -> str:
    """One line on what the model calls used."""
    cached = f" ({used.cached_prompt_tokens} cached)" if used.cached_prompt_tokens else ""
    return (
        f"{counted(used.model_calls, 'model call')}, {counted(used.tool_calls, 'tool call')}, "
        f"{used.prompt_tokens}{cached} + {used.completion_tokens} tokens"
    )


def call_text(call: turn_pb2.ToolCallStarted) -> str:
    """`calculator(expression="6 * 7")`; arguments that are no JSON object as they came."""
    try:
        values = json.loads(call.arguments)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        return _cut(f"{call.tool} {call.arguments}")
    shown = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items())
    return _cut(f"{call.tool}({', '.join(shown)})")


def _finished(call: turn_pb2.ToolCallFinished) -> Text:
    after = "from the journal" if call.replayed else durations.shown(seconds(call.duration))
    if call.failed:
        return Text(f"← {call.tool} failed: {_cut(call.result)} ({after})", style="red")
    return Text.assemble((f"← {call.tool} {_cut(call.result)}", "cyan"), (f" ({after})", "dim"))


def _void(event: turn_pb2.Event) -> str:
    error = event.sealed.error
    why = printable(error.message) or error.reason
    again = "it starts over"
    if event.sealed.HasField("next_attempt"):
        pause = max(0.0, seconds(event.sealed.next_attempt) - seconds(event.time))
        again = f"it starts over in {durations.shown(pause)}"
    return f"attempt {event.attempt + 1} is void, what it showed does not count ({why}); {again}"


def _waits(event: turn_pb2.Event) -> list[str]:
    name = names.shown(event.session, event.message_id)
    if not event.suspended.promises:
        return [printable(f"paused; it goes on with: troupe turns resume {name}")]
    return [
        printable(f"waits for promise {names.shown(event.session, one.promise_id)}")
        + (f", until {moments.shown(one.expires)}" if one.HasField("expires") else "")
        for one in event.suspended.promises
    ]


def _cut(text: str) -> str:
    text = printable(text).replace("\n", "⏎")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"
