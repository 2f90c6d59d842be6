"""
The chains that do not look inside: dialled directly, wrapped in CONNECT, or closed.

A chain's content changes only with what is constant about its proxy; rules are in the tree that chooses it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import BackoffStrategy
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain
from envoy_data_plane.envoy.extensions.filters.network.direct_response.v3 import Config as DirectResponse
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy, TcpProxyTunnelingConfig
from envoy_data_plane.google.protobuf import Any

from xds import names
from xds.compile.access_log import build_tcp_log
from xds.compile.routes import NO_TIMEOUT

if TYPE_CHECKING:
    from xds.policy.model import Attempts, Policy

_LONGEST_BACKOFF = 10
"""How much longer than the first a pause between attempts may become."""


def build_tcp_chain(name: str, cluster: str, tunnel_to: str | None, policy: Policy) -> FilterChain:
    """
    Build a chain that hands its bytes to `cluster`, asking for a tunnel to `tunnel_to` (a format) unless None.

    Nothing but the idle time-out ends the wait for a proxy that takes a connection and never answers.
    """
    asked = next((proxy for proxy in policy.proxies if names.proxy_cluster(proxy.name) == cluster), None)
    proxy = TcpProxy(
        stat_prefix=name,
        cluster=cluster,
        idle_timeout=timedelta(seconds=asked.idle_timeout) if asked and asked.idle_timeout else NO_TIMEOUT,
        max_connect_attempts=None if asked is None else asked.attempts.count,
        backoff_options=None if asked is None else _build_backoff(asked.attempts),
        tunneling_config=None if tunnel_to is None else TcpProxyTunnelingConfig(hostname=tunnel_to),
        access_log=build_tcp_log(policy, tunnel_to),
    )
    return FilterChain(
        name=name, filters=[Filter(name="envoy.filters.network.tcp_proxy", typed_config=Any.pack(proxy))]
    )


def _build_backoff(attempts: Attempts) -> BackoffStrategy | None:
    if attempts.count == 1:
        return None
    first = timedelta(seconds=attempts.backoff)
    return BackoffStrategy(base_interval=first, max_interval=_LONGEST_BACKOFF * first)


def build_deny_chain() -> FilterChain:
    """Build the chain that closes at once, without a byte."""
    refusal = Filter(name="envoy.filters.network.direct_response", typed_config=Any.pack(DirectResponse()))
    return FilterChain(name=names.DENY_CHAIN, filters=[refusal])
