"""What tools answered, put into sentences."""

import json
import re
from typing import Any

from troupe.llm_sim.arithmetic import expressions
from troupe.llm_sim.conversation import Done

_LONGEST = 500
_ERROR = r"(?i:(?:tool\s+)?(?:error|failed|failure|exception)|\w+(?:error|exception))|[A-Z]+(?:_[A-Z]+)+"
_FAILED = re.compile(rf"\s*(?:(?:{_ERROR})\s*:|Traceback\b)")
_PREFIXES = re.compile(rf"\s*(?:(?:{_ERROR})\s*:\s*)*")


def report(done: Done) -> str:
    """One sentence with the result, or with what went wrong.

    A JSON object with `error` is a failure, and so is text that begins like `Error:`, `ValueError:`, `TOOL_FAILED:` or
    a traceback. Of a JSON object with `result`, `value`, `answer` or `output` that value is told."""
    name = done.call.function.name
    computed = _computed(done.call.function.arguments)
    value = _json(done.result)
    error = value.get("error") if isinstance(value, dict) else None
    if error or (isinstance(value, str) and _FAILED.match(value)):
        reason = error.get("message", error) if isinstance(error, dict) else error or value
        what = f"I could not compute {computed}" if computed else f"The tool {name} failed"
        return f"{what}: {_PREFIXES.sub('', _plain(reason), count=1)}."
    told = value if isinstance(value, str) else done.result
    if isinstance(value, dict):
        told = next((value[key] for key in ("result", "value", "answer", "output") if key in value), told)
    return f"{computed} = {_plain(told)}." if computed else f"The tool {name} answered: {_plain(told)}."


def _computed(arguments: str) -> str | None:
    """The arithmetic that a call was about."""
    given = _json(arguments)
    texts = [text for text in given.values() if isinstance(text, str)] if isinstance(given, dict) else []
    return next((text for text in texts if expressions(text) == [text]), None)


def _json(text: str) -> Any:
    """The value of JSON text; what is none is a string itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " …"
