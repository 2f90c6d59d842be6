"""
What applications trust: the system's authorities and those of the company, in the files that runtimes read.

The command reads and writes the files; nothing here does. Invariants: what is written holds every authority that was
there before, the system's bundle stays as it is, byte by byte, and no text of a PEM block enters a message, because
people put keys there by mistake.
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import (
    PBES,
    PKCS12Certificate,
    serialize_java_truststore,
)
from cryptography.utils import CryptographyDeprecationWarning

from xds.errors import SettingsError, quote_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

BUNDLE = "ca-bundle.crt"
"""The system's authorities and the company's, in PEM."""
COMPANY = "ca.crt"
"""The company's alone, in PEM, for who adds to a list of his own."""
TRUSTSTORE = "truststore.p12"
"""As the bundle, for Java."""

TRUSTSTORE_PASSWORD = "changeit"  # noqa: S105 -- Java's own for its truststore; everything in it is public
"""Java wants one; what it protects is public."""

VARIABLE = "EGRESS_XDS_TRUSTED_CA"
"""The environment variable in which the company's authorities travel to the command."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_MARKER = re.compile(rb"-----(?:BEGIN|END)")
_CERTIFICATE = b"CERTIFICATE"
_TRUST_STORE_OPTION = "-Djavax.net.ssl.trustStore"


@dataclass(frozen=True, slots=True)
class Trust:
    """What applications are to trust: see `build_trust`."""

    files: Mapping[str, bytes]
    """By name: `BUNDLE`, `COMPANY`, `TRUSTSTORE`. They hold nothing secret."""
    added: int
    """How many of the company's authorities the system did not have."""
    kept: int
    """How many authorities the system has."""
    unread: tuple[str, ...]
    """Which of the system's authorities the truststore lacks, for nothing can be made of them, each in words."""


def parse_authorities(pem: str, origin: str) -> tuple[x509.Certificate, ...]:
    """
    Return the certificates of a PEM text, each of them once, in their order.

    Raises SettingsError, which says where in `origin` the mistake is: text that is no whole certificate, a private
    key, no certificate at all.
    """
    data = pem.encode()
    if b"PRIVATE KEY" in data:
        raise SettingsError(
            f"{origin} holds a private key; remove it and consider it known: only certificates belong there"
        )
    blocks = _split(data)
    if 2 * len(blocks) != len(_MARKER.findall(data)):
        raise SettingsError(f"{origin}: block {len(blocks) + 1} or one before it is no whole PEM block; give it whole")
    if not blocks:
        raise SettingsError(
            f"{origin} holds no certificate; give one or more `-----BEGIN CERTIFICATE-----` blocks of authorities"
        )
    return tuple({_identify(found): found for found in _parse_all(blocks, origin)}.values())


def build_trust(system: bytes, company: Iterable[x509.Certificate]) -> Trust:
    """
    Return the files that hold the authorities of `system`, a bundle in PEM, and of the company.

    Raises SettingsError if there is no certificate in `system`: applications would trust the company alone.
    """
    known, unread = _read_system(system)
    if not known:
        raise SettingsError("the system's bundle holds no certificate; install ca-certificates, or name another one")
    company = tuple(company)
    new = tuple(found for found in company if _identify(found) not in known)
    bundle = system if system.endswith(b"\n") else system + b"\n"
    return Trust(
        files={
            BUNDLE: bundle + _render(new),
            COMPANY: _render(company),
            TRUSTSTORE: _render_truststore([*_name("system", known.values()), *_name("company", new)]),
        },
        added=len(new),
        kept=len(known) + len(unread),
        unread=unread,
    )


def render_variables(directory: str, java_tool_options: str | None = None) -> dict[str, str]:
    """
    Return the environment variables that make runtimes trust what is in `directory`, as they see it.

    `java_tool_options` is what JAVA_TOOL_OPTIONS is already: all of it stays, and if it names a truststore of the
    application's own, nothing is added. Raises SettingsError for a directory that is no absolute path of plain words.
    """
    # The JVM splits the options at blanks, and knows quotes only in some versions.
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*", directory) or ".." in PurePosixPath(directory).parts:
        raise SettingsError(f"{quote_value(directory)} is no absolute path of letters, digits and ._-; give one")
    bundle, company, truststore = (str(PurePosixPath(directory, name)) for name in (BUNDLE, COMPANY, TRUSTSTORE))
    readers = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
    return {
        **dict.fromkeys(readers, bundle),
        "NODE_EXTRA_CA_CERTS": company,
        "JAVA_TOOL_OPTIONS": _append_java_options(java_tool_options or "", truststore),
    }


def _append_java_options(given: str, truststore: str) -> str:
    if f"{_TRUST_STORE_OPTION}=" in given:
        return given
    options = (
        f"{_TRUST_STORE_OPTION}={truststore}",
        f"{_TRUST_STORE_OPTION}Type=PKCS12",
        f"{_TRUST_STORE_OPTION}Password={TRUSTSTORE_PASSWORD}",
    )
    return " ".join([given, *options] if given else options)


def _split(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return label and body of every PEM block."""
    return [(block[1], block[2]) for block in _BLOCK.finditer(data)]


def _parse_all(blocks: Iterable[tuple[bytes, bytes]], origin: str) -> Iterator[x509.Certificate]:
    for number, (label, body) in enumerate(blocks, start=1):
        found = _parse(body) if label == _CERTIFICATE else None
        if found is None:
            raise SettingsError(
                f"{origin}: block {number} is no certificate that can be read; "
                "export the authority again, as PEM (base64 X.509)"
            )
        yield found


def _parse(body: bytes) -> x509.Certificate | None:
    with warnings.catch_warnings():
        # One of Debian's authorities has 0 as its serial number, which the library promises to refuse some day.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        try:
            return x509.load_der_x509_certificate(base64.b64decode(b"".join(body.split()), validate=True))
        except (binascii.Error, ValueError):
            return None


def _read_system(data: bytes) -> tuple[dict[bytes, x509.Certificate], tuple[str, ...]]:
    """Return the certificates by identity, and what can't be read: other programs may still make something of it."""
    known: dict[bytes, x509.Certificate] = {}
    unread: list[str] = []
    for number, (label, body) in enumerate(_split(data), start=1):
        found = _parse(body) if label == _CERTIFICATE else None
        if found is None:
            unread.append(f"block {number} of the system's bundle")
        else:
            known[_identify(found)] = found
    return known, tuple(unread)


def _identify(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(SHA256())


def _render(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _name(kind: str, certificates: Iterable[x509.Certificate]) -> Iterator[PKCS12Certificate]:
    """Give each an alias of its own: of two with the same, Java keeps one."""
    for number, certificate in enumerate(certificates, start=1):
        yield PKCS12Certificate(certificate, f"{kind}-{number:03}".encode())


def _render_truststore(certificates: list[PKCS12Certificate]) -> bytes:
    # Java 8 before 8u301 and Java 11 before 11.0.12 read no newer algorithm. Nothing here needs protection.
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .key_cert_algorithm(PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(SHA1())  # noqa: S303 -- as above
        .build(TRUSTSTORE_PASSWORD.encode())
    )
    return serialize_java_truststore(certificates, encryption)
