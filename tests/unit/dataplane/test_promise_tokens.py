"""Tokens of promises: what they name, and what is none."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.broker.addressing import SessionKey
from troupe.chassis.errors import InvalidArgument
from troupe.dataplane import promise_tokens

KEY = SessionKey("acme", "default", "clerk", "s 1")
SECRET = bytes(range(16))


@given(
    promise_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=100),
    secret=st.binary(min_size=16, max_size=16),
)
def test_a_token_names_its_promise(promise_id: str, secret: bytes) -> None:
    token = promise_tokens.fresh(KEY, promise_id, secret)
    assert promise_tokens.named(token) == (KEY, promise_id)
    assert re.fullmatch(r"tp_[\w-]+\.[0-9a-f]{32}", token), "safe in a URL and in a shell"


def test_each_secret_makes_another() -> None:
    made = {promise_tokens.hashed(promise_tokens.fresh(KEY, "m/a", bytes([number] * 16))) for number in range(256)}
    assert len(made) == 256


@given(st.text())
def test_nothing_else_is_a_token(text: str) -> None:
    with pytest.raises(InvalidArgument):
        promise_tokens.named(text)


def test_a_token_that_was_cut_or_changed_is_none() -> None:
    token = promise_tokens.fresh(KEY, "m/a", SECRET)
    name, secret = token.split(".")
    for wrong in (token[:-1], token + "0", name, f"tp_.{secret}", token.upper(), f"tp_AAAA.{secret}", f"tp_A.{secret}"):
        with pytest.raises(InvalidArgument) as refused:
            promise_tokens.named(wrong)
        assert secret not in str(refused.value), "it is a secret"
