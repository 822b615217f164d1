"""What is wrong in manifests, each with the place to look at."""

from collections.abc import Iterable
from dataclasses import dataclass

from troupe.chassis.errors import InvalidArgument, Violation


@dataclass(frozen=True, slots=True)
class ManifestError:
    """One mistake. `line` and `column` count from 1; 0 where the place is not known. `path` is the field's path as
    the manifest spells it (`spec.tools[1]`), empty for a whole document. `suggestion` is the nearest known name."""

    file: str
    line: int
    column: int
    path: str
    problem: str
    suggestion: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        hint = f'; did you mean "{self.suggestion}"?' if self.suggestion else ""
        return ": ".join(part for part in (place, self.path, self.problem) if part) + hint


class InvalidManifest(InvalidArgument):
    """Manifests that cannot be taken; `errors` has every mistake of every file, in the order of the text. The
    message is the first one, and how many follow."""

    def __init__(self, errors: Iterable[ManifestError]) -> None:
        self.errors = tuple(errors)
        more = len(self.errors) - 1
        super().__init__(
            "INVALID_MANIFEST",
            str(self.errors[0]) + (f" (and {more} more)" if more else ""),
            violations=[
                Violation(f"{error.file}:{error.line} {error.path}".strip(), error.problem) for error in self.errors
            ],
        )
