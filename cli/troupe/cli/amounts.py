"""Amounts of workers as people write them: `3`, or `25%` of those that are alive."""

import re
from typing import Final

import typer

from troupe.v1.rollout_pb2 import WorkerShare

MOST: Final = 65_536
"""Workers that an amount can count."""

_AMOUNT = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,9})?) ?(?P<percent>%)?", re.ASCII)


def parse(text: str) -> WorkerShare:
    """Any amount. A usage error where it is none, or out of range."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no amount of workers; write for example 3, or 25% of those that are alive"
        )
    if found["percent"]:
        percent = float(found["number"])
        if percent > 100:
            raise typer.BadParameter(f"{text} is more than all workers; write 0% to 100%")
        return WorkerShare(percent=percent)
    if "." in found["number"]:
        raise typer.BadParameter(f"{text} is no whole number of workers; write {text}% for a share of them")
    if int(found["number"]) > MOST:
        raise typer.BadParameter(f"{text} is too many workers; write 0 to {MOST:,}, or a share such as 25%")
    return WorkerShare(workers=int(found["number"]))


def parse_some(text: str) -> WorkerShare:
    """An amount of one worker at least, or of more than 0 %. A usage error otherwise."""
    share = parse(text)
    if not (share.workers or share.percent):
        raise typer.BadParameter(f"{text} would let nobody go on; write at least 1, or more than 0%")
    return share


def shown(share: WorkerShare) -> str:
    """For people: `3`, `25%`."""
    return f"{share.percent:g}%" if share.WhichOneof("kind") == "percent" else str(share.workers)
