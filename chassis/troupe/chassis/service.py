"""The settings that every service has, whatever else it needs."""

from pathlib import Path
from typing import Literal, Self

from pydantic import field_validator, model_validator

from troupe.chassis.address import Address
from troupe.chassis.settings import Settings, setting

LogFormat = Literal["auto", "human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class ServiceSettings(Settings):
    """Base of the settings of a service that listens. A subclass gives `listen` its own default port.

    A `listen` or `metrics_listen` that the user gave is taken as it is; a default moves on to the next free port.
    """

    listen: str = setting(
        default="127.0.0.1:0",
        description="host:port to serve gRPC at, port 0 for any free one; loopback, so that nothing is open unasked",
    )
    metrics_listen: str = setting(
        default="127.0.0.1:9464",
        description="host:port to serve Prometheus metrics at, empty for none; 9464 is what OpenTelemetry uses",
    )
    tls_cert: Path | None = setting(
        default=None,
        description="PEM file with this service's certificate chain; read again when it changes",
    )
    tls_key: Path | None = setting(default=None, description="PEM file with the certificate's key, not encrypted")
    tls_ca: Path | None = setting(
        default=None,
        description="PEM file with the authorities of client certificates; when given, clients need one (mTLS)",
    )
    insecure: bool = setting(
        default=False,
        description="serve without TLS at an address that is not loopback; off, so that nobody does it by mistake",
    )
    otlp_endpoint: str = setting(
        default="",
        description="http:// or https:// URL of an OTLP/gRPC collector for traces, port 4317 as a rule; "
        "empty exports none",
    )
    log_format: LogFormat = setting(
        default="auto",
        description="human lines, one JSON object per line, or auto: human where stderr is a terminal",
    )
    log_level: LogLevel = setting(default="info", description="least severe log lines to write")
    stop_grace: float = setting(
        default=5.0,
        ge=0,
        description="seconds that unary calls in flight get to finish when the service stops; most take far less",
    )

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _is_an_address(cls, listen: str) -> str:
        if listen:
            Address.parse(listen)
        return listen

    @field_validator("listen")
    @classmethod
    def _is_given(cls, listen: str) -> str:
        if not listen:
            raise ValueError("needs a host:port")
        return listen

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_a_url(cls, endpoint: str) -> str:
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return endpoint

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both or none")
        if self.tls_ca is not None and self.tls_cert is None:
            raise ValueError("tls_ca asks clients for certificates and needs tls_cert and tls_key beside it")
        return self
