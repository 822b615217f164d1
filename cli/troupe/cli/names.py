"""The names that people type and see: `AGENT/SESSION`, `NAMESPACE/AGENT/SESSION`, `AGENT/SESSION/ID`."""

import secrets

from troupe.chassis.errors import InvalidArgument
from troupe.v1 import agent_pb2, envelope_pb2, promise_pb2

DEFAULT_NAMESPACE = "default"
LETTERS = "23456789bcdfghjkmnpqrstvwxz"
"""No vowels, so no words; nothing that looks like something else."""


def session(text: str, namespace: str | None) -> envelope_pb2.SessionRef:
    """`AGENT/SESSION`, or `NAMESPACE/AGENT/SESSION` unless a namespace is given beside it."""
    match text.split("/"):
        case [agent, name] if agent and name:
            return envelope_pb2.SessionRef(namespace=namespace or "", agent=agent, session=name)
        case [space, agent, name] if space and agent and name and namespace in (None, space):
            return envelope_pb2.SessionRef(namespace=space, agent=agent, session=name)
    raise InvalidArgument("BAD_NAME", f"{text!r} is no session; write AGENT/SESSION, for example clerk/s1")


def message(text: str, namespace: str | None) -> agent_pb2.MessageRef:
    """`AGENT/SESSION/ID`, or `NAMESPACE/AGENT/SESSION/ID`. An id of a reminder's message holds slashes; others may with
    a namespace beside them."""
    if (parted := _parted(text, namespace, 0)) is None:
        raise InvalidArgument(
            "BAD_NAME", f"{text!r} is no message; write AGENT/SESSION/ID, for example clerk/s1/0198c2"
        )
    owner, message_id = parted
    return agent_pb2.MessageRef(session=session(owner, namespace), message_id=message_id)


def promise(text: str, namespace: str | None) -> promise_pb2.PromiseRef:
    """`AGENT/SESSION/MESSAGE_ID/NAME`, or with `NAMESPACE/` before it; of ids the same holds."""
    if (parted := _parted(text, namespace, 1)) is None:
        raise InvalidArgument(
            "BAD_NAME", f"{text!r} is no promise; write AGENT/SESSION/MESSAGE_ID/NAME, for example clerk/s1/m1/approval"
        )
    owner, promise_id = parted
    return promise_pb2.PromiseRef(session=session(owner, namespace), promise_id=promise_id)


def agent(text: str, namespace: str | None) -> envelope_pb2.SessionRef:
    """`AGENT` or `NAMESPACE/AGENT`, without a session."""
    match text.split("/"):
        case [name] if name:
            return envelope_pb2.SessionRef(namespace=namespace or "", agent=name)
        case [space, name] if space and name and namespace in (None, space):
            return envelope_pb2.SessionRef(namespace=space, agent=name)
    raise InvalidArgument("BAD_NAME", f"{text!r} is no agent; write AGENT or NAMESPACE/AGENT, for example clerk")


def agent_or_session(text: str, namespace: str | None) -> envelope_pb2.SessionRef:
    """`AGENT`, `AGENT/SESSION` or `NAMESPACE/AGENT/SESSION`, with the namespace that it has where none is named."""
    ref = session(text, namespace) if "/" in text else agent(text, namespace)
    ref.namespace = ref.namespace or DEFAULT_NAMESPACE
    return ref


def shown(ref: envelope_pb2.SessionRef, *rest: str) -> str:
    """The shortest name that finds it again: `default` is left out."""
    space = [] if ref.namespace in ("", DEFAULT_NAMESPACE) else [ref.namespace]
    return "/".join([*space, ref.agent, *([ref.session] if ref.session else []), *rest])


def new_session() -> str:
    """Eight letters that nobody has to spell twice; about 38 bits of chance."""
    letters = [secrets.choice(LETTERS) for _ in range(8)]
    return f"{''.join(letters[:4])}-{''.join(letters[4:])}"


def _parted(text: str, namespace: str | None, behind: int) -> tuple[str, str] | None:
    """The session's name, and what stands after it: a message's id, and `behind` parts more."""
    parts = text.split("/")
    count = len(parts) - behind
    if namespace:
        before = 2
    elif count in (6, 7) and parts[count - 4] == "reminder":
        before = count - 4  # reminder/NAME/ID/NUMBER
    elif count in (3, 4):
        before = count - 1
    else:
        return None
    if count <= before or not (all(parts[: before + 1]) and parts[-1]):
        return None
    return "/".join(parts[:before]), "/".join(parts[before:])
