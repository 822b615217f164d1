"""The settings of a service that asks who calls."""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from troupe.chassis.service import ServiceSettings
from troupe.chassis.settings import SecretStr, setting


class AccessSettings(ServiceSettings):
    """Base of the settings of a service of the fleet. With `tls_ca`, `tokens` or `jwt_issuer` every call needs a
    credential; without any of them nobody is asked for one."""

    tokens: Path | None = setting(
        default=None,
        description="TOML file of hashed bearer tokens and their roles, made with `troupe token new`; read again when "
        "it changes",
    )
    jwt_issuer: str = setting(
        default="", description="claim iss of the JSON Web Tokens that are taken as bearer tokens; empty: none are"
    )
    jwt_audience: str = setting(
        default="troupe", description="claim aud that they must have: that they were made for this fleet"
    )
    jwt_keys: str = setting(
        default="",
        description="path or https:// URL of the issuer's public keys, a JWK Set; read again every 10 min and for a "
        "key that is not known",
    )
    jwt_role_claim: str = setting(default="roles", description="claim with the caller's role or list of roles")
    token: SecretStr = setting(
        default=SecretStr(""),
        description="bearer token that this process shows to the others of its fleet, or @FILE that holds it; not "
        "needed with certificates (tls_ca)",
    )
    tls_trust: Path | None = setting(
        default=None,
        description="PEM file with the authorities of the servers that this process calls, where no certificates are "
        "demanded of clients; by default tls_ca",
    )
    call_rate: int = setting(
        default=1_000,
        ge=1,
        description="calls a second that one credential may make; the fleet's own processes are not counted",
    )
    call_burst: int = setting(
        default=2_000, ge=1, description="calls that one credential may make at once after it was quiet"
    )

    @property
    def asks(self) -> bool:
        """Whether calls need a credential."""
        return self.tls_ca is not None or self.tokens is not None or bool(self.jwt_issuer)

    @field_validator("jwt_keys")
    @classmethod
    def _is_a_safe_place(cls, place: str) -> str:
        return check_place(place)

    @model_validator(mode="after")
    def _whole_jwt(self) -> Self:
        if bool(self.jwt_issuer) != bool(self.jwt_keys):
            raise ValueError("jwt_issuer and jwt_keys go together: give both or none")
        if self.jwt_issuer and not self.jwt_audience:
            raise ValueError("jwt_audience must not be empty: it keeps tokens of the issuer's other services out")
        return self


def check_place(place: str) -> str:
    """The place, if keys may come from it. Raises ValueError: keys that came over the network in the clear would be
    anybody's."""
    parts = urlsplit(place)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if "://" in place and not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise ValueError("must be a path or an https:// URL (http:// on loopback alone)")
    return place
