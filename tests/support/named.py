"""
What must become of connections of applications that dialled names and were told synthetic addresses.

It is read naively from the policy, by `tests/support/oracle.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from tests.support.oracle import Oracle, is_odd
from xds.explain.connection import Connection, Fate, Outcome, Protocol
from xds.policy.model import DomainPattern

if TYPE_CHECKING:
    from xds.facts import Facts
    from xds.policy.model import Policy

ANYWHERE = ip_network("198.51.100.7/32").network_address
"""No policy of the tests knows this address."""


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
