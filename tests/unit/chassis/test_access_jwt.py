"""JSON Web Tokens: those of the issuer are taken, and what attackers make of them is not."""

import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from support.credentials import AUDIENCE, ISSUER, Signer, claimed, key_set, raw_token

from troupe.chassis.access import jwt_tokens
from troupe.chassis.access.jwt_tokens import MAX_REMEMBERED, REMEMBERED, Issuer, Remembered, key_id, keys_of, verified
from troupe.chassis.access.roles import Caller, Role
from troupe.chassis.rpc_errors import Unauthenticated

OURS = Issuer(ISSUER, AUDIENCE, "roles")
SIGNER = Signer()


def taken(token: str, *signers: Signer) -> Caller:
    """As the guard does it."""
    keys = keys_of(key_set(*(signers or (SIGNER,))))
    key = keys.get(key_id(token))
    if key is None:
        raise Unauthenticated("BAD_CREDENTIAL", "no such key")
    return verified(token, key, OURS)[0]


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_token_of_the_issuer_is_taken(kind: str) -> None:
    signer = Signer(kind=kind)
    token = signer.token(roles=["client", "operator"], agents={"team": "shop"})
    assert taken(token, signer) == Caller("alice", frozenset({Role.CLIENT, Role.OPERATOR}), "acme", {"team": "shop"})


def test_a_token_is_taken_for_as_long_as_it_says() -> None:
    until = time.time() + 100
    [key] = keys_of(key_set(SIGNER)).values()
    assert verified(SIGNER.token(exp=int(until)), key, OURS)[1] == int(until) + jwt_tokens.LEEWAY


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": int(time.time()) - 60}, "TOKEN_EXPIRED"),
        ({"exp": None}, "BAD_CREDENTIAL"),
        ({"exp": "soon"}, "BAD_CREDENTIAL"),
        ({"nbf": int(time.time()) + 86_400}, "BAD_CREDENTIAL"),
        ({"iss": "https://evil.test"}, "BAD_CREDENTIAL"),
        ({"iss": None}, "BAD_CREDENTIAL"),
        ({"aud": "another-service"}, "BAD_CREDENTIAL"),
        ({"aud": None}, "BAD_CREDENTIAL"),
        ({"sub": None}, "BAD_CREDENTIAL"),
        ({"tenant": None}, "BAD_CREDENTIAL"),
        ({"tenant": "a/b"}, "BAD_CREDENTIAL"),
        ({"agents": "all"}, "BAD_CREDENTIAL"),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_claims_that_are_wrong(claims: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        taken(SIGNER.token(**claims))
    assert refused.value.reason == reason


def public_pem(signer: Signer) -> bytes:
    pem: bytes = signer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def unsigned(algorithm: str) -> str:
    return raw_token({"alg": algorithm, "kid": "one"}, claimed(roles=["admin"]), b"")


def signed_with_the_public_key(secret: bytes) -> str:
    """HS256 with what everybody knows as its secret: taken by a checker that lets the token choose the algorithm."""
    head, body, _ = raw_token({"alg": "HS256", "kid": "one"}, claimed(roles=["admin"]), b"x").split(".")
    signature = hmac.digest(secret, f"{head}.{body}".encode(), hashlib.sha256)
    return raw_token({"alg": "HS256", "kid": "one"}, claimed(roles=["admin"]), signature)


def with_another_body() -> str:
    head, _, signature = SIGNER.token().split(".")
    other = raw_token({}, claimed(roles=["admin"]), b"").split(".")[1]
    return f"{head}.{other}.{signature}"


@pytest.mark.parametrize(
    "token",
    [
        *(unsigned(name) for name in ("none", "None", "NONE", "", "ES256", "HS256", "XX")),
        signed_with_the_public_key(public_pem(SIGNER)),
        signed_with_the_public_key(json.dumps(SIGNER.jwk()).encode()),
        with_another_body(),
        Signer("one").token(roles=["admin"]),
        Signer("two").token(roles=["admin"]),
        Signer("one").token(headers={"jwk": Signer().jwk(), "jku": "https://evil.test/keys"}),
        SIGNER.token(headers={"crit": ["exp"]}),
        SIGNER.token()[:-4],
        SIGNER.token() + "A",
        "a.b.c",
        "..",
        "e30.e30.",
    ],
)
def test_what_attackers_make_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        taken(token)
    assert refused.value.reason == "BAD_CREDENTIAL"
    assert token not in str(refused.value)


def test_the_algorithm_is_that_of_the_key() -> None:
    signer = Signer(kind="rsa")
    other = jwt.encode(claimed(), signer.key, "RS512", headers={"kid": "one"})
    with pytest.raises(Unauthenticated):
        taken(other, signer)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."))
def test_any_text_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        taken(token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ"]), JSON), st.dictionaries(st.text(), JSON))
def test_any_header_and_claims_are_refused(header: dict[str, Any], claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        taken(raw_token(header, claims, b"signature"))


@given(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "sub", "tenant", "roles", "agents"]), JSON))
def test_any_signed_claims_are_a_caller_or_refused(claims: dict[str, Any]) -> None:
    try:
        token = jwt.encode(claimed() | claims, SIGNER.key, "ES256", headers={"kid": "one"})
    except TypeError:
        return  # the library does not write it, so no issuer does
    try:
        caller = taken(token)
    except Unauthenticated:
        return
    assert caller.name


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": [1]}',
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}',
        b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_set_of_public_keys(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        keys_of(document)


def test_keys_that_are_not_usable_are_passed_over() -> None:
    listed = [{"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}, {"kty": "new"}, SIGNER.jwk()]
    assert list(keys_of(json.dumps({"keys": listed}).encode())) == ["one"]


@given(st.binary())
def test_any_document_is_keys_or_a_sentence(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        keys_of(document)


def test_a_checked_token_is_remembered_for_a_while_and_never_past_its_end() -> None:
    remembered, alice = Remembered(), Caller("alice", frozenset())
    remembered.put("a", alice, until=1_000.0, now=0.0)
    remembered.put("b", alice, until=10.0, now=0.0)
    assert remembered.get("a", REMEMBERED - 1) is alice
    assert remembered.get("a", REMEMBERED) is None
    assert remembered.get("b", 9.0) is alice
    assert remembered.get("b", 10.0) is None
    for number in range(MAX_REMEMBERED):
        remembered.put(str(number), alice, 1_000.0, 0.0)
    assert remembered.get("a", 0.0) is None
