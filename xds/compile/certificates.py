"""
What can be known of certificates and keys before an Envoy is given them.

Certificates are re-written as bare PEM, so that comments around them change no version. Nothing here reads a file or
a clock, and no text of a key or of an exception about one goes anywhere.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

Certificates = tuple[x509.Certificate, ...]

_DAY = 86_400.0
_NOTICE = 14 * _DAY
"""Seconds before its end at which a certificate is worth a warning."""
_NOTICE_SHARE = 3
"""One that lives so briefly that the notice would be most of its life is warned of in the last third of it."""
_SMALLEST_RSA = 2048
"""Envoy takes no shorter key (Secure.CommonTlsContext, "tls_certificates")."""
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@lru_cache(maxsize=64)
def read_certificates(text: str) -> Certificates:
    """Return the certificates of a PEM text; none if it holds none, or a broken one."""
    try:
        with warnings.catch_warnings():
            # A serial number of zero and the like: old authorities have them, and Envoy does not mind.
            warnings.simplefilter("ignore")
            return tuple(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        return ()


def render_certificates(certificates: Certificates) -> str:
    """Return certificates as bare PEM."""
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether others can be verified against `certificate`; so can an old or pinned one that signed itself."""
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return True
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        pass
    return certificate.subject == certificate.issuer


def uris_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the URIs among the names of `certificate` (RFC 5280, section 4.2.1.6)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))


def ends_at(certificate: x509.Certificate) -> float:
    """Return the last moment of `certificate`, in seconds since the epoch."""
    return certificate.not_valid_after_utc.timestamp()


def warns_at(certificate: x509.Certificate, notice: float = _NOTICE) -> float:
    """
    Return the moment from which on the end of `certificate` is worth a warning, in seconds since the epoch.

    `notice` is in seconds; of one that lives briefly, the last third is enough.
    """
    lifetime = ends_at(certificate) - certificate.not_valid_before_utc.timestamp()
    return ends_at(certificate) - min(notice, lifetime / _NOTICE_SHARE)


def settle_moment(certificates: Iterable[x509.Certificate], now: float) -> float:
    """Return the last moment up to `now` at which something about `certificates` changed; 0: nothing did yet."""
    moments = [moment for certificate in certificates for moment in (warns_at(certificate), ends_at(certificate))]
    return max((moment for moment in moments if moment <= now), default=0.0)


def read_key(text: str) -> PrivateKeyTypes | None:
    """Return the private key of a PEM text; None if there is none, or only under a passphrase."""
    try:
        return load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def render_key(key: PrivateKeyTypes) -> str:
    """Return a key as bare PEM, without whatever stood around it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def is_usable(key: PrivateKeyTypes) -> bool:
    """Whether Envoy takes keys of this kind and size."""
    match key:
        case rsa.RSAPrivateKey():
            return key.key_size >= _SMALLEST_RSA
        case ec.EllipticCurvePrivateKey():
            return isinstance(key.curve, _CURVES)
        case _:
            return False


def belongs_to(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Whether `certificate` is about the public half of `key`."""
    try:
        return _encode(key.public_key()) == _encode(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return False


def _encode(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
