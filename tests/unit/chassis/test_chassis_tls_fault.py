"""What is read out of OpenSSL's words."""

import ssl

import pytest

from troupe.chassis.tls_fault import TlsFault, fault

REFUSED, PLAIN = TlsFault.REFUSED, TlsFault.PLAIN


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required (_ssl.c:2580)", REFUSED),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca (_ssl.c:2580)", REFUSED),
        ("[SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert bad certificate (_ssl.c:1006)", REFUSED),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired (_ssl.c:1006)", REFUSED),
        ("[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure (_ssl.c:1006)", REFUSED),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", PLAIN),
        ("[SSL: RECORD_LAYER_FAILURE] record layer failure (_ssl.c:1032)", PLAIN),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version (_ssl.c:1006)", None),
        ("[Errno 104] Connection reset by peer", None),
    ],
)
def test_each_fault_is_known_by_its_name(said: str, meant: TlsFault | None) -> None:
    assert fault([OSError("around it"), ssl.SSLError(1, said)]) is meant
    assert fault([ValueError(f"lost: SSLError(1, '{said}')")]) is meant, "made text of by a library"


def test_a_certificate_that_is_not_trusted_is_not_taken_for_one_that_is_wanted() -> None:
    said = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate in certificate chain"
    assert fault([ConnectionError(said), ssl.SSLCertVerificationError(1, said)]) is TlsFault.UNTRUSTED
