"""Why two sides could not agree on TLS, from what Python and OpenSSL say of it. Pure."""

import re
import ssl
from collections.abc import Iterable
from enum import Enum, auto

_REFUSED = re.compile(r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|HANDSHAKE_FAILURE)")
_PLAIN = re.compile(r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG")
"""What OpenSSL makes of an answer that is no TLS; which, depends on its version and the answer."""


class TlsFault(Enum):
    UNTRUSTED = auto()
    """The other side's certificate is of no authority that is trusted, or not of its host, or out of date."""
    REFUSED = auto()
    """The other side wants a certificate of this one, or another."""
    PLAIN = auto()
    """The other side does not speak TLS."""


def fault(causes: Iterable[BaseException]) -> TlsFault | None:
    """Among the errors that came of one another; None where it is none of TLS. Libraries may have made text of the
    one that tells, so texts are looked at as well."""
    for cause in causes:
        text = str(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsFault.UNTRUSTED
        if _REFUSED.search(text):
            return TlsFault.REFUSED
        if _PLAIN.search(text):
            return TlsFault.PLAIN
    return None
