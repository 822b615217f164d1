"""What resource.proto's comments demand of one spec by itself. Paths are those of a manifest: `maxSteps`."""

import re
from collections.abc import Iterator
from typing import assert_never
from urllib.parse import urlsplit

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from troupe.resources.paths import shown
from troupe.v1.resource_pb2 import (
    ActorSpec,
    AgentSpec,
    Isolation,
    ModelSpec,
    ModelTimeouts,
    RetryPolicy,
    SecretRef,
    ToolSpec,
    UnknownOutcomePolicy,
)

Finding = tuple[str, str]
"""Path within the spec, and what is wrong there."""

Spec = AgentSpec | ActorSpec | ModelSpec | ToolSpec

MAX_TOOLS = 128
_ENTRY_POINT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MILLISECOND, _SECOND, _HOUR = 10**6, 10**9, 3600 * 10**9


def findings(spec: Message) -> Iterator[Finding]:
    """All that is wrong with the spec, field by field."""
    yield from _unknown_fields(spec, "")
    match spec:
        case AgentSpec():
            yield from _agent(spec)
        case ActorSpec():
            yield from _entry_point("entryPoint", spec.entry_point)
            yield from _tools(spec, "the actor")
            yield from _turns(spec)
            yield from _whole(spec, "max_batch", 1, 1_000)
        case ModelSpec():
            yield from _model(spec)
        case ToolSpec():
            yield from _tool(spec)
        case _:
            raise TypeError(f"{spec.DESCRIPTOR.full_name} is no spec")


def _agent(spec: AgentSpec) -> Iterator[Finding]:
    if not spec.model:
        yield "model", "required: the name of a Model"
    yield from _tools(spec, "the model")
    yield from _whole(spec, "max_steps", 1, 1_000)
    yield from _turns(spec)
    yield from _whole(spec, "context_tokens", 256, 10_000_000)
    if spec.HasField("temperature") and not 0 <= spec.temperature <= 2:
        yield "temperature", f"must be 0 to 2, not {spec.temperature:g}"
    yield from _whole(spec, "max_output_tokens", 1, 2**32 - 1)
    yield from _whole(spec, "max_repeated_calls", 1, 100)


def _tools(spec: AgentSpec | ActorSpec, caller: str) -> Iterator[Finding]:
    if len(spec.tools) > MAX_TOOLS:
        yield "tools", f"has {len(spec.tools)} entries, at most {MAX_TOOLS} are taken"
    first: dict[str, int] = {}
    for index, reference in enumerate(spec.tools):
        name = reference.rpartition("/")[2]
        if first.setdefault(name, index) != index:
            other = f"tools[{first[name]}]"
            yield f"tools[{index}]", f'{caller} would see two tools named "{shown(name)}": this and {other}'


def _turns(spec: AgentSpec | ActorSpec) -> Iterator[Finding]:
    yield from _duration(spec, "turn_deadline", _SECOND, 24 * _HOUR)
    yield from _duration(spec, "retention", 60 * _SECOND, 10 * 8_766 * _HOUR)
    if spec.unknown_outcome not in UnknownOutcomePolicy.values():
        yield "unknownOutcome", f"{spec.unknown_outcome} is no value of it that this version knows"
    if spec.HasField("retry"):
        for path, problem in _retry(spec.retry):
            yield f"retry.{path}", problem


def _retry(policy: RetryPolicy) -> Iterator[Finding]:
    yield from _whole(policy, "max_retries", 0, 20)
    wrong = [*_duration(policy, "initial_delay", _MILLISECOND, _HOUR), *_duration(policy, "max_delay", 0, _HOUR)]
    yield from wrong
    initial = _nanoseconds(policy.initial_delay) if policy.HasField("initial_delay") else 100 * _MILLISECOND
    longest = _nanoseconds(policy.max_delay) if policy.HasField("max_delay") else 1600 * _MILLISECOND
    if not wrong and longest < initial:
        place = "maxDelay" if policy.HasField("max_delay") else "initialDelay"
        yield place, f"maxDelay ({_written(longest)}) must be at least initialDelay ({_written(initial)})"


def _model(spec: ModelSpec) -> Iterator[Finding]:
    if spec.base_url:
        problem = _url_problem(spec.base_url)
        if problem:
            yield "baseUrl", problem
    if spec.HasField("api_key"):
        yield from _secret("apiKey", spec.api_key)
    yield from _whole(spec, "max_concurrency", 1, 100_000)
    if spec.HasField("timeouts"):
        for field in ModelTimeouts.DESCRIPTOR.fields:
            for path, problem in _duration(spec.timeouts, field.name, _MILLISECOND, 24 * _HOUR):
                yield f"timeouts.{path}", problem


def _url_problem(url: str) -> str:
    """What is wrong with it, without repeating it: it may hold a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no URL; write http://host:port/v1"
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        return "must be an http or https URL with a host, such as http://host:port/v1"
    if parts.username is not None or parts.password is not None:
        return "holds a user name or password; give the secret in apiKey, by reference"
    if parts.query or parts.fragment:
        return "must end with its path: no ? and no #"
    return ""


def _secret(path: str, secret: SecretRef) -> Iterator[Finding]:
    """A value that is no valid source is not repeated: it may be the secret itself."""
    match secret.WhichOneof("source"):
        case None:
            yield path, "needs a source: env or file"
        case "env":
            if not _VARIABLE.fullmatch(secret.env):
                yield f"{path}.env", "must be the name of an environment variable, never the secret itself"
        case "file":
            if not secret.file or "\0" in secret.file:
                yield f"{path}.file", "must be the path of a file on the worker"
        case never:
            assert_never(never)


def _tool(spec: ToolSpec) -> Iterator[Finding]:
    match spec.WhichOneof("source"):
        case None:
            yield "python", "required: where the tool comes from"
        case "python":
            yield from _entry_point("python.entryPoint", spec.python.entry_point)
        case never:
            assert_never(never)
    yield from _duration(spec, "timeout", _MILLISECOND, 24 * _HOUR)
    match spec.isolation:
        case Isolation.ISOLATION_UNSPECIFIED | Isolation.ISOLATION_INPROCESS:
            pass
        case Isolation.ISOLATION_PROCESS | Isolation.ISOLATION_BUBBLEWRAP:
            yield "isolation", f"{Isolation.Name(spec.isolation)} is not built yet; use ISOLATION_INPROCESS"
        case unknown:
            yield "isolation", f"{unknown} is no value of it that this version knows"


def _entry_point(path: str, value: str) -> Iterator[Finding]:
    if not value:
        yield path, "required: package.module:attribute"
    elif len(value) > 512 or not _ENTRY_POINT.fullmatch(value):
        yield path, f'must have the form package.module:attribute, not "{shown(value)}"'


def _whole(message: Message, name: str, least: int, most: int) -> Iterator[Finding]:
    if message.HasField(name) and not least <= getattr(message, name) <= most:
        path = message.DESCRIPTOR.fields_by_name[name].json_name
        yield path, f"must be {least:,} to {most:,}, not {getattr(message, name):,}"


def _duration(message: Message, name: str, least: int, most: int) -> Iterator[Finding]:
    if not message.HasField(name):
        return
    value: Duration = getattr(message, name)
    if not (0 <= value.nanos < 10**9 and least <= _nanoseconds(value) <= most):
        path = message.DESCRIPTOR.fields_by_name[name].json_name
        bounds = f"{_written(least)} to {_written(most)}" if least else f"at most {_written(most)}"
        yield path, f"must be {bounds}, not {_written(_nanoseconds(value))}"


def _nanoseconds(value: Duration) -> int:
    return value.seconds * 10**9 + value.nanos


def _written(nanoseconds: int) -> str:
    for unit, size in (("h", _HOUR), ("m", 60 * _SECOND), ("s", _SECOND)):
        if nanoseconds and nanoseconds % size == 0:
            return f"{nanoseconds // size}{unit}"
    return f"{nanoseconds / _MILLISECOND:.9g}ms" if abs(nanoseconds) < _SECOND else f"{nanoseconds / _SECOND:.9g}s"


def _unknown_fields(message: Message, path: str) -> Iterator[Finding]:
    """What a newer version added would be ignored in silence: refused instead."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = ", ".join(sorted({str(unknown[index].field_number) for index in range(min(len(unknown), 10))}))
        yield path, f"has fields that this version does not know (numbers {numbers}); update it first"
    for field, value in message.ListFields():
        if field.message_type is not None and not field.is_repeated:
            yield from _unknown_fields(value, f"{path}.{field.json_name}" if path else field.json_name)
