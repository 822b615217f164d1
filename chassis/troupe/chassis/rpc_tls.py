"""Certificates as gRPC credentials. gRPC asks for the server's at every handshake, on a thread of its own."""

import grpc

from troupe.chassis.tls import Certificates, Pem


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that follow the files; with a `ca`, clients must show a certificate of it."""

    def changed() -> grpc.ServerCertificateConfiguration | None:
        return _configuration(certificates.pem) if certificates.refresh() else None

    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates.pem),
        changed,  # type: ignore[arg-type]  # None is "unchanged", which the stubs do not know
        require_client_authentication=certificates.pem.ca is not None,
    )


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    """Credentials of one connection: they do not change any more."""
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    pairs = [(pem.key, pem.cert)] if pem.key is not None and pem.cert is not None else []
    return grpc.ssl_server_certificate_configuration(pairs, root_certificates=pem.ca)
