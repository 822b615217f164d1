"""Who a message is for, and which mailbox that is."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.addressing import NAME, SessionKey, is_session, mailbox
from troupe.chassis.errors import InvalidArgument
from troupe.v1.envelope_pb2 import SessionRef

NAMES = st.from_regex(NAME, fullmatch=True).filter(lambda name: name.isascii())
SESSIONS = st.text(max_size=130).filter(is_session)
KEYS = st.builds(SessionKey, tenant=NAMES, namespace=NAMES, agent=NAMES, session=SESSIONS)
# From few letters, so that parts of two keys are often alike, and often each other's.
CLOSE_KEYS = st.builds(SessionKey, *[st.text("ab", min_size=1, max_size=2)] * 3, st.text("ab-", min_size=1, max_size=3))


@given(KEYS, st.integers(1, 65_536))
def test_a_shard_is_one_of_the_deployment(key: SessionKey, count: int) -> None:
    assert 0 <= key.shard(count) < count


@pytest.mark.parametrize(
    ("key", "shard_of_16", "shard_of_65536"),
    [
        (SessionKey("default", "default", "clerk", "s"), 9, 40_338),
        (SessionKey("default", "default", "clerk", "s-2"), 15, 65_359),
        (SessionKey("acme", "shop", "clerk", "größe 5"), 9, 38_785),
    ],
)
def test_the_shard_of_a_session_never_changes(key: SessionKey, shard_of_16: int, shard_of_65536: int) -> None:
    """Messages wait in the mailbox that was computed when they were sent. From `sha256sum`, not from this code."""
    assert key.shard(16) == shard_of_16
    assert key.shard(65_536) == shard_of_65536


def test_sessions_spread_evenly() -> None:
    counts = [0] * 16
    for number in range(4_800):
        counts[SessionKey("default", "default", "clerk", f"session-{number}").shard(16)] += 1

    assert min(counts) > 200
    assert max(counts) < 400


@given(KEYS)
def test_path_and_reference_name_the_same_key_again(key: SessionKey) -> None:
    assert SessionKey.parse(key.path) == key
    assert SessionKey.of(key.ref()) == key


@given(CLOSE_KEYS, CLOSE_KEYS)
def test_no_two_keys_share_a_path(one: SessionKey, other: SessionKey) -> None:
    assert (one.path == other.path) == (one == other)


@pytest.mark.parametrize("path", ["", "default", "default/default/clerk", "default/default/clerk/s/more"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="is no tenant/namespace/agent/session"):
        SessionKey.parse(path)


def test_absent_tenant_and_namespace_are_the_default_ones() -> None:
    assert SessionKey.of(SessionRef(agent="clerk", session="s")) == SessionKey("default", "default", "clerk", "s")


def test_the_tenant_of_a_credential_stands_over_the_one_of_the_reference() -> None:
    assert SessionKey.of(SessionRef(tenant="other", agent="clerk", session="s"), tenant="acme").tenant == "acme"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (SessionKey("acme", "default", "clerk", "s"), "clerk/s"),
        (SessionKey("acme", "shop", "clerk", "s"), "shop/clerk/s"),
        (SessionKey("acme", "default", "default", "default"), "default/default"),
    ],
)
def test_people_see_no_tenant_and_no_default_namespace(key: SessionKey, shown: str) -> None:
    assert str(key) == shown


@pytest.mark.parametrize("name", ["A", "-a", "a-", "a.b", "a/b", "a_b", "é", "a\n", "a" * 64, "\uff41", "\u0661"])
@pytest.mark.parametrize("part", ["tenant", "namespace", "agent"])
def test_a_bad_name_is_refused_by_its_field(part: str, name: str) -> None:
    parts = {"tenant": "t", "namespace": "n", "agent": "a", "session": "s", part: name}

    with pytest.raises(InvalidArgument) as refused:
        SessionKey.of(SessionRef(**parts))

    assert [violation.field for violation in refused.value.violations] == [f"session.{part}"]
    assert refused.value.reason == "BAD_SESSION"


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 63, "9lives"])
def test_a_good_name_is_taken(name: str) -> None:
    assert SessionKey.of(SessionRef(agent=name, session="s")).agent == name


def test_an_agent_is_required() -> None:
    with pytest.raises(InvalidArgument, match=r"session\.agent must match"):
        SessionKey.of(SessionRef(session="s"))


def test_every_bad_part_is_named() -> None:
    with pytest.raises(InvalidArgument) as refused:
        SessionKey.of(SessionRef(tenant="T", namespace="N", agent="A", session="/"))

    assert [violation.field for violation in refused.value.violations] == [
        "session.tenant",
        "session.namespace",
        "session.agent",
        "session.session",
    ]


@pytest.mark.parametrize(
    "name", ["a b", "größe", "a" * 128, "é" * 64, "\N{NO-BREAK SPACE}", "👩\N{ZERO WIDTH JOINER}🔧", ".", "%2F"]
)
def test_a_session_is_any_text(name: str) -> None:
    assert is_session(name)


@pytest.mark.parametrize(
    "name", ["", "a/b", "/", "a" * 129, "é" * 65, "a\n", "\0", "\x1b[2J", "\x7f", "\x85", "\udc80"]
)
def test_a_session_has_no_slash_no_control_characters_and_128_bytes(name: str) -> None:
    assert not is_session(name)


@given(st.text(string.printable, max_size=10).filter(lambda agent: not NAME.fullmatch(agent)))
def test_a_refusal_is_one_line(agent: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        SessionKey.of(SessionRef(agent=agent, session="s"))

    assert "\n" not in str(refused.value)


def test_a_mailbox_is_named_after_its_shard() -> None:
    assert mailbox(7) == "troupe.v1.mailbox.7"
