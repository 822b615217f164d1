import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis import errors, rpc_errors, wire
from troupe.chassis.errors import TroupeError, Violation
from troupe.chassis.rpc_errors import error_from

KINDS = st.sampled_from(list(rpc_errors._CLASSES.values()))
WORDS = st.text(max_size=60)


def as_received(error: TroupeError) -> grpc.aio.AioRpcError:
    """What a client gets for it."""
    status = rpc_errors.status(error)
    trailing = grpc.aio.Metadata((rpc_errors.STATUS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(rpc_errors.status_code(error), grpc.aio.Metadata(), trailing, details=status.message)


def bare(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


@given(
    kind=KINDS,
    reason=st.text("ABC_", min_size=1),
    message=WORDS,
    resource=WORDS,
    retry_after=st.none() | st.floats(min_value=0, max_value=1e6).map(lambda value: wire.seconds(wire.duration(value))),
    violations=st.lists(st.builds(Violation, WORDS, WORDS), max_size=5),
    metadata=st.dictionaries(WORDS, WORDS, max_size=3),
)
def test_an_error_comes_back_as_it_was_raised(
    kind: type[TroupeError],
    reason: str,
    message: str,
    resource: str,
    retry_after: float | None,
    violations: list[Violation],
    metadata: dict[str, str],
) -> None:
    raised = kind(reason, message, resource=resource, retry_after=retry_after, violations=violations, metadata=metadata)
    received = error_from(as_received(raised))
    assert type(received) is kind
    assert received.detail() == raised.detail()
    assert received.violations == raised.violations
    assert received.retry_after == raised.retry_after
    assert received.metadata == {"source": "gateway"} | metadata


def test_the_turn_stays_the_source_where_the_error_says_so() -> None:
    raised = errors.Aborted("MAX_STEPS", "…", metadata={"source": "turn"})
    assert error_from(as_received(raised)).metadata == {"source": "turn"}


def test_every_class_of_error_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TroupeError)]
    assert all(rpc_errors.status_code(kind("R", "m")) for kind in kinds)


@given(
    st.lists(st.builds(Violation, st.text(max_size=300), st.text(max_size=300)), min_size=1, max_size=200), st.text()
)
def test_details_stay_small_enough_for_every_client(violations: list[Violation], message: str) -> None:
    raised = errors.InvalidArgument("BAD_MANIFEST", message * 100, violations=violations)
    status = rpc_errors.status(raised)
    assert status.ByteSize() <= rpc_errors.DETAILS_BYTES + 100
    assert len(status.message.encode()) <= rpc_errors.MESSAGE_BYTES


def test_violations_that_do_not_fit_are_counted() -> None:
    violations = [Violation(f"Agent/default/a{n} spec.model", "x" * 100) for n in range(100)]
    received = error_from(as_received(errors.InvalidArgument("BAD_MANIFEST", "…", violations=violations)))
    *kept, last = received.violations
    assert kept == violations[: len(kept)]
    assert len(kept) > 20
    assert last == Violation("", f"and {100 - len(kept)} more")


@pytest.mark.parametrize(
    ("details", "address", "message"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:7071: "
            "Failed to connect to remote host: Connection refused",
            "",
            "no answer from 127.0.0.1:7071: Connection refused; check that it runs there",
        ),
        (
            "failed to connect to all addresses; last error: INTERNAL: ipv6:%5B::1%5D:7071: Failed parsing HTTP/2",
            "",
            "no answer from [::1]:7071: Failed parsing HTTP/2; check that it runs there",
        ),
        ("Socket closed", "worker-0:7070", "no answer from worker-0:7070: Socket closed; check that it runs there"),
        ("", "", "no answer from the server: no connection; check that it runs there"),
    ],
)
def test_a_server_that_is_down_is_unavailable_and_named(details: str, address: str, message: str) -> None:
    received = error_from(bare(grpc.StatusCode.UNAVAILABLE, details), address)
    assert isinstance(received, errors.Unavailable)
    assert received.reason == "UNAVAILABLE"
    assert str(received) == message


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_code_without_details_becomes_an_error_of_that_code(code: grpc.StatusCode) -> None:
    received = error_from(bare(code, "said"), "there:1")
    assert received.code == code.value[0]
    assert received.reason == code.name
    assert "there:1" in str(received)


def test_details_that_cannot_be_read_are_as_good_as_none() -> None:
    trailing = grpc.aio.Metadata((rpc_errors.STATUS_KEY, b"\xff\xff\xff"))
    received = error_from(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailing, "gone"))
    assert (type(received), received.reason) == (errors.NotFound, "NOT_FOUND")


def test_translated_keeps_the_cause() -> None:
    cause = bare(grpc.StatusCode.NOT_FOUND, "gone")
    with pytest.raises(errors.NotFound) as caught, rpc_errors.translated():
        raise cause
    assert caught.value.__cause__ is cause
