"""
Secrets: a resource of its own per login and per client certificate, delivered by SDS over ADS.

So a new login changes one secret and neither a listener nor a cluster. Invariant: nothing but these resources holds
one; who needs it refers to it by name and waits for it as long as it takes, because an Envoy that gave up waiting
would ask the proxy without it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import AggregatedConfigSource, ApiVersion, ConfigSource, DataSource
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    GenericSecret,
    SdsSecretConfig,
    Secret,
    TlsCertificate,
)

from xds import names
from xds.resources import Reference, Resource, ResourceType, build_resource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.compile.proxy_files import Material
    from xds.policy.model import ClientCertificate, Proxy

_FOR_EVER = timedelta(0)


def build_secret_config(name: str) -> SdsSecretConfig:
    """Build the reference to the secret `name`."""
    ads = ConfigSource(
        ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3, initial_fetch_timeout=_FOR_EVER
    )
    return SdsSecretConfig(name=name, sds_config=ads)


def secrets_of(proxy: Proxy) -> tuple[Reference, ...]:
    """Return what the cluster of `proxy` refers to."""
    return tuple(Reference(ResourceType.SECRET.type_url, name) for name in _names(proxy))


def logins_of(proxies: Iterable[Proxy]) -> tuple[Reference, ...]:
    """Return what a listener with tunnels to `proxies` refers to."""
    return tuple(
        Reference(ResourceType.SECRET.type_url, names.proxy_login(proxy.name, proxy.login.file))
        for proxy in proxies
        if proxy.login is not None
    )


def build_secrets(proxy: Proxy, material: Material) -> Iterable[Resource]:
    """Yield the secrets of `proxy`."""
    if proxy.login is not None:
        name = names.proxy_login(proxy.name, proxy.login.file)
        login = GenericSecret(secret=DataSource(inline_string=material.login))
        yield build_resource(ResourceType.SECRET, name, Secret(name=name, generic_secret=login))
    own = _own_certificate(proxy)
    if own is not None:
        name = names.proxy_certificate(proxy.name, own.certificate_file, own.key_file)
        pair = TlsCertificate(
            certificate_chain=DataSource(inline_string=material.certificates),
            private_key=DataSource(inline_string=material.key),
        )
        yield build_resource(ResourceType.SECRET, name, Secret(name=name, tls_certificate=pair))


def _names(proxy: Proxy) -> Iterable[str]:
    if proxy.login is not None:
        yield names.proxy_login(proxy.name, proxy.login.file)
    own = _own_certificate(proxy)
    if own is not None:
        yield names.proxy_certificate(proxy.name, own.certificate_file, own.key_file)


def _own_certificate(proxy: Proxy) -> ClientCertificate | None:
    """Return what is shown to the proxy; None also if there is no TLS to show it in."""
    return proxy.tls.client_certificate if any(endpoint.tls for endpoint in proxy.endpoints) else None
