"""Which turns a selector means."""

from typing import Any

import pytest

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.selection import FATES, Selection
from troupe.v1 import turn_pb2
from troupe.v1.agent_pb2 import TurnSelector
from troupe.v1.envelope_pb2 import SessionRef
from troupe.v1.turn_pb2 import FATE_PAUSED, FATE_RUNNING, FATE_WAITING

KEY = SessionKey("t", "n", "agent", "s")
TEAM = {"team": "shop", "tier": "gold"}


def selector(session: SessionRef | None = None, **parts: Any) -> TurnSelector:
    return TurnSelector(session=session, **parts)


@pytest.mark.parametrize(
    ("asked", "takes"),
    [
        (selector(), True),
        (selector(SessionRef(namespace="n")), True),
        (selector(SessionRef(namespace="default")), False),
        (selector(SessionRef(agent="agent")), True),
        (selector(SessionRef(agent="age")), False),
        (selector(SessionRef(session="s")), True),
        (selector(SessionRef(namespace="n", agent="agent", session="s1")), False),
        (selector(fates=[FATE_WAITING, FATE_RUNNING]), True),
        (selector(fates=[FATE_PAUSED]), False),
        (selector(attributes={"team": "shop"}), True),
        (selector(attributes=TEAM), True),
        (selector(attributes={"team": "desk"}), False),
        (selector(attributes={**TEAM, "more": ""}), False),
        (selector(SessionRef(agent="agent"), fates=[FATE_RUNNING], attributes={"tier": "silver"}), False),
    ],
)
def test_all_that_is_given_must_hold(asked: TurnSelector, takes: bool) -> None:
    chosen = Selection.of(asked, "t")
    assert chosen.takes(KEY, FATE_RUNNING, TEAM) is takes
    assert not chosen.takes(SessionKey("other", "n", "agent", "s"), FATE_RUNNING, TEAM), "of another tenant"


@pytest.mark.parametrize(
    ("ref", "prefix"),
    [
        (SessionRef(), "t/"),
        (SessionRef(namespace="n"), "t/n/"),
        (SessionRef(namespace="n", agent="agent"), "t/n/agent/"),
        (SessionRef(namespace="n", agent="agent", session="s"), "t/n/agent/s"),
        (SessionRef(agent="agent", session="s"), "t/"),
        (SessionRef(namespace="n", session="s"), "t/n/"),
    ],
)
def test_the_paths_of_its_sessions_begin_so(ref: SessionRef, prefix: str) -> None:
    chosen = Selection.of(selector(ref), "t")
    assert chosen.prefix == prefix
    assert KEY.path.startswith(prefix)
    assert chosen.key == (KEY if prefix == KEY.path else None)


@pytest.mark.parametrize(
    "asked",
    [
        selector(SessionRef(namespace="N")),
        selector(SessionRef(agent="a/b")),
        selector(SessionRef(session="a/b")),
        selector(SessionRef(session="x" * 129)),
        selector(fates=[turn_pb2.FATE_DONE]),
        selector(fates=[turn_pb2.FATE_UNSEEN]),
        selector(attributes={"": "x"}),
    ],
)
def test_what_means_nothing_is_refused(asked: TurnSelector) -> None:
    with pytest.raises(InvalidArgument):
        Selection.of(asked, "t")


def test_another_worker_is_asked_for_the_same() -> None:
    for tenant in ("t", "default"):
        asked = selector(SessionRef(namespace="n", agent="agent", session="s"), fates=sorted(FATES), attributes=TEAM)
        chosen = Selection.of(asked, tenant)
        passed_on = chosen.selector()
        assert passed_on.session.tenant == ("t" if tenant == "t" else ""), "a fleet without credentials names none"
        assert Selection.of(passed_on, passed_on.session.tenant or "default") == chosen
