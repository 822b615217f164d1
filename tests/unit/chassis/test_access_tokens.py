"""Tokens of a file: kept as hashes, read again, ended."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.credentials import Tokens, entry

from troupe.chassis.access import static_tokens
from troupe.chassis.access.roles import Caller, Role
from troupe.chassis.access.static_tokens import TokenFile, fresh_token, hashed
from troupe.chassis.errors import InvalidArgument
from troupe.chassis.rpc_errors import Unauthenticated

NOW = 1_800_000_000.0


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.toml")


def test_a_token_is_found_by_its_hash_alone(tokens: Tokens) -> None:
    one = tokens.add("ci", "admin")
    two = tokens.add("shop", "client", "operator", tenant='"acme"', agents='{ team = "shop" }')
    file = TokenFile(tokens.path)
    ci, shop = file.caller(one, NOW), file.caller(two, NOW)
    assert ci is not None
    assert shop is not None
    assert ci == Caller("ci", frozenset({Role.ADMIN}))
    assert (shop.name, shop.tenant, shop.agents) == ("shop", "acme", {"team": "shop"})
    assert one not in tokens.path.read_text()
    assert file.caller(hashed(one), NOW) is None
    assert file.caller(one[:-1], NOW) is None
    assert file.caller(fresh_token(), NOW) is None


def test_two_whose_hashes_begin_alike_are_told_apart(tokens: Tokens) -> None:
    token = tokens.add("ci", "admin")
    begins = hashed(token)[:8]
    other = entry("x", "other", ["client"]).replace(hashed("x")[:8], begins)
    tokens.path.write_text(entry(token, "ci", ["admin"]) + other)
    found = TokenFile(tokens.path).caller(token, NOW)
    assert found is not None
    assert found.name == "ci"


def test_a_token_ends(tokens: Tokens) -> None:
    token = tokens.add("ci", "admin", expires="2027-01-15T08:00:00Z")
    file = TokenFile(tokens.path)
    assert file.caller(token, NOW - 1) is not None
    with pytest.raises(Unauthenticated) as expired:
        file.caller(token, NOW)
    assert expired.value.reason == "TOKEN_EXPIRED"


def test_a_changed_file_is_read_again_and_a_broken_one_is_not_taken(tokens: Tokens) -> None:
    one = tokens.add("ci", "admin")
    file = TokenFile(tokens.path)
    two = tokens.add("late", "client")
    assert file.caller(two, NOW) is not None
    with capture_logs() as lines:
        tokens.path.write_text("[[token]]\nname = 1")
        assert file.caller(one, NOW) is not None
    assert [(line["log_level"], line["reason"]) for line in lines] == [("error", "BAD_TOKENS")]
    tokens.path.write_text(entry(two, "late", ["client"]))
    assert file.caller(one, NOW) is None


GOOD = entry("x", "ci", ["admin"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1", "nothing else"),
        ("token = 1", "tables"),
        ("token = [1]", "token 1: must be a table"),
        (GOOD.replace("name", "nome"), "there is no nome"),
        (GOOD.replace('"admin"', '"boss"'), "roles must be a list of admin"),
        (GOOD.replace('["admin"]', "[]"), "roles"),
        (GOOD.replace(hashed("x"), "x"), "64 hexadecimal"),
        (GOOD.replace('"ci"', '""'), "name must be printable"),
        (GOOD + 'tenant = "A/b"', "tenant"),
        (GOOD + "expires = 3", "expires must be a date"),
        (GOOD + "agents = { a = 1 }", "labels"),
        ("[[token]", "Expected"),
    ],
)
def test_an_entry_that_is_wrong_is_named(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=why) as wrong:
        TokenFile(path)
    assert wrong.value.reason == "BAD_TOKENS"
    assert str(path) in str(wrong.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"tokens\.toml"):
        TokenFile(tmp_path / "tokens.toml")


@given(st.text() | st.text().map(lambda text: GOOD + text))
def test_any_text_is_entries_or_a_sentence(text: str) -> None:
    with suppress(InvalidArgument):
        assert all(one.caller.roles for one in static_tokens.parsed(text, Path("tokens.toml")))
