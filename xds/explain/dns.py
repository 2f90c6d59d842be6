"""
What a pod is told of a name, read from the resources that answer for names.

The answers follow Envoy's filter (`source/extensions/filters/udp/dns_filter/dns_filter.cc`): the exact name, then the
longest wildcard; an entry without addresses is passed on to the pod's name servers.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.filters.udp.dns_filter.v3 import DnsFilterConfig

from xds import names
from xds.explain.messages import parse_resource, unpack
from xds.explain.unknown import UnknownConfigurationError, expect, need
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.explain.connection import Address
    from xds.snapshot import Snapshot


def resolve(snapshot: Snapshot, name: str) -> tuple[Address, ...]:
    """Return what the pod is told of `name`; nothing: its name servers are asked."""
    table = _table(snapshot)
    labels = name.lower().removesuffix(".").split(".")
    # The filter looks up the last two labels first, and finds no wildcard that has fewer.
    wildcards = [f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels) - 1)]
    return next((table[key] for key in (".".join(labels), *wildcards) if key in table), ())


def names_at(snapshot: Snapshot, address: Address) -> tuple[str, ...]:
    """Return the names, and wildcards, that are answered with `address`, sorted."""
    return tuple(sorted(name for name, addresses in _table(snapshot).items() if address in addresses))


def _table(snapshot: Snapshot) -> Mapping[str, tuple[Address, ...]]:
    served = snapshot.of(ResourceType.LISTENER).get(names.DNS_LISTENER)
    if served is None:
        return {}
    listener = parse_resource(Listener, served.body)
    (config,) = map(unpack, listener.listener_filters)
    if not isinstance(config, DnsFilterConfig):
        raise UnknownConfigurationError(config)
    server = need(config.server_config, "a listener that answers for no names")
    domains = need(server.inline_dns_table, "names that are not in the listener").virtual_domains
    table: dict[str, tuple[Address, ...]] = {}
    for item in domains:
        expect(item.name not in table, "a name that is answered twice")
        listed = None if item.endpoint is None else item.endpoint.address_list
        table[item.name] = () if listed is None else tuple(map(ip_address, listed.address))
    return table
