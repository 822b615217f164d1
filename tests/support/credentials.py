"""Credentials for tests: tokens in a file, an issuer that signs, certificates with names in them."""

import base64
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from troupe.chassis.access.static_tokens import fresh_token, hashed
from troupe.cli import dev_certificates

ISSUER, AUDIENCE = "https://issuer.test", "troupe"


@dataclass(frozen=True, slots=True)
class Files:
    """Certificates as `troupe certs dev` makes them."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def settings(self, name: str) -> dict[str, Any]:
        """What a process is given to serve with mutual TLS as that one."""
        return {
            "tls_ca": self.ca,
            "tls_cert": self.directory / f"{name}.pem",
            "tls_key": self.directory / f"{name}.key",
        }


def certificates(directory: Path, *workers: str) -> Files:
    """Of an authority of their own."""
    dev_certificates.make(directory, workers, [], 1)
    return Files(directory)


def entry(token: str, name: str, roles: Iterable[str], **more: Any) -> str:
    """One table of a file of tokens; `more` are fields as TOML writes them."""
    rest = "".join(f"{field} = {value}\n" for field, value in more.items())
    return f'[[token]]\nname = "{name}"\nsha256 = "{hashed(token)}"\nroles = {json.dumps([*roles])}\n{rest}\n'


@dataclass(slots=True)
class Tokens:
    """A file of tokens."""

    path: Path

    def add(self, name: str, *roles: str, **more: Any) -> str:
        """A new token in it."""
        token = fresh_token()
        with self.path.open("a") as file:
            file.write(entry(token, name, roles, **more))
        return token


class Signer:
    """Signs tokens as an identity provider does. `kind` is `ec` or `rsa`."""

    def __init__(self, key_id: str = "one", kind: str = "ec") -> None:
        self.key_id = key_id
        self.key: Any
        if kind == "ec":
            self.key, self.algorithm = ec.generate_private_key(ec.SECP256R1()), "ES256"
        else:
            self.key, self.algorithm = rsa.generate_private_key(65537, 2048), "RS256"

    def jwk(self) -> dict[str, Any]:
        """The public key."""
        made: Any = jwt.get_algorithm_by_name(self.algorithm)
        public: dict[str, Any] = made.to_jwk(self.key.public_key(), as_dict=True)
        return public | {"kid": self.key_id, "use": "sig"}

    def token(self, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token that is taken, unless the claims say otherwise; a claim that is None is left out."""
        return jwt.encode(claimed(**claims), self.key, self.algorithm, headers={"kid": self.key_id, **(headers or {})})


def claimed(**claims: Any) -> dict[str, Any]:
    """The claims of a token that is taken, with others in their place."""
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": int(time.time()) + 600,
        "tenant": "acme",
        "roles": ["client"],
    }
    return {name: value for name, value in (usual | claims).items() if value is not None}


def key_set(*signers: Signer) -> bytes:
    """Their public keys as a JWK Set."""
    return json.dumps({"keys": [signer.jwk() for signer in signers]}).encode()


def raw_token(header: dict[str, Any], claims: dict[str, Any], signature: bytes) -> str:
    """A token of these parts, whatever they are."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
