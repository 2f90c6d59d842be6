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
    read_certificates,
    read_key,
    render_certificates,
    render_key,
)
from xds.server.identity import Caller, IdentityError, parse_spiffe_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


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

    def __init__(self, certificates: str, key: str, client_ca: str | None = None) -> None:
        """Take PEM texts; with `client_ca` every client needs a certificate. Raises MaterialError."""
        self._material = _read(certificates, key, client_ca)
        self._given = self._material

    def replace(self, certificates: str, key: str, client_ca: str | None) -> None:
        """Use these for new connections from now on. Raises MaterialError, and keeps those that there were."""
        self._material = _read(certificates, key, client_ca)

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

    `properties` is gRPC's authentication context; its SPIFFE ID is there only if the certificate has just one URI.
    """
    spiffe = [value.decode() for value in properties.get("peer_spiffe_id", ())]
    if len(spiffe) != 1:
        raise IdentityError("its certificate has no SPIFFE ID")
    chain = read_certificates(b"".join(properties.get("x509_pem_cert", ())).decode())
    return parse_spiffe_id(spiffe[0], expires=ends_at(chain[0]) if chain else None)


def _read(certificates: str, key: str, client_ca: str | None) -> _Material:
    chain, private = read_certificates(certificates), read_key(key)
    if not chain:
        raise MaterialError("the certificate is not PEM")
    if private is None:
        raise MaterialError("the key is not PEM, or needs a passphrase")
    if not belongs_to(private, chain[0]):
        raise MaterialError("the key does not belong to the (first) certificate")
    authorities = () if client_ca is None else read_certificates(client_ca)
    if client_ca is not None and not any(map(is_authority, authorities)):
        raise MaterialError("the authority of clients is not the PEM of a certificate authority")
    return _Material(
        render_certificates(chain).encode(),
        render_key(private).encode(),
        None if client_ca is None else render_certificates(authorities).encode(),
    )
