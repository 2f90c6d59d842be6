"""
TLS of the server: its certificate and, for mutual TLS, the authority of its clients, exchanged while streams live.

gRPC asks at each handshake, so that a new certificate is for new connections and touches none that is open. The files
are read by others and handed in. Invariant: a certificate without its key, or a broken one, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from xds.compile.certificates import (
    belongs_to,
    ends_at,
    is_authority,
    is_usable,
    read_certificates,
    read_key,
    render_certificates,
    render_key,
    uris_of,
    warns_at,
)
from xds.server.identity import Caller, IdentityError, parse_spiffe_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.compile.certificates import Certificates


_NOTICE = 21 * 86_400.0
"""Seconds before its end at which the server's own certificate is worth a warning: somebody has to make another."""


class MaterialError(ValueError):
    """Certificate, key or authority can't be used. The message holds nothing of them."""


@dataclass(frozen=True, slots=True)
class _Material:
    """Bare PEM."""

    certificates: bytes
    key: bytes
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificates)], self.client_ca)


class TlsIdentity:
    """What the server shows of itself, and whom it believes."""

    def __init__(self, certificates: str, key: str, client_ca: str | None = None, *, now: float) -> None:
        """
        Take PEM texts; with `client_ca` every client needs a certificate. `now` is in seconds since the epoch.

        Raises MaterialError.
        """
        self._material = _read(certificates, key, client_ca, now)
        self._given = self._material

    def replace(self, certificates: str, key: str, client_ca: str | None, *, now: float) -> bool:
        """
        Use these for new connections from now on; tell whether they are others.

        Raises MaterialError, and keeps those that there were.
        """
        before, self._material = self._material, _read(certificates, key, client_ca, now)
        return self._material != before

    @property
    def warns_at(self) -> float:
        """From when on the end of the certificate is worth a warning, in seconds since the epoch."""
        return min(warns_at(certificate, _NOTICE) for certificate in self._chain)

    @property
    def ends_at(self) -> float:
        """When the first certificate of the chain ends, in seconds since the epoch."""
        return min(map(ends_at, self._chain))

    @property
    def _chain(self) -> Certificates:
        return read_certificates(self._material.certificates.decode())

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow `replace`."""
        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._material.configuration(),
            self._next,  # type: ignore[arg-type]  # the stubs forget None, which is "as before"
            require_client_authentication=self._material.client_ca is not None,
        )
        return credentials

    def _next(self) -> grpc.ServerCertificateConfiguration | None:
        """Tell gRPC, which asks before each handshake; None: as before."""
        if self._material is self._given:
            return None
        self._given = self._material
        return self._given.configuration()


def identify_peer(properties: Mapping[str, Iterable[bytes]]) -> Caller:
    """
    Return who is at the other end of a connection with mutual TLS. Raises IdentityError.

    `properties` is gRPC's authentication context. Its certificates are read here: what it says of them ends at a NUL.
    """
    chain = [*_certificates(properties, "x509_pem_cert"), *_certificates(properties, "x509_pem_cert_chain")]
    if not chain:
        raise IdentityError("its certificate can't be read")
    identities = uris_of(chain[0])
    if len(identities) != 1:
        raise IdentityError("its certificate has no SPIFFE ID, or several")
    return parse_spiffe_id(identities[0], expires=min(map(ends_at, chain)))


def _certificates(properties: Mapping[str, Iterable[bytes]], name: str) -> Certificates:
    return read_certificates(b"".join(properties.get(name, ())).decode("ascii", "replace"))


def _read(certificates: str, key: str, client_ca: str | None, now: float) -> _Material:
    chain, private = read_certificates(certificates), read_key(key)
    if not chain:
        raise MaterialError("the certificate is not PEM")
    if private is None:
        raise MaterialError("the key is not PEM, or needs a passphrase")
    if not is_usable(private):
        raise MaterialError("the key is neither RSA of at least 2048 bits nor on P-256, P-384 or P-521")
    if not belongs_to(private, chain[0]):
        raise MaterialError("the key does not belong to the (first) certificate")
    if min(map(ends_at, chain)) <= now:
        raise MaterialError("the certificate has ended")
    authorities = () if client_ca is None else read_certificates(client_ca)
    if client_ca is not None and not any(is_authority(item) and ends_at(item) > now for item in authorities):
        raise MaterialError("the authority of clients is not the PEM of a certificate authority that has not ended")
    return _Material(
        render_certificates(chain).encode(),
        render_key(private).encode(),
        None if client_ca is None else render_certificates(authorities).encode(),
    )
