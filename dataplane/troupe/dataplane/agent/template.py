"""The system prompt: a sandboxed Jinja2 template, compiled and tried once when its revision is applied.

It sees `agent`, `namespace`, `session` and `labels`; any other name is an error. It has no loader, so it cannot
include files, and the sandbox keeps it from Python's internals.
"""

from collections.abc import Mapping
from typing import Final

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, TroupeError

NAMES: Final = ("agent", "labels", "namespace", "session")
MAX_LENGTH: Final = 1024 * 1024
"""Characters of a rendered prompt."""

_environment = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=False, trim_blocks=True, lstrip_blocks=True
)


class SystemPrompt:
    """The compiled template of one agent."""

    def __init__(self, source: str, *, agent: str, namespace: str, labels: Mapping[str, str]) -> None:
        """Compiles and renders it once, for a session named `session`. Raises InvalidArgument BAD_TEMPLATE with the
        line for a syntax error, a name that does not exist, or whatever fails while it renders."""
        self._resource = f"Agent/{namespace}/{agent}"
        self._known = {"agent": agent, "namespace": namespace, "labels": dict(labels)}
        try:
            tree = _environment.parse(source)
            self._template = _environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise self._wrong(InvalidArgument, error.lineno, error.message or "syntax error") from error
        unknown = meta.find_undeclared_variables(tree) - set(NAMES)
        for name in tree.find_all(nodes.Name):
            if name.name in unknown:
                what = f"there is no {name.name!r} here; a system prompt sees {', '.join(NAMES)}"
                raise self._wrong(InvalidArgument, name.lineno, what)
        self._render("session", InvalidArgument)

    def render(self, session: str) -> str:
        """The prompt for one session; the same bytes each time. Raises FailedPrecondition BAD_TEMPLATE when it fails
        for this session only."""
        return self._render(session, FailedPrecondition)

    def _render(self, session: str, failure: type[TroupeError]) -> str:
        try:
            text = self._template.render(self._known, session=session)
        except Exception as error:  # a template runs filters and methods that raise anything
            raise self._wrong(failure, _line(error), str(error) or type(error).__name__) from error
        if len(text) > MAX_LENGTH:
            raise self._wrong(failure, 1, f"it renders to {len(text)} characters, more than {MAX_LENGTH}")
        return text

    def _wrong(self, failure: type[TroupeError], line: int, what: str) -> TroupeError:
        message = f"{self._resource} spec.systemPrompt line {line}: {what}"
        return failure("BAD_TEMPLATE", message, resource=self._resource)


def _line(error: BaseException) -> int:
    """Jinja2 puts the template's own lines into the traceback."""
    line = 1
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
