"""
Applications that dial names: what a small DNS filter answers from compiled resources, and what must then become of it.

The answers follow Envoy's filter (`source/extensions/filters/udp/dns_filter/dns_filter.cc`): the exact name, then the
longest wildcard, and an entry without addresses is passed on. What must become of a connection is read naively from the
policy, by `tests/support/oracle.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.filters.udp.dns_filter.v3 import DnsFilterConfig

from tests.support.oracle import Oracle, is_odd
from tests.support.traffic import Connection, Fate, Outcome, Protocol
from tests.support.walk import unpack
from xds import names
from xds.policy.model import DomainPattern
from xds.resources import ResourceType

if TYPE_CHECKING:
    from tests.support.traffic import Address
    from xds.facts import Facts
    from xds.policy.model import Policy
    from xds.snapshot import Snapshot

ANYWHERE = ip_network("198.51.100.7/32").network_address
"""No policy of the tests knows this address."""


def resolve(snapshot: Snapshot, name: str) -> tuple[Address, ...]:
    """Return what the pod is told of `name`; nothing: its name servers are asked."""
    listener = Listener.parse(snapshot.of(ResourceType.LISTENER)[names.DNS_LISTENER].body)
    (config,) = map(unpack, listener.listener_filters)
    assert isinstance(config, DnsFilterConfig)
    assert config.server_config is not None
    assert config.server_config.inline_dns_table is not None
    table = {item.name: item for item in config.server_config.inline_dns_table.virtual_domains}
    assert len(table) == len(config.server_config.inline_dns_table.virtual_domains)
    labels = name.split(".")
    # The filter looks up the last two labels first, and finds no wildcard that has fewer.
    wildcards = [f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels) - 1)]
    found = next((table[key] for key in (name, *wildcards) if key in table), None)
    if found is None or found.endpoint is None or found.endpoint.address_list is None:
        return ()
    return tuple(ip_address(text) for text in found.endpoint.address_list.address)


@dataclass(frozen=True)
class NamedOracle:
    """Decides connections of applications that were told a synthetic address."""

    policy: Policy
    facts: Facts

    def decide(self, name: str, connection: Connection) -> Outcome:
        """Say what must become of `connection`, whose application dialled `name`."""
        refusal = Outcome(Fate.FORBIDDEN if connection.protocol.is_http else Fate.CLOSED)
        is_silent = connection.port in self.policy.server_first_ports
        if is_silent or not _shows_name(connection):
            if connection.protocol.is_http and not is_silent:
                return refusal
            if name not in self._named():
                return Outcome(Fate.CLOSED)
            # The address says what the client does not.
            listening = replace(self.policy, server_first_ports=())
            shown = Connection(connection.address, connection.port, Protocol.TLS, name)
            outcome = Oracle(listening, self.facts).decide(shown)
            return Outcome(Fate.CLOSED) if outcome.fate is Fate.DIRECT else outcome
        if is_odd(connection):
            return refusal
        outcome = Oracle(self.policy, self.facts).decide(connection)
        return refusal if outcome.fate is Fate.DIRECT else outcome

    def may_go_direct(self, name: str, port: int, protocol: Protocol) -> bool:
        """Whether a connection that shows `name` would be dialled, wherever it resolves to."""
        listening = replace(self.policy, server_first_ports=())
        shown = Connection(ANYWHERE, port, protocol, name)
        # What networks say is not known before a name is resolved.
        without = tuple(
            replace(
                rule,
                destinations=tuple(
                    item for item in rule.destinations if item.host is None or isinstance(item.host, DomainPattern)
                ),
            )
            for rule in listening.rules
        )
        oracle = Oracle(replace(listening, rules=without), replace(self.facts, always_direct=(), cluster_direct=()))
        return oracle.decide(shown).fate is Fate.DIRECT

    def _named(self) -> set[str]:
        return {
            item.host.name
            for rule in self.policy.rules
            for item in rule.destinations
            if item.plain_tcp and isinstance(item.host, DomainPattern)
        }


def _shows_name(connection: Connection) -> bool:
    """Whether it claims to be for a host that is no address; odd claims count."""
    if connection.protocol is Protocol.OTHER:
        return False
    if is_odd(connection):
        return True
    name = connection.name.rpartition(":")[0] if connection.protocol.is_http and "]" not in connection.name else ""
    name = name if name and connection.name.rpartition(":")[2].isdigit() else connection.name
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return bool(name)
    return False
