"""The page of errors, from the calls in the source that make them."""

import ast
import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.rpc import code_pb2

import troupe
from generation.markdown import code, table
from troupe.chassis.errors import FailedPrecondition, TroupeError

PACKAGES = ("chassis", "resources", "broker", "controlplane", "dataplane", "cli")
THROUGH = ("_fail", "failure")
"""What makes errors by another name: the pure kernel, and templates. Those are raised as FailedPrecondition."""

INTRODUCTION = """# Errors

Every error has a gRPC code, a *reason* that programs branch on, and one sentence for people: what, why, what to do.
Over gRPC the reason is `google.rpc.ErrorInfo.reason` (domain `troupe.dev`); wrong fields are in `BadRequest`, the delay
in `RetryInfo`. `ErrorInfo.metadata["source"]` is `turn` (this is the stored end of the message: the same id gets the
same answer) or `gateway` (the call itself failed: try again). *Retryable* errors of a turn are tried again as the
agent's `retry` says. In the sentences below `…` stands for what is filled in.

"""

TOOLS = """
## What a model is told of a failed tool call

Not errors of the turn: the model gets the text and goes on.

"""


@dataclass(frozen=True, slots=True, order=True)
class Reason:
    """One reason as one place in the source makes it."""

    reason: str
    error: str
    sentence: str


def page() -> str:
    """The reasons by gRPC code, retryable or not, with their sentences."""
    classes = error_classes()
    found = sorted({reason for path in _sources() for reason in reasons(path.read_text(encoding="utf-8"), classes)})
    by_code: dict[int, dict[tuple[str, bool], list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        kind = classes[one.error]
        by_code[kind.code][one.reason, kind.retryable].append(one.sentence)
    parts = [INTRODUCTION]
    for number, rows in sorted(by_code.items()):
        parts.append(f"## {code_pb2.Code.Name(number)}\n\n")
        lines = (
            [code(reason), "yes" if retryable else "no", " / ".join(dict.fromkeys(filter(_says, sentences)))]
            for (reason, retryable), sentences in sorted(rows.items())
        )
        parts.append(table(["reason", "retryable", "sentence"], lines) + "\n")
    return "".join(parts).rstrip("\n") + "\n" + TOOLS + _tools()


def error_classes() -> Mapping[str, type[TroupeError]]:
    """Every class of errors by its name."""
    for package in PACKAGES:
        for found in pkgutil.walk_packages([f"{path}/{package}" for path in troupe.__path__], f"troupe.{package}."):
            importlib.import_module(found.name)
    return {kind.__name__: kind for kind in _derived(TroupeError)}


def reasons(source: str, classes: Mapping[str, type[TroupeError]]) -> Iterator[Reason]:
    """What the source makes: `NotFound("REASON", sentence)`, and the same through `cls` and `super().__init__`."""
    tree = ast.parse(source)
    for node, within in _calls(tree, ""):
        match node.func:
            case ast.Name("cls") | ast.Attribute(ast.Call(ast.Name("super")), "__init__") if within in classes:
                name, arguments = within, node.args
            case ast.Name(name) | ast.Attribute(_, name) if name in classes:
                arguments = node.args
            case ast.Name(called) if called in THROUGH and not _of_a_tool(node):
                name = FailedPrecondition.__name__
                arguments = [one for one in node.args if not isinstance(one, ast.Name) or one.id != "state"]
            case _:
                continue
        match arguments:
            case [ast.Constant(str(reason)), ast.Constant("")]:
                continue  # says nothing to anybody: what there was to say has been said
            case [ast.Constant(str(reason)), *rest]:
                yield Reason(reason, name, text(rest[0] if rest else None, _assigned(tree, node)))


def text(node: ast.expr | None, assigned: Mapping[str, ast.expr] | None = None) -> str:
    """A literal's text, with `…` for what is only known when it runs."""
    match node:
        case None:
            return ""
        case ast.Constant(str(value)):
            return value
        case ast.JoinedStr(values):
            return "".join(text(value) for value in values)
        case ast.BinOp(left, ast.Add(), right):
            return text(left, assigned) + text(right, assigned)
        case ast.Name(name) if assigned and name in assigned:
            return text(assigned[name])
        case _:
            return "…"


def _says(sentence: str) -> bool:
    """Whether there is a word in it."""
    return any(letter.isalpha() for letter in sentence)


def _assigned(tree: ast.Module, call: ast.Call) -> Mapping[str, ast.expr]:
    """The names to which the function around the call gives a value above it; the nearest one counts."""
    functions = [
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
        and one.lineno <= call.lineno <= (one.end_lineno or one.lineno)
    ]
    above = (
        one
        for function in functions
        for one in ast.walk(function)
        if isinstance(one, ast.Assign) and one.lineno < call.lineno
    )
    return {
        target.id: one.value
        for one in sorted(above, key=lambda one: one.lineno)
        for target in one.targets
        if isinstance(target, ast.Name)
    }


def _calls(node: ast.AST, within: str) -> Iterator[tuple[ast.Call, str]]:
    for child in ast.iter_child_nodes(node):
        inside = child.name if isinstance(child, ast.ClassDef) else within
        if isinstance(child, ast.Call):
            yield child, inside
        yield from _calls(child, inside)


def _derived(kind: type[TroupeError]) -> Iterator[type[TroupeError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _derived(one)


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        for path in troupe.__path__:
            yield from sorted(Path(path, package).rglob("*.py"))


def _tools() -> str:
    said: dict[str, list[str]] = defaultdict(list)
    for reason, sentence in sorted(_tool_failures()):
        said[reason] += [sentence] if _says(sentence) else []
    return table(["code", "text"], ([code(reason), " / ".join(sentences) or "…"] for reason, sentences in said.items()))


def _tool_failures() -> Iterator[tuple[str, str]]:
    for path in _sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node, _ in _calls(tree, ""):
            match node:
                case ast.Call(ast.Name("failure"), [ast.Constant(str(reason)), sentence, *_]) if _of_a_tool(node):
                    yield reason, text(sentence, _assigned(tree, node))


def _of_a_tool(call: ast.Call) -> bool:
    """`failure(CODE, why)` of the tools, which know no resource at fault."""
    return isinstance(call.func, ast.Name) and call.func.id == "failure" and "resource" not in _keywords(call)


def _keywords(call: ast.Call) -> list[str | None]:
    return [one.arg for one in call.keywords]
