"""The pure parts of access: what a header, a certificate and claims say, who may what, how often."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.chassis.access import bearer, claims, identity, policy
from troupe.chassis.access.key_source import BETWEEN, FRESH, due
from troupe.chassis.access.rate import MAX_BUCKETS, Rates
from troupe.chassis.access.roles import ANYBODY, FLEET, Caller, Role
from troupe.chassis.access.settings import check_place
from troupe.chassis.errors import PermissionDenied
from troupe.chassis.rpc_errors import Unauthenticated

PAIRS = st.tuples(st.sampled_from(["authorization", "Authorization", "x"]), st.text() | st.binary())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.from_regex(r"[A-Za-z0-9._~+/-]+=*", fullmatch=True), st.sampled_from(["Bearer", "bearer", "BEARER"]))
def test_a_token_comes_out_as_it_went_in(token: str, scheme: str) -> None:
    assert bearer.token_of([("user-agent", "x"), ("authorization", f"{scheme} {token}")]) == token
    assert bearer.token_of([bearer.header(token)]) == token


@given(st.lists(PAIRS, max_size=3))
def test_any_metadata_is_a_token_none_or_refused(metadata: list[tuple[str, str | bytes]]) -> None:
    try:
        token = bearer.token_of(metadata)
    except Unauthenticated:
        assert any(name.lower() == "authorization" for name, _ in metadata)
    else:
        assert (token is None) == (not any(name.lower() == "authorization" for name, _ in metadata))


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer ä", "Bearer a\n", "x" * 9000, b"Bearer \xff"]
)
def test_what_is_no_token_is_refused_without_being_shown(value: str | bytes) -> None:
    with pytest.raises(Unauthenticated) as refused:
        bearer.token_of([("authorization", value)])
    assert "YTpi" not in str(refused.value)


def test_two_credentials_are_none() -> None:
    with pytest.raises(Unauthenticated, match="several"):
        bearer.token_of([("authorization", "Bearer a"), ("Authorization", "Bearer b")])


def test_the_names_that_are_made_are_those_that_are_read() -> None:
    worker = identity.of({identity.PROPERTY: [identity.worker_uri("worker-7", "prod.example").encode()]})
    assert worker == Caller("worker-7", frozenset({Role.WORKER}))
    plane = identity.of({identity.PROPERTY: [identity.controlplane_uri("x").encode()]})
    assert plane is not None
    assert plane.roles == {Role.CONTROLPLANE}


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [b"spiffe://x/worker/worker-0"],
        [b"spiffe://x/troupe/worker/"],
        [b"spiffe://x/troupe/worker/worker-0/more"],
        [b"spiffe://x/troupe/worker/-a"],
        [b"spiffe://x/y/troupe/worker/worker-0"],
        [b"spiffe://x/troupe/admin"],
        [b"https://x/troupe/worker/worker-0"],
        [b"spiffe://x/troupe/worker/worker-0", b"spiffe://x/troupe/worker/worker-1"],
        [b"spiffe://x/troupe/worker/worker-0", b"spiffe://x/troupe/controlplane"],
        [b"\xff\x00"],
    ],
)
def test_other_names_are_no_process(uris: list[bytes]) -> None:
    assert identity.of({identity.PROPERTY: uris}) is None


def test_a_name_of_another_type_is_no_process() -> None:
    text = identity.worker_uri("worker-0", "x").encode()
    assert identity.of({"x509_subject_alternative_name": [text], "peer_dns": [text]}) is None


@given(st.lists(st.binary(), max_size=3))
def test_any_certificate_names_a_process_or_none(uris: list[bytes]) -> None:
    identity.of({identity.PROPERTY: uris})


@given(JSON, st.dictionaries(st.sampled_from(["sub", "tenant", "roles", "agents", "name"]), JSON))
def test_any_claims_are_a_caller_or_a_sentence(roles: object, given_claims: dict[str, object]) -> None:
    whole = given_claims | {"roles": roles}
    found = []
    with suppress(ValueError):
        found.append(claims.of_claims(whole, "roles"))
    with suppress(ValueError):
        found.append(claims.of_entry(whole))
    for caller in found:
        assert caller.name.isprintable()
        assert claims.NAME.fullmatch(caller.tenant)


def test_claims_give_no_role_of_a_process() -> None:
    found = claims.of_claims(
        {"sub": "alice", "tenant": "acme", "roles": ["worker", "controlplane", "admin", "chef"]}, "roles"
    )
    assert found == Caller("alice", frozenset({Role.ADMIN}), "acme")
    assert claims.of_claims({"sub": "a", "tenant": "t", "groups": "client operator"}, "groups").roles == {
        Role.CLIENT,
        Role.OPERATOR,
    }


@pytest.mark.parametrize("wrong", [{"tenant": None}, {"sub": ""}, {"agents": []}, {"agents": {"a": 1}}, {"roles": {}}])
def test_claims_that_are_wrong_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        claims.of_claims({"sub": "alice", "tenant": "acme", "roles": ["client"]} | wrong, "roles")


@given(st.frozensets(st.sampled_from(Role)), st.frozensets(st.sampled_from(Role), min_size=1))
def test_a_caller_may_what_one_of_its_roles_may(has: frozenset[Role], allowed: frozenset[Role]) -> None:
    caller = Caller("alice", has)
    if has & allowed:
        policy.check({"m": allowed}, "m", caller)
    else:
        with pytest.raises(PermissionDenied) as denied:
            policy.check({"m": allowed}, "m", caller)
        assert denied.value.metadata["missing_role"] in allowed


def test_a_method_in_no_table_is_denied_to_all() -> None:
    with pytest.raises(PermissionDenied) as denied:
        policy.check({}, "troupe.v1.New/Method", Caller("root", frozenset(Role)))
    assert denied.value.reason == "METHOD_CLOSED"


def test_anybody_is_no_process() -> None:
    assert not ANYBODY.process
    assert not ANYBODY.roles & FLEET


@given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()))
def test_a_selector_reaches_what_has_all_its_labels(selector: dict[str, str], labels: dict[str, str]) -> None:
    caller = Caller("alice", frozenset(), agents=selector)
    assert caller.reaches(labels) == (selector.items() <= labels.items())
    assert caller.reaches(labels | selector)


@given(
    st.lists(st.floats(0, 3), max_size=60),
    st.integers(1, 10),
    st.integers(1, 20),
)
def test_no_more_calls_than_the_rate_allows(waits: list[float], rate: int, burst: int) -> None:
    rates, now, taken = Rates(rate, burst), 0.0, 0
    for wait in waits:
        now += wait
        refused = rates.take("alice", now)
        taken += not refused
        assert taken <= burst + rate * now + 1e-6
        if refused:
            assert refused <= 1 / rate
            now += refused + 1e-9
            assert rates.take("alice", now) == 0.0
            taken += 1


def test_callers_do_not_share_a_rate_and_are_not_remembered_for_ever() -> None:
    rates = Rates(1, 1)
    for number in range(MAX_BUCKETS + 10):
        assert rates.take(str(number), 0.0) == 0.0
    assert rates.take(str(MAX_BUCKETS), 0.0) == 1.0
    assert len(rates._buckets) == MAX_BUCKETS


def test_keys_are_fetched_for_an_unknown_key_and_when_old_but_not_too_often() -> None:
    assert due(False, FRESH - 1, BETWEEN)
    assert not due(False, 0.0, BETWEEN - 0.1)
    assert not due(True, FRESH - 1, FRESH - 1)
    assert due(True, FRESH, BETWEEN)
    assert not due(True, FRESH, BETWEEN - 0.1)


@pytest.mark.parametrize("place", ["http://issuer.test/keys", "ftp://x/y", "file:///etc/keys"])
def test_keys_do_not_come_in_the_clear(place: str) -> None:
    with pytest.raises(ValueError, match="https"):
        check_place(place)
