"""Certificates from files, read again when the files change, and the rule on where TLS is needed.

Loopback needs nothing. Any other address needs a certificate, or `insecure`, which is logged.
"""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

from troupe.chassis.address import Address
from troupe.chassis.errors import InvalidArgument
from troupe.chassis.files import Stamp, stamp
from troupe.chassis.service import ServiceSettings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What a client trusts and shows. Without `ca` it trusts the public authorities; `cert` and `key` go together."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Pem:
    """The content of the files; None for those that were not named."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


class Certificates:
    """Certificate files and what they held when they were last whole. Threads may share one."""

    def __init__(self, files: ClientTls) -> None:
        """Raises InvalidArgument BAD_TLS when a file cannot be read, or the key is not that of the certificate."""
        self._files = files
        self._seen = self._signature()
        self.pem = self._read()

    def refresh(self) -> bool:
        """Whether the files changed since the last look; `pem` is then their new content.

        While they do not fit together (a rotation writes one after the other) the old content stays and the next
        call looks again.
        """
        seen = self._signature()
        if seen == self._seen:
            return False
        try:
            self.pem = self._read()
        except InvalidArgument as error:
            log.warning("changed certificates not taken", reason=error.reason, error=str(error))
            return False
        self._seen = seen
        log.info("certificates read again", certificate=str(self._files.cert or self._files.ca))
        return True

    def server_context(self) -> ssl.SSLContext:
        """For a server that is not gRPC: asks for client certificates when there is a `ca`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._check(context)
        if self._files.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _read(self) -> Pem:
        self._check(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        return Pem(*(path.read_bytes() if path else None for path in self._paths()))

    def _check(self, context: ssl.SSLContext) -> None:
        files = self._files
        for path in self._paths():
            if path is not None and not os.access(path, os.R_OK):
                raise InvalidArgument("BAD_TLS", f"cannot read {path}: it does not exist, or this user may not")
        try:
            if files.ca is not None:
                context.load_verify_locations(files.ca)
            if files.cert is not None:
                # An encrypted key asks for its password on the terminal unless it is given one.
                context.load_cert_chain(files.cert, files.key, password="")
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            named = ", ".join(str(path) for path in self._paths() if path is not None)
            raise InvalidArgument(
                "BAD_TLS", f"TLS files {named}: {why}; each must be PEM, and the key unencrypted and the certificate's"
            ) from error

    def _signature(self) -> tuple[Stamp, ...]:
        return tuple(stamp(path) for path in self._paths())

    def _paths(self) -> tuple[Path | None, Path | None, Path | None]:
        return self._files.ca, self._files.cert, self._files.key


def guarding(settings: ServiceSettings, listen: str) -> Certificates | None:
    """What to serve `listen` with; None is in the clear. Raises InvalidArgument TLS_REQUIRED, BAD_TLS."""
    if settings.tls_cert is not None:
        return Certificates(ClientTls(settings.tls_ca, settings.tls_cert, settings.tls_key))
    if not Address.parse(listen).loopback:
        if not settings.insecure:
            raise InvalidArgument(
                "TLS_REQUIRED",
                f"{listen} can be reached from other machines: give --tls-cert and --tls-key, "
                "or say --insecure to serve in the clear",
            )
        log.warning("serving without TLS, as --insecure says", listen=listen)
    return None
