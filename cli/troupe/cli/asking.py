"""What a person types: a yes before what cannot be taken back, or all that a command reads."""

import signal
import sys


def can_answer() -> bool:
    """Whether a person types what is read."""
    return sys.stdin.isatty()


def agreed(question: str) -> bool:
    """Whether the person says yes. Nothing, and the end of input, is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def typed() -> str:
    """All of stdin. Ctrl-C ends that at once; an event loop would wait for the end of what it runs, and so of stdin."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        return sys.stdin.read()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return sys.stdin.read()
    finally:
        signal.signal(signal.SIGINT, before)
