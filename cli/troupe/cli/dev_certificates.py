"""A certificate authority and certificates to try a fleet with mutual TLS. The one module that knows `cryptography`.

The authority's key is never written: who wants another certificate makes another authority. What is made here is for
trying things, on one machine or between a few; a fleet that matters gets its certificates from where they are renewed.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from troupe.chassis.access.identity import controlplane_uri, worker_uri
from troupe.chassis.errors import FailedPrecondition, InvalidArgument

DOMAIN = "dev.troupe"
"""The trust domain in the names of processes."""
BACKDATED = timedelta(minutes=5)
"""Clocks differ."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate: the name of its files, what it says of its process, and where that one is reached."""

    name: str
    uri: str = ""
    hosts: Sequence[str] = ()


def make(directory: Path, workers: Sequence[str], hosts: Sequence[str], days: int) -> list[Path]:
    """Write `ca.pem` and, for the control plane, each worker and a client, `NAME.pem` and `NAME.key`; the files.

    `hosts` are names and addresses that the processes are reached by beside this machine's own. Keys are readable by
    this user alone. Raises FailedPrecondition FILES_EXIST, and nothing is written, where a file is there already."""
    reached = ["localhost", "127.0.0.1", "::1", *hosts]
    wanted = [
        Wanted("controlplane", controlplane_uri(DOMAIN), reached),
        *(Wanted(worker, worker_uri(worker, DOMAIN), reached) for worker in workers),
        Wanted("client"),
    ]
    if len({one.name for one in wanted}) < len(wanted):
        raise InvalidArgument("BAD_NAME", "workers need names of their own, other than controlplane and client")
    files = [directory / "ca.pem"]
    files += [directory / f"{one.name}.{end}" for one in wanted for end in ("pem", "key")]
    if there := next((path for path in files if path.exists()), None):
        raise FailedPrecondition("FILES_EXIST", f"{there} is there already; name another directory, or remove it first")
    authority = _Authority(days)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(files[0], _pem(authority.certificate), 0o644)
        for one in wanted:
            key = ec.generate_private_key(ec.SECP256R1())
            _write(directory / f"{one.name}.pem", _pem(authority.signed(one, key.public_key())), 0o644)
            _write(directory / f"{one.name}.key", _unencrypted(key), 0o600)
    except OSError as error:
        raise FailedPrecondition("DATA_UNWRITABLE", f"cannot write to {directory}: {error.strerror}") from error
    return files


class _Authority:
    def __init__(self, days: int) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._begin = datetime.now(UTC) - BACKDATED
        self._end = self._begin + timedelta(days=days)
        self._name = _name("troupe dev authority")
        self.certificate = (
            self._begun(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def signed(self, wanted: Wanted, key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        names: list[x509.GeneralName] = [_host(host) for host in wanted.hosts]
        if wanted.hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        if wanted.uri:
            names.append(x509.UniformResourceIdentifier(wanted.uri))
        builder = (
            self._begun(_name(wanted.name), key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _begun(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._begin)
            .not_valid_after(self._end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise InvalidArgument("BAD_HOST", f"{host!r} is no host name or IP address") from error


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _unencrypted(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """A new file, which nobody else can read for a moment and then no more."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
