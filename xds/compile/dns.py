"""
The listeners that answer for names: a table, and the pod's own name servers for everything else.

What the filter can't do (seen on Envoy 1.40): it compares names with regard to case, it answers questions for
addresses only, and what it forwards gets a time to live of its own. A hole in a wildcard is an entry that points to a
cluster which does not exist: the filter finds no address there and asks the name servers.

Invariant: Envoy's questions go to the name servers of the pod's resolv.conf, never to these listeners, for the capture
leaves out what Envoy itself sends.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DnsResolverOptions,
    SocketAddress,
    SocketAddressProtocol,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Listener, ListenerFilter
from envoy_data_plane.envoy.data.dns.v3 import (
    DnsTable,
    DnsTableAddressList,
    DnsTableDnsEndpoint,
    DnsTableDnsVirtualDomain,
)
from envoy_data_plane.envoy.extensions.filters.udp.dns_filter.v3 import (
    DnsFilterConfig,
    DnsFilterConfigClientContextConfig,
    DnsFilterConfigServerContextConfig,
)
from envoy_data_plane.envoy.extensions.network.dns_resolver.cares.v3 import CaresDnsResolverConfig

from xds import names
from xds.compile.wire import pack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.compile.synthetic import Synthetic

_FORWARDED = "egress-xds-forwarded"
"""The cluster that does not exist."""
_TIME_TO_LIVE = timedelta(seconds=30)
"""The least that Envoy takes (`DnsTable.DnsVirtualDomain.answer_ttl`)."""
_PATIENCE = timedelta(seconds=5)
"""As long as resolv.conf(5) gives a name server by default."""
_MAX_PENDING = 1024
"""Forwarded questions at a time; one more is answered as if nobody had answered it."""


def build_dns_listeners(synthetic: Synthetic, *, has_ipv6: bool) -> Iterable[Listener]:
    """Yield a listener per loopback address."""
    config = pack(_build_filter(synthetic))
    places = [(names.DNS_LISTENER, "127.0.0.1"), *([(names.DNS_LISTENER_6, "::1")] if has_ipv6 else [])]
    for name, address in places:
        at = SocketAddress(address=address, port_value=names.DNS_PORT, protocol=SocketAddressProtocol.UDP)
        yield Listener(
            name=name,
            address=Address(socket_address=at),
            # A host whose loopback has no IPv6 address still takes the listener.
            freebind=True,
            listener_filters=[ListenerFilter(name="envoy.filters.udp.dns_filter", typed_config=config)],
        )


def _build_filter(synthetic: Synthetic) -> DnsFilterConfig:
    table = DnsTable(virtual_domains=[*_build_answers(synthetic), *map(_build_hole, synthetic.holes)])
    # Without resolvers of its own it asks those of /etc/resolv.conf.
    resolver = CaresDnsResolverConfig(dns_resolver_options=DnsResolverOptions(no_default_search_domain=True))
    return DnsFilterConfig(
        stat_prefix="egress",
        server_config=DnsFilterConfigServerContextConfig(inline_dns_table=table),
        client_config=DnsFilterConfigClientContextConfig(
            resolver_timeout=_PATIENCE,
            typed_dns_resolver_config=TypedExtensionConfig(
                name="envoy.network.dns_resolver.cares", typed_config=pack(resolver)
            ),
            max_pending_lookups=_MAX_PENDING,
        ),
    )


def _build_answers(synthetic: Synthetic) -> Iterable[DnsTableDnsVirtualDomain]:
    for node, addresses in synthetic.answers.items():
        listed = DnsTableAddressList(address=[str(address) for address in addresses])
        yield DnsTableDnsVirtualDomain(
            name=node, endpoint=DnsTableDnsEndpoint(address_list=listed), answer_ttl=_TIME_TO_LIVE
        )


def _build_hole(node: str) -> DnsTableDnsVirtualDomain:
    return DnsTableDnsVirtualDomain(
        name=node, endpoint=DnsTableDnsEndpoint(cluster_name=_FORWARDED), answer_ttl=_TIME_TO_LIVE
    )
