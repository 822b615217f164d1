"""pika's errors as Troupe's. Pure."""

from collections.abc import Iterator

from pika import exceptions

from troupe.chassis.errors import FailedPrecondition, InvalidArgument, NotFound, TroupeError, Unavailable
from troupe.chassis.tls_fault import TlsFault, fault

_NOT_FOUND, _PRECONDITION, _ACCESS = 404, 406, 403


class Unheard(Unavailable):
    """Nobody listens at the server's port."""


def lost(reason: BaseException) -> Unavailable:
    """Why a connection that was open is gone."""
    return Unavailable("BROKER_AWAY", f"the connection to RabbitMQ was lost: {_said(reason)}")


def refused(reason: BaseException, where: str, *, tls: bool) -> TroupeError:
    """Why a connection to `where`, with or without TLS, did not come about. Unavailable where the same may work
    later."""
    causes = list(_causes(reason))

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if among(exceptions.ProbableAuthenticationError, exceptions.AuthenticationError):
        return FailedPrecondition(
            "BROKER_REFUSED", f"RabbitMQ at {where} refused the user name and password; put right ones into the URL"
        )
    if among(exceptions.ProbableAccessDeniedError):
        return FailedPrecondition(
            "BROKER_REFUSED",
            f"RabbitMQ at {where} has no such vhost, or the user may not use it ({_said(causes[-1])}); "
            "`rabbitmqctl add_vhost` and `set_permissions` make and open one",
        )
    match fault(causes):
        case TlsFault.UNTRUSTED:
            return FailedPrecondition(
                "BROKER_UNTRUSTED",
                f"RabbitMQ at {where} shows a certificate that is not trusted ({_said(causes[-1])}); name the "
                "authority that signed it with ?cafile=FILE, and the host as the certificate does",
            )
        case TlsFault.REFUSED:
            return FailedPrecondition(
                "BROKER_REFUSED",
                f"RabbitMQ at {where} wants a certificate of an authority that it trusts; name one with "
                "?certfile=FILE&keyfile=FILE",
            )
        case TlsFault.PLAIN:
            return FailedPrecondition(
                "BROKER_UNSUPPORTED",
                f"what listens at {where} does not speak TLS; name RabbitMQ's port for it, 5671 as a rule, or begin "
                "the URL with amqp://",
            )
    if among(exceptions.IncompatibleProtocolError):  # pika's word for a connection that ended before the first frame
        return Unavailable(
            "BROKER_AWAY",
            f"what listens at {where} closed the connection without a word of AMQP: RabbitMQ is starting or stopping, "
            f"or {'it wants a certificate (?certfile=FILE&keyfile=FILE)' if tls else 'the port wants TLS (amqps://)'}, "
            "or this is not its port for clients",
        )
    if among(exceptions.ProtocolSyntaxError):
        return FailedPrecondition(
            "BROKER_UNSUPPORTED", f"what listens at {where} does not speak AMQP 0-9-1; name RabbitMQ's port for clients"
        )
    away = f"RabbitMQ at {where} cannot be reached ({_said(causes[-1])}); start it, or name another"
    return Unheard("BROKER_AWAY", away) if among(ConnectionRefusedError) else Unavailable("BROKER_AWAY", away)


def closed(reason: BaseException) -> TroupeError:
    """Why a channel is gone."""
    if isinstance(reason, exceptions.ChannelClosedByBroker):
        text = reason.reply_text
        if reason.reply_code == _NOT_FOUND:
            return NotFound("QUEUE_UNKNOWN", f"RabbitMQ: {text}")
        if reason.reply_code == _PRECONDITION and "message size" in text:
            return InvalidArgument("PAYLOAD_TOO_LARGE", f"RabbitMQ: {text}")
        if reason.reply_code in (_PRECONDITION, _ACCESS):
            return FailedPrecondition("BROKER_REFUSED", f"RabbitMQ: {text}")
        return Unavailable("BROKER_AWAY", f"RabbitMQ closed the channel: {text}")
    return lost(reason)


def _causes(reason: BaseException) -> Iterator[BaseException]:
    """The error and those within it, the innermost last."""
    yield reason
    inner = getattr(reason, "exceptions", None) or [getattr(reason, "exception", None), *reason.args]
    for each in inner:
        if isinstance(each, BaseException):
            yield from _causes(each)


def _said(reason: BaseException) -> str:
    return str(reason) or type(reason).__name__
