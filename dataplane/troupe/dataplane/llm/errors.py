"""What went wrong in a model call, in Troupe's words; translated here and nowhere else. Pure."""

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from troupe.chassis.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, TroupeError, Unavailable
from troupe.dataplane.llm.endpoint import ModelEndpoint
from troupe.dataplane.llm.stream import ErrorBody, ErrorInStream

MAX_BODY: Final = 4 * 1024
"""Bytes of an error's body that are read."""
MAX_SHOWN: Final = 500
"""Characters of it that are shown."""
MAX_RETRY_AFTER: Final = 3600.0
"""Seconds; a server that asks for more is asked again by then."""

_RATE_LIMITED: Final = 429
_TRY_AGAIN: Final = frozenset({408, 409, 425})
"""Client errors that are none: the same request may succeed."""


def unreachable(endpoint: ModelEndpoint, why: BaseException) -> TroupeError:
    """No connection, or one that was lost before an answer began."""
    return Unavailable(
        "MODEL_UNREACHABLE",
        f"the model endpoint {endpoint.base_url} does not answer ({shown(endpoint, str(why) or type(why).__name__)}); "
        "check that it runs and that --llm or the Model's baseUrl is right",
    )


def timed_out(endpoint: ModelEndpoint, phase: str, seconds: float) -> TroupeError:
    """A part of the call took too long. `phase` is a field of ModelTimeouts."""
    return DeadlineExceeded(
        "MODEL_TIMEOUT",
        f"{endpoint.base_url} took longer than {seconds:g} s ({_PHASES[phase]}); "
        f"raise timeouts.{_CAMEL_CASE[phase]} of the Model if that is normal",
        metadata={"phase": phase},
    )


_PHASES: Final = {
    "connect": "to connect",
    "first_token": "to begin its answer",
    "between_tokens": "between two pieces of its answer",
    "total": "for the whole call",
}
_CAMEL_CASE: Final = {
    "connect": "connect",
    "first_token": "firstToken",
    "between_tokens": "betweenTokens",
    "total": "total",
}


def cut(endpoint: ModelEndpoint, why: BaseException) -> TroupeError:
    """The answer broke off."""
    what = f"{endpoint.base_url} ended its answer before it was complete ({shown(endpoint, str(why))})"
    return Unavailable("MODEL_CUT", what)


def garbage(endpoint: ModelEndpoint, why: str) -> TroupeError:
    """The answer cannot be understood."""
    what = f"{endpoint.base_url} sent what is no chat completion ({shown(endpoint, why)}); check that it is one"
    return Unavailable("MODEL_GARBAGE", what)


def reported(endpoint: ModelEndpoint, error: ErrorInStream) -> TroupeError:
    """An error in the middle of a stream; without a code it counts as the server's fault."""
    return _of_status(endpoint, error.code or 500, shown(endpoint, str(error)), None)


def refused(endpoint: ModelEndpoint, status: int, headers: Mapping[str, str], body: bytes, now: float) -> TroupeError:
    """An answer with another status than 200. `now` is in seconds since the epoch, for a Retry-After that is a date."""
    return _of_status(endpoint, status, shown(endpoint, _said(body)), retry_after(headers, now))


def _of_status(endpoint: ModelEndpoint, status: int, said: str, after: float | None) -> TroupeError:
    answered = f"{endpoint.base_url} answered {status}" + (f": {said}" if said else "")
    if status == _RATE_LIMITED:
        return ResourceExhausted("MODEL_RATE_LIMITED", answered, retry_after=after)
    if status >= 500 or status in _TRY_AGAIN:
        return Unavailable("MODEL_ERROR", answered, retry_after=after)
    hint = _WHAT_TO_DO.get(status, "the request is refused as it is")
    return FailedPrecondition("MODEL_REFUSED", f"{answered}; {hint}", metadata={"status": str(status)})


_WHAT_TO_DO: Final = {
    401: "check the Model's apiKey",
    403: "check what the Model's apiKey may do",
    404: "check the Model's baseUrl, which ends in /v1, and its model",
}


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait: from `retry-after-ms`, which OpenAI sends because Retry-After has whole seconds only, or else
    from Retry-After as seconds or as a date; None where neither says anything."""
    seconds = _number(headers.get("Retry-After-Ms", ""))
    if seconds is not None:
        seconds /= 1000
    else:
        value = headers.get("Retry-After", "").strip()
        seconds = _number(value)
        if seconds is None:
            seconds = _until(value, now)
    return None if seconds is None else min(max(0.0, seconds), MAX_RETRY_AFTER)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _until(date: str, now: float) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except (ValueError, OverflowError):
        return None


def shown(endpoint: ModelEndpoint, text: str) -> str:
    """One bounded line, in which the key does not stand: servers quote it back."""
    if endpoint.api_key:
        text = text.replace(endpoint.api_key, "***")
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else line[:MAX_SHOWN] + " …"


class _Body(msgspec.Struct):
    error: ErrorBody | str | None = None
    message: str | None = None
    detail: str | None = None


def _said(body: bytes) -> str:
    """The message of an error body: OpenAI's form, vLLM's, FastAPI's, or the text as it is."""
    text = body.decode(errors="replace")
    try:
        known = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    said = known.error.message if isinstance(known.error, ErrorBody) else known.error
    return said or known.message or known.detail or text
