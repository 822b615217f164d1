"""Whether a file changed."""

from pathlib import Path

Stamp = tuple[int, int, int] | None
"""Differs where the file was written or replaced; None where there is no file to look at."""


def stamp(path: Path | None) -> Stamp:
    """The stamp now."""
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat is not None else None
