"""Certificates of every kind that a test needs: good ones, ended ones, and those that do not belong together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PrivateKeyTypes

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in PEM."""

    certificate: str
    key: str


class Authority:
    """Signs certificates; `certificate` is its own."""

    def __init__(
        self, name: str = "authority", *, start: datetime | None = None, lifetime: timedelta = 365 * DAY
    ) -> None:
        self._start = start or datetime.now(UTC) - DAY
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.certificate = self._sign(self._name, self._key, (self._start, lifetime), is_authority=True)

    def issue(
        self,
        *names: str,
        start: datetime | None = None,
        lifetime: timedelta = 90 * DAY,
        key: CertificateIssuerPrivateKeyTypes | None = None,
    ) -> Issued:
        """Issue a certificate for a server, and a client, with these names and URIs."""
        used = key or ec.generate_private_key(ec.SECP256R1())
        signed = self._sign(_name(names[0]), used, (start or self._start, lifetime), names=names)
        return Issued(signed, render_key(used))

    def _sign(
        self,
        subject: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        time: tuple[datetime, timedelta],
        *,
        names: tuple[str, ...] = (),
        is_authority: bool = False,
    ) -> str:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(time[0])
            .not_valid_after(time[0] + time[1])
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if not is_authority:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            alternatives = x509.SubjectAlternativeName(list(map(_alternative, names)))
            builder = builder.add_extension(usage, critical=False).add_extension(alternatives, critical=False)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()


def render_key(key: PrivateKeyTypes) -> str:
    """Return a key in PEM, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _alternative(name: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
