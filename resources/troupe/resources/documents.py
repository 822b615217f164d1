"""YAML text as nodes that know their lines, within bounds on size, depth and what aliases expand to."""

from collections.abc import Iterator

import yaml

from troupe.resources.manifest_errors import ManifestError
from troupe.resources.nearest import nearest
from troupe.resources.paths import joined

MAX_BYTES = 1 << 20
"""Size of one file."""
MAX_DEPTH = 32
"""Nesting of collections: manifests need eight."""
MAX_EXPANDED = 4 << 20
"""Characters of one file once its aliases are written out."""
MAX_ERRORS = 100
"""Mistakes listed for one file; what follows the last of them is not looked at."""


class TooMany(Exception):
    """The file is given up: it has more mistakes, or expands to more, than is looked at."""


class Findings:
    """Collects the mistakes of one file while it is read, and bounds the reading."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._errors: list[ManifestError] = []
        self._expanded = 0

    def __len__(self) -> int:
        return len(self._errors)

    @property
    def errors(self) -> list[ManifestError]:
        """The mistakes in the order of the text."""
        found = sorted(self._errors, key=lambda error: (error.line, error.column))
        if len(found) == MAX_ERRORS:
            found.append(
                ManifestError(self.file, 0, 0, "", f"more than {MAX_ERRORS} mistakes: what follows is not shown")
            )
        return found

    def add(self, mark: yaml.Mark | None, path: str, problem: str, suggestion: str = "") -> None:
        """Note a mistake at `mark`. Raises TooMany after the last one that is listed."""
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        self._errors.append(ManifestError(self.file, line, column, path, problem, suggestion))
        if len(self._errors) == MAX_ERRORS:
            raise TooMany

    def read(self, node: yaml.Node) -> None:
        """Count a node that is looked at. Raises TooMany when aliases make the file larger than it may be."""
        self._expanded += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self._expanded > MAX_EXPANDED:
            self.add(node.start_mark, "", f"its aliases expand to more than {MAX_EXPANDED >> 20} MiB")
            raise TooMany

    def fields(
        self, node: yaml.MappingNode, path: str, known: tuple[str, ...]
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key and value node of each known field that is there; unknown and repeated ones are noted."""
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for name, key, value in self.pairs(node, path):
            if name in known:
                found[name] = key, value
            else:
                self.add(key.start_mark, joined(path, name), "unknown field", nearest(name, known))
        return found

    def pairs(self, node: yaml.MappingNode, path: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """Name, key node and value node of each entry with a plain key; others and repeated ones are noted."""
        first: dict[str, yaml.Node] = {}
        for key, value in node.value:
            self.read(key)
            if not isinstance(key, yaml.ScalarNode):
                self.add(key.start_mark, path, "a key must be a plain word")
            elif key.tag == "tag:yaml.org,2002:merge":
                self.add(key.start_mark, path, "merge keys (<<) are not taken; write the fields out")
            elif key.value in first:
                line = first[key.value].start_mark.line + 1
                self.add(key.start_mark, joined(path, key.value), f"is already given in line {line}")
            else:
                first[key.value] = key
                yield key.value, key, value


def documents(content: str | bytes, findings: Findings) -> Iterator[yaml.Node]:
    """The root node of each document. What cannot be read as YAML is noted and ends the iteration."""
    text = _text(content, findings)
    if text is None:
        return
    try:
        loader = _Loader(text)
        try:
            while loader.check_node():
                if (node := loader.get_node()) is not None:
                    yield node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        findings.add(error.problem_mark or error.context_mark, "", _in_plain_words(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        mark = yaml.Mark(findings.file, 0, line, 0, None, 0)
        findings.add(mark, "", f"the character #x{ord(text[error.position]):04x} is not allowed in YAML")


class _Loader(yaml.SafeLoader):
    """Composes nodes lazily and refuses depth before Python's stack would."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", self.get_mark())
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _text(content: str | bytes, findings: Findings) -> str | None:
    size = len(content if isinstance(content, bytes) else content.encode(errors="replace"))
    if size > MAX_BYTES:
        findings.add(None, "", f"the file has {size:,} bytes, at most {MAX_BYTES:,} are taken; split it")
        return None
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = yaml.Mark(findings.file, 0, content.count(b"\n", 0, error.start), 0, None, 0)
        findings.add(mark, "", "not UTF-8; save the file in that encoding")
        return None


def _in_plain_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "not YAML"
    if "'\\t'" in problem or "\t" in problem:
        return "not YAML: a tab; indent with spaces"
    context = f"{error.context}, " if error.context else ""
    return f"not YAML: {context}{problem}"
