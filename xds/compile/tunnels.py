"""
The chains that do not look inside: dialled directly, wrapped in CONNECT, or closed.

A chain's content changes only with what is constant about its proxy; rules are in the tree that chooses it. A login is
never in a chain: it holds the secret's name, and waits for it before it takes connections.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import (
    BackoffStrategy,
    DataSource,
    HeaderValue,
    HeaderValueOption,
    SubstitutionFormatString,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
from envoy_data_plane.envoy.extensions.filters.network.direct_response.v3 import Config as DirectResponse
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy, TcpProxyTunnelingConfig
from envoy_data_plane.envoy.extensions.formatter.generic_secret.v3 import GenericSecret

from xds import names
from xds.compile.access_log import build_tcp_log
from xds.compile.routes import NO_TIMEOUT
from xds.compile.secrets import build_secret_config
from xds.compile.wire import pack

if TYPE_CHECKING:
    from xds.policy.model import Attempts, Policy

_LOGIN_KEY = "egress-xds.login"
"""Under which a connection remembers the login for its tunnel."""
_LOGIN = "login"
"""What the format calls the secret."""
_LONGEST_BACKOFF = 10
"""How much longer than the first a pause between attempts may become."""


def build_tcp_chain(name: str, cluster: str, tunnel_to: str | None, policy: Policy) -> FilterChain:
    """
    Build a chain that hands its bytes to `cluster`, asking for a tunnel to `tunnel_to` (a format) unless None.

    Nothing but the idle time-out ends the wait for a proxy that takes a connection and never answers.
    """
    asked = next((proxy for proxy in policy.proxies if names.proxy_cluster(proxy.name) == cluster), None)
    login = None if asked is None or asked.login is None else names.proxy_login(asked.name, asked.login.file)
    proxy = TcpProxy(
        stat_prefix=name,
        cluster=cluster,
        idle_timeout=timedelta(seconds=asked.idle_timeout) if asked and asked.idle_timeout else NO_TIMEOUT,
        max_connect_attempts=None if asked is None else asked.attempts.count,
        backoff_options=None if asked is None else _build_backoff(asked.attempts),
        tunneling_config=None if tunnel_to is None else _build_tunneling(tunnel_to, has_login=login is not None),
        access_log=build_tcp_log(policy, tunnel_to),
    )
    filters = [Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy))]
    if login is not None:
        filters.insert(0, _remember_login(login))
    return FilterChain(name=name, filters=filters)


def _build_tunneling(tunnel_to: str, *, has_login: bool) -> TcpProxyTunnelingConfig:
    header = HeaderValue(key="proxy-authorization", value=f"%FILTER_STATE({_LOGIN_KEY}:PLAIN)%")
    return TcpProxyTunnelingConfig(
        hostname=tunnel_to, headers_to_add=[HeaderValueOption(header=header)] if has_login else []
    )


def _remember_login(secret: str) -> Filter:
    """
    Let each connection remember the login as it is now; a listener waits for the secret before it takes any.

    The injector of credentials at the proxy's cluster, which plain HTTP passes, would do for tunnels only under the
    run-time flag `envoy.restart_features.upstream_http_filters_with_tcp_proxy`. With that, Envoy 1.40 dies when a
    tunnel ends whose cluster is gone.
    """
    formatter = TypedExtensionConfig(
        name="envoy.formatter.generic_secret",
        typed_config=pack(GenericSecret(secret_configs={_LOGIN: build_secret_config(secret)})),
    )
    text = SubstitutionFormatString(
        text_format_source=DataSource(inline_string=f"%SECRET({_LOGIN})%"), formatters=[formatter]
    )
    value = FilterStateValue(object_key=_LOGIN_KEY, factory_key="envoy.string", format_string=text)
    state = SetFilterState(on_new_connection=[value])
    return Filter(name="envoy.filters.network.set_filter_state", typed_config=pack(state))


def _build_backoff(attempts: Attempts) -> BackoffStrategy | None:
    if attempts.count == 1:
        return None
    first = timedelta(seconds=attempts.backoff)
    return BackoffStrategy(base_interval=first, max_interval=_LONGEST_BACKOFF * first)


@lru_cache(maxsize=1)
def build_deny_chain() -> FilterChain:
    """Build the chain that closes at once, without a byte; it is shared, and must not be changed."""
    refusal = Filter(name="envoy.filters.network.direct_response", typed_config=pack(DirectResponse()))
    return FilterChain(name=names.DENY_CHAIN, filters=[refusal])
