"""A turn's ledger as a small table whose rows visibly sum to the wall time."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from rich.table import Table
from rich.text import Text

from troupe.cli.output import word
from troupe.v1 import turn_pb2

BAR = 20
"""Columns of a bar that stands for the whole wall time."""

_EIGHTHS = " ▏▎▍▌▋▊▉"
_UNITS = (
    (10**6, "µs", 10**3, 1),
    (10**10, "ms", 10**6, 1),
    (6 * 10**11, "s", 10**9, 2),
)
"""Wall times below the first number, in nanoseconds, are shown in this unit, of this size, with this many decimals."""
_LONGEST = ("s", 10**9, 0)


def ledger_table(ledger: turn_pb2.Ledger) -> Table:
    """Cause, time, share and bar; longest cause first, then `residual`, then `wall`. All times are in one unit, and
    rounded so that the times above `wall` sum to it as printed, and so do the shares."""
    wall = ledger.wall.ToNanoseconds()
    causes = sorted(
        ((cause_name(row.cause), row.duration.ToNanoseconds()) for row in ledger.rows), key=lambda row: -row[1]
    )
    rows = [*causes, ("residual", ledger.residual.ToNanoseconds())]
    unit, size, decimals = _unit(wall)
    parts = [nanos for _, nanos in rows]
    times = apportioned(parts, round(Fraction(sum(parts) * 10**decimals, size)))
    shares = apportioned(parts, 1000)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for title, justify in (("where the time went", "left"), ("time", "right"), ("share", "right"), ("", "left")):
        shown.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a literal by construction
    for (name, nanos), time, share in zip(rows, times, shares, strict=True):
        style = "dim" if name == "residual" else ""
        shown.add_row(name, _decimal(time, decimals, unit), _decimal(share, 1, "%"), _bar(nanos, wall), style=style)
    total = round(Fraction(wall * 10**decimals, size))
    shown.add_row("wall", _decimal(total, decimals, unit), _decimal(sum(shares), 1, "%"), "", style="bold")
    return shown


def cause_name(cause: turn_pb2.LedgerCause.ValueType) -> str:
    """`LEDGER_CAUSE_MODEL_FIRST_TOKEN` as `model first token`; a cause of a newer server as its number."""
    try:
        return word(turn_pb2.LedgerCause.Name(cause), "LEDGER_CAUSE_").lower().replace("_", " ")
    except ValueError:
        return f"cause {cause}"


def apportioned(amounts: Sequence[int], total: int) -> list[int]:
    """`total` units shared out in proportion to `amounts`, by largest remainder: the result sums to `total` exactly
    and each part is its exact share rounded down or up. All zero where the amounts are."""
    whole = sum(amounts)
    if whole <= 0:
        return [0] * len(amounts)
    exact = [Fraction(amount * total, whole) for amount in amounts]
    parts = [int(share) for share in exact]
    by_remainder = sorted(range(len(amounts)), key=lambda index: (parts[index] - exact[index], index))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _unit(wall: int) -> tuple[str, int, int]:
    for limit, unit, size, decimals in _UNITS:
        if wall < limit:
            return unit, size, decimals
    return _LONGEST


def _decimal(value: int, decimals: int, unit: str) -> str:
    return f"{Decimal(value).scaleb(-decimals):,.{decimals}f} {unit}"


def _bar(part: int, whole: int) -> Text:
    eighths = round(Fraction(part * BAR * 8, whole)) if whole else 0
    if part and not eighths:
        eighths = 1
    full, rest = divmod(eighths, 8)
    return Text("█" * full + (_EIGHTHS[rest] if rest else ""), style="cyan")
