"""
How HTTP is spoken with a proxy: the version, what a connection carries, and the login that is added to requests.

The login of requests is added here, at the proxy's cluster, so that whatever is routed to it carries it and nothing
else does; that of tunnels, which are no requests to Envoy, is added by their chains.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, assert_never

from envoy_data_plane.envoy.config.core.v3 import (
    Http2ProtocolOptions,
    KeepaliveSettings,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.core.v3 import (
    HttpProtocolOptions as CommonHttpProtocolOptions,
)
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)

from xds import names
from xds.compile.http import build_http1_options
from xds.compile.secrets import build_secret_config
from xds.compile.wire import pack
from xds.policy.model import ProxyProtocol

if TYPE_CHECKING:
    from envoy_data_plane.google.protobuf import Any

    from xds.policy.model import Proxy

_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ONE_REQUEST = 1
"""
Requests that an HTTP/1 connection to a proxy carries. Proxies are careless with what follows the first: Tinyproxy
closes without a word, which would cost the next request a 503, and proxy.py sends it to the first one's origin.
"""
_TUNNELS_PER_CONNECTION = 32
"""
Envoy counts on this many until the proxy says how many it takes, and a tunnel beyond the proxy's own limit hangs.
RFC 9113 (section 6.5.2) recommends no limit below 100.
"""
_PING_INTERVAL = timedelta(seconds=30)
_PING_TIMEOUT = timedelta(seconds=20)
"""A connection that died in silence would swallow every tunnel on it, new ones too."""


def build_protocol_options(proxy: Proxy) -> dict[str, Any]:
    """Build the protocol options of a proxy's cluster."""
    options = HttpProtocolOptions(
        explicit_http_config=_build_version(proxy.protocol),
        common_http_protocol_options=_build_common(proxy.protocol),
        http_filters=[] if proxy.login is None else _build_filters(names.proxy_login(proxy.name, proxy.login.file)),
    )
    return {_PROTOCOL_OPTIONS: pack(options)}


def _build_version(protocol: ProxyProtocol) -> HttpProtocolOptionsExplicitHttpConfig:
    match protocol:
        case ProxyProtocol.HTTP1:
            return HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=build_http1_options())
        case ProxyProtocol.HTTP2:
            ping = KeepaliveSettings(interval=_PING_INTERVAL, timeout=_PING_TIMEOUT)
            http2 = Http2ProtocolOptions(max_concurrent_streams=_TUNNELS_PER_CONNECTION, connection_keepalive=ping)
            return HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=http2)
        case other:
            assert_never(other)


def _build_common(protocol: ProxyProtocol) -> CommonHttpProtocolOptions | None:
    is_one = protocol is ProxyProtocol.HTTP1
    return CommonHttpProtocolOptions(max_requests_per_connection=_ONE_REQUEST) if is_one else None


def _build_filters(secret: str) -> list[HttpFilter]:
    """Build the filters that requests to the proxy pass; the codec must be the last of them."""
    credential = Generic(credential=build_secret_config(secret), header="proxy-authorization")
    injector = CredentialInjector(
        # An application that still sends a login of its own would otherwise be let in, or not, by that one.
        overwrite=True,
        credential=TypedExtensionConfig(name="envoy.http.injected_credentials.generic", typed_config=pack(credential)),
    )
    return [
        HttpFilter(name="envoy.filters.http.credential_injector", typed_config=pack(injector)),
        HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=pack(UpstreamCodec())),
    ]
