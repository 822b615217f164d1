"""Logs: one event per line on stderr, as JSON or for people, whoever writes it.

Keys: `time` (ISO 8601, UTC), `level`, `event`, `service`, `trace_id` inside a span, then what the call gave.
Lines of libraries that use `logging` (grpc, asyncio, aiohttp) come out the same way, with `logger` beside.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from troupe.chassis.service import LogFormat, LogLevel

_FIRST = ("time", "level", "event", "service", "trace_id")


def configure(format: LogFormat = "auto", level: LogLevel = "info", service: str = "troupe") -> None:  # noqa: A002
    """Set up logging for the whole process; again replaces it. `service` stands in lines of code that is in no
    service's task (see `within`). `auto` writes for people where stderr is a terminal."""
    stream = sys.stderr
    human = stream.isatty() if format == "auto" else format == "human"
    shared = _processors(service)
    renderer = _for_people(stream) if human else _for_machines()
    severity = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=False,
    )
    _route_stdlib(stream, severity, shared, renderer)


def configure_library() -> None:
    """Lines go to the logger `troupe` of `logging`, as those of any library: where they come out, from which level on
    and how, is the program's to say. Without a word from it Python writes warnings and worse to stderr."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _add_trace_id,
            structlog.dev.ConsoleRenderer(
                colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=lambda *_: logging.getLogger("troupe"),
        cache_logger_on_first_use=False,
    )


@contextlib.contextmanager
def within(service: str) -> Iterator[None]:
    """Lines written inside, and by tasks that start inside, are those of `service`."""
    with structlog.contextvars.bound_contextvars(service=service):
        yield


class _Lines:
    """Writes lines. A reader that went away (`troupe up 2>&1 | head`) must not take the service with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


def _route_stdlib(stream: TextIO, severity: int, shared: list[Processor], renderer: list[Processor]) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(severity)
    # A line per request is the metrics' business, and asyncio tells at debug level which selector it uses.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _for_people(stream: TextIO) -> list[Processor]:
    # The default traceback shows local variables, and with them prompts and secrets.
    plain = structlog.dev.plain_traceback
    return [
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), timestamp_key="time", pad_event_to=0, exception_formatter=plain
        )
    ]


def _for_machines() -> list[Processor]:
    return [structlog.processors.format_exc_info, _ordered, structlog.processors.JSONRenderer()]


def _processors(service: str) -> list[Processor]:
    def add_service(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        add_service,
        _add_trace_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]


def _add_trace_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
    return event


def _ordered(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    first: dict[str, Any] = {key: event.pop(key) for key in _FIRST if key in event}
    return first | dict(event)
