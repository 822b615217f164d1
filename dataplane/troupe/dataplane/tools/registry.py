"""From a declared Tool to the function that it names."""

import importlib
import re
import traceback
from dataclasses import replace

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, TroupeError, Unimplemented
from troupe.chassis.wire import seconds
from troupe.dataplane.tools.tool import Tool
from troupe.v1 import resource_pb2

_ENTRY_POINT = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def resolve(metadata: resource_pb2.Metadata, spec: resource_pb2.ToolSpec) -> Tool:
    """Import the tool that `spec` names, under the resource's name. What the spec says of description, idempotence,
    timeout and compensation goes before what the function says (idempotent: either one's word is enough).

    Imports modules, so it may block: call it where that hurts nobody. Raises InvalidArgument (BAD_ENTRY_POINT,
    NOT_A_TOOL), FailedPrecondition (TOOL_NOT_FOUND, TOOL_IMPORT_FAILED) or Unimplemented (ISOLATION, TOOL_SOURCE),
    each with the resource `Tool/namespace/name`."""
    resource = f"Tool/{metadata.namespace or 'default'}/{metadata.name}"
    _check_isolation(spec, resource)
    if spec.WhichOneof("source") != "python":
        raise Unimplemented("TOOL_SOURCE", f"{resource}: only python tools are built", resource=resource)
    found = _load(spec.python.entry_point, resource)
    return replace(
        found,
        name=metadata.name,
        description=spec.description or found.description,
        idempotent=spec.idempotent or found.idempotent,
        timeout=seconds(spec.timeout) if spec.HasField("timeout") else found.timeout,
        resource=resource,
        compensation=spec.compensation or found.compensation,
    )


def _check_isolation(spec: resource_pb2.ToolSpec, resource: str) -> None:
    if spec.isolation in (resource_pb2.ISOLATION_UNSPECIFIED, resource_pb2.ISOLATION_INPROCESS):
        return
    known = spec.isolation in resource_pb2.Isolation.values()
    level = resource_pb2.Isolation.Name(spec.isolation) if known else str(spec.isolation)
    raise Unimplemented(
        "ISOLATION",
        f"{resource}: isolation {level.removeprefix('ISOLATION_')} is not built yet, and a tool is never run with "
        "less than it asks for; declare INPROCESS if you trust its code",
        resource=resource,
    )


def _load(entry_point: str, resource: str) -> Tool:
    if not _ENTRY_POINT.fullmatch(entry_point):
        what = f"{resource}: entry point {entry_point!r} is not of the form package.module:function"
        raise InvalidArgument("BAD_ENTRY_POINT", what, resource=resource)
    name, _, attribute = entry_point.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            what = f"{resource}: no module {error.name}; install it on the worker, or put it on its python path"
            raise FailedPrecondition("TOOL_NOT_FOUND", what, resource=resource) from error
        raise _import_failed(name, resource, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(name, resource, error) from error
    try:
        found = getattr(module, attribute)
    except AttributeError as error:
        what = f"{resource}: module {name} has no {attribute}"
        raise FailedPrecondition("TOOL_NOT_FOUND", what, resource=resource) from error
    if not isinstance(found, Tool):
        what = f"{resource}: {entry_point} is not a tool; mark the function with @tool"
        raise InvalidArgument("NOT_A_TOOL", what, resource=resource)
    return found


def _import_failed(name: str, resource: str, error: BaseException) -> TroupeError:
    last = " ".join(traceback.format_exception_only(error)[-1].split())
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (frame.filename, frame.lineno)
    what = f"{resource}: importing {name} failed with {last} ({where[0]}:{where[1]})"
    return FailedPrecondition("TOOL_IMPORT_FAILED", what, resource=resource)
