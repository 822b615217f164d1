"""The edge of every command: what it raises becomes one line on stderr and an exit code.

0: done. 1: failed. 2: misused, the request or a file is wrong in itself. 130: interrupted by Ctrl-C.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import typer

from troupe.chassis.errors import InvalidArgument, TroupeError

FAILED = 1
MISUSED = 2
INTERRUPTED = 130


class Refused(TroupeError):
    """The command did what it was asked and the answer is no; what there is to say was printed already."""

    def __init__(self, exit_code: int = FAILED) -> None:
        super().__init__("REFUSED", "")
        self.exit_code = exit_code


@contextlib.contextmanager
def reported(*, debug: bool) -> Iterator[None]:
    """Turn what the body raises into `typer.Exit`. With `debug` the traceback is printed too. A reader of stdout
    that has gone away (`| head`) ends the command in silence.

    gRPC's own notes on connections are no news for a terminal; whoever wants them sets GRPC_VERBOSITY."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, typer.TyperException, typer.Abort):
        raise
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:
        _let_go_of_stdout()
        raise typer.Exit(0) from error
    except BaseException as error:
        if not isinstance(error, Exception | BaseExceptionGroup):
            raise
        if debug:
            traceback.print_exc()
        raise typer.Exit(_report(first_failure(error))) from error


def complain(text: str) -> None:
    """One line on stderr, for people and for logs, after all that was said on stdout before."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print("error: " + " ".join(text.split()), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """One line on stderr that is no error: what a person wants to know and a program that reads stdout does not."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _report(error: BaseException) -> int:
    match error:
        case Refused():
            return error.exit_code
        case InvalidArgument():
            complain(str(error))
            return MISUSED
        case TroupeError():
            complain(str(error))
            return FAILED
        case KeyboardInterrupt():
            return INTERRUPTED
        case UnicodeEncodeError(reason="surrogates not allowed"):
            complain("what was typed is no UTF-8; type it in a terminal whose encoding that is")
            return MISUSED
        case _:
            name = type(error).__name__
            complain(f"{name}: {error}; this is a defect of troupe; run it again with --debug and report what it says")
            return FAILED


def first_failure(error: BaseException) -> BaseException:
    """The first failure of a task group: those after it are mostly its consequences. Anything else as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _let_go_of_stdout() -> None:
    """Python flushes stdout once more as it exits, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
