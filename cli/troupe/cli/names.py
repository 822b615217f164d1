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
    """`AGENT/SESSION/ID`, or `NAMESPACE/AGENT/SESSION/ID`. With a namespace beside it, an id may hold slashes."""
    parts = text.split("/", 2) if namespace else text.split("/")
    if len(parts) in (3, 4) and all(parts):
        *owner, name, message_id = parts
        return agent_pb2.MessageRef(session=session("/".join([*owner, name]), namespace), message_id=message_id)
    raise InvalidArgument("BAD_NAME", f"{text!r} is no message; write AGENT/SESSION/ID, for example clerk/s1/0198c2")


def promise(text: str, namespace: str | None) -> promise_pb2.PromiseRef:
    """`AGENT/SESSION/MESSAGE_ID/NAME`, or with `NAMESPACE/` before it. With a namespace beside it, an id may hold
    slashes."""
    parts = text.split("/")
    before = 2 if namespace or len(parts) == 4 else 3
    if len(parts) > before + 1 and (namespace or len(parts) <= 5) and all(parts):
        ref = session("/".join(parts[:before]), namespace)
        return promise_pb2.PromiseRef(session=ref, promise_id="/".join(parts[before:]))
    raise InvalidArgument(
        "BAD_NAME", f"{text!r} is no promise; write AGENT/SESSION/MESSAGE_ID/NAME, for example clerk/s1/m1/approval"
    )


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
