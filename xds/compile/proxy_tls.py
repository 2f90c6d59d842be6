"""
TLS to a proxy itself: whom we trust, which name we expect, and how we prove who we are.

Authorities are public and stand in the cluster; a client certificate is a secret of its own. Invariant: a proxy's
certificate is always verified, against a name and against authorities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from envoy_data_plane.envoy.config.cluster.v3 import ClusterTransportSocketMatch
from envoy_data_plane.envoy.config.core.v3 import DataSource, TransportSocket
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any, Struct, Value

from xds import names
from xds.compile.hosts import is_address
from xds.compile.secrets import build_secret_config
from xds.policy.model import ProxyProtocol, TlsVersion

if TYPE_CHECKING:
    from xds.compile.proxy_files import Material
    from xds.policy.model import Proxy, ProxyTls

SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian, Ubuntu, Alpine and Envoy's own images keep them; on the machine of the Envoy, not on this one."""


def build_tls_criteria() -> Struct:
    """Build the mark of an endpoint that wants TLS."""
    return Struct(fields={"tls": Value(bool_value=True)})


def build_transport_sockets(proxy: Proxy, material: Material) -> list[ClusterTransportSocketMatch]:
    """Build TLS for the endpoints that want it, nothing for the others: one proxy may have both."""
    if not any(endpoint.tls for endpoint in proxy.endpoints):
        return []
    context = Any.pack(_build_tls_context(proxy, material))
    tls = TransportSocket(name="envoy.transport_sockets.tls", typed_config=context)
    raw = TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=Any.pack(RawBuffer()))
    return [
        ClusterTransportSocketMatch(name="tls", match=build_tls_criteria(), transport_socket=tls),
        ClusterTransportSocketMatch(name="raw", match=Struct(), transport_socket=raw),
    ]


def _build_tls_context(proxy: Proxy, material: Material) -> UpstreamTlsContext:
    own = proxy.tls.client_certificate
    name = proxy.tls.server_name
    secrets = [] if own is None else [names.proxy_certificate(proxy.name, own.certificate_file, own.key_file)]
    # An address is never sent as a server name (RFC 6066, section 3), and a certificate holds it as an address.
    is_named = name is None or not is_address(name)
    return UpstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_params=_build_versions(proxy.tls.minimum_version),
            tls_certificate_sds_secret_configs=[build_secret_config(secret) for secret in secrets],
            validation_context=_build_validation(proxy.tls, None if is_named else name, material),
            alpn_protocols=["h2"] if proxy.protocol is ProxyProtocol.HTTP2 else [],
        ),
        sni=name if name is not None and is_named else "",
        auto_host_sni=name is None,
        auto_sni_san_validation=is_named,
    )


def _build_versions(minimum: TlsVersion) -> TlsParameters:
    # As a client Envoy stops at TLS 1.2 unless told otherwise, and a minimum above that fails every handshake.
    return TlsParameters(
        tls_minimum_protocol_version=_protocol(minimum), tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3
    )


def _protocol(version: TlsVersion) -> TlsParametersTlsProtocol:
    match version:
        case TlsVersion.V1_2:
            return TlsParametersTlsProtocol.TLSv1_2
        case TlsVersion.V1_3:
            return TlsParametersTlsProtocol.TLSv1_3
        case other:
            assert_never(other)


def _build_validation(tls: ProxyTls, address: str | None, material: Material) -> CertificateValidationContext:
    # Envoy has the field `system_root_certs` but does not implement it: without a `trusted_ca` nothing is verified.
    is_own = tls.ca_pem is not None or tls.ca_file is not None
    authorities = DataSource(inline_string=material.authorities) if is_own else DataSource(filename=SYSTEM_AUTHORITIES)
    matchers = [] if address is None else [address]
    return CertificateValidationContext(
        trusted_ca=authorities,
        match_typed_subject_alt_names=[
            SubjectAltNameMatcher(
                san_type=SubjectAltNameMatcherSanType.IP_ADDRESS, matcher=StringMatcher(exact=matcher)
            )
            for matcher in matchers
        ],
    )
