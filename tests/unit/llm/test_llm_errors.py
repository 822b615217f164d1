"""What a model server's errors become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis.errors import FailedPrecondition, ResourceExhausted, TroupeError, Unavailable
from troupe.dataplane.llm import errors
from troupe.dataplane.llm.endpoint import ModelEndpoint
from troupe.dataplane.llm.stream import ErrorInStream

ENDPOINT = ModelEndpoint("http://models:8000/v1", "m", api_key="sk-secret")
NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def refused(status: int, body: bytes = b"", **headers: str) -> TroupeError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return errors.refused(ENDPOINT, status, named, body, NOW)


@pytest.mark.parametrize(
    ("status", "kind", "reason", "retryable"),
    [
        (429, ResourceExhausted, "MODEL_RATE_LIMITED", True),
        (500, Unavailable, "MODEL_ERROR", True),
        (503, Unavailable, "MODEL_ERROR", True),
        (529, Unavailable, "MODEL_ERROR", True),
        (408, Unavailable, "MODEL_ERROR", True),
        (400, FailedPrecondition, "MODEL_REFUSED", False),
        (401, FailedPrecondition, "MODEL_REFUSED", False),
        (403, FailedPrecondition, "MODEL_REFUSED", False),
        (404, FailedPrecondition, "MODEL_REFUSED", False),
        (302, FailedPrecondition, "MODEL_REFUSED", False),
    ],
)
def test_a_status_says_whether_to_try_again(status: int, kind: type[TroupeError], reason: str, retryable: bool) -> None:
    error = refused(status)
    assert type(error) is kind
    assert (error.reason, error.retryable) == (reason, retryable)
    assert f"http://models:8000/v1 answered {status}" in str(error)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"message":"no such model","type":"x","param":null,"code":"model_not_found"}}', "no such model"),
        (b'{"error":"no such model"}', "no such model"),
        (b'{"object":"error","message":"no such model","code":404}', "no such model"),
        (b'{"detail":"no such model"}', "no such model"),
        (b"<h1>no such\n\n model</h1>", "<h1>no such model</h1>"),
        (b'{"other":1}', '{"other":1}'),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_what_the_server_said_is_shown_on_one_line(body: bytes, said: str) -> None:
    assert f"answered 404: {said}; check the Model's baseUrl" in str(refused(404, body))


def test_the_key_is_never_shown() -> None:
    assert "sk-secret" not in repr(ENDPOINT)
    for error in (
        refused(401, b'{"error":{"message":"wrong key: sk-secret"}}'),
        errors.unreachable(ENDPOINT, OSError("sk-secret")),
        errors.garbage(ENDPOINT, "sk-secret"),
        errors.reported(ENDPOINT, ErrorInStream("sk-secret", 0)),
    ):
        assert "sk-secret" not in str(error)
        assert "***" in str(error)


def test_a_long_body_is_cut() -> None:
    assert len(str(refused(500, b"x" * errors.MAX_BODY))) < errors.MAX_SHOWN + 100


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("-1", 0.0),
        ("1e9", errors.MAX_RETRY_AFTER),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert refused(429, Retry_After=value).retry_after == seconds
    assert refused(503, Retry_After=value).retry_after == seconds


def test_milliseconds_go_before_seconds() -> None:
    assert refused(429, Retry_After="2", Retry_After_Ms="1500").retry_after == 1.5
    assert refused(429, Retry_After="2", Retry_After_Ms="soon").retry_after == 2.0


def test_an_absent_retry_after_says_nothing() -> None:
    assert refused(429).retry_after is None


@given(st.text())
def test_any_retry_after_is_harmless(value: str) -> None:
    seconds = errors.retry_after({"Retry-After": value}, NOW)
    assert seconds is None or 0 <= seconds <= errors.MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("code", "reason"), [(0, "MODEL_ERROR"), (429, "MODEL_RATE_LIMITED"), (400, "MODEL_REFUSED"), (502, "MODEL_ERROR")]
)
def test_an_error_in_the_stream_is_told_by_its_code(code: int, reason: str) -> None:
    assert errors.reported(ENDPOINT, ErrorInStream("boom", code)).reason == reason


def test_an_unreachable_endpoint_says_which_and_what_to_do() -> None:
    message = str(errors.unreachable(ENDPOINT, OSError(111, "Connection refused")))
    assert message == (
        "the model endpoint http://models:8000/v1 does not answer ([Errno 111] Connection refused); "
        "check that it runs and that --llm or the Model's baseUrl is right"
    )
