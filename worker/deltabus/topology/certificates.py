"""Certificates that do not fit: what TLS says of them, in words that name the option to change."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Final

#: By the reason of an error of OpenSSL's: a server says that it does not take what it was shown, or was shown nothing.
_NOT_TAKEN: Final = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
)

#: Codes of a check that failed because the certificate is for other names (`X509_V_ERR_HOSTNAME_MISMATCH` and of an IP
#: address, as of OpenSSL's x509_vfy.h).
_OTHER_NAME: Final = frozenset({62, 64})


def misfit(error: BaseException, *, fresh: bool = False) -> str | None:
    """What is wrong with a certificate, where that is why no connection came about; None: it is not.

    No waiting mends it.

    Args:
        fresh: the connection had just been made. TLS 1.3 has a client write before it can hear that it was refused.
    """
    writing = False
    for cause in _causes(error):
        writing = writing or "while writing" in str(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = str(cause.verify_message).rstrip(".")
            if cause.verify_code in _OTHER_NAME:
                return f"the server's certificate is for another host ({said}): the URL has to name one of those"
            return f"the server's certificate does not fit ({said}): `ssl_ca_certs` names who has signed it"
        if isinstance(cause, ssl.SSLError):
            hung_up = fresh and writing and isinstance(cause, ssl.SSLEOFError)
            if hung_up or cause.reason in _NOT_TAKEN:
                said = cause.reason or "EOF"
                return (
                    f"the server does not take the certificate that it is shown, or wants one ({said}): "
                    "`ssl_certfile` and `ssl_keyfile` name one that it trusts"
                )
            if cause.reason == "KEY_VALUES_MISMATCH":
                return "`ssl_keyfile` is not the key of `ssl_certfile`"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of; redis-py does not always say `from`."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
