"""
What a policy says of a connection, read naively: rule after rule, entry after entry.

Written from the rules of NO_PROXY (N1-N23) and the docstrings of `xds.policy.model` alone. It must not import the
compiler, or the comparison of the two would prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, assert_never

from tests.support.traffic import Fate, Outcome, Protocol
from xds.policy.model import Action, Deny, Direct, DomainPattern, PlainHttp, Tunnel, UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.traffic import Address, Connection
    from xds.facts import Facts
    from xds.policy.model import Destination, Policy, Proxy

_THIS_HOST = [ip_network(text) for text in ("127.0.0.0/8", "::1/128")]
_ITS_LINKS = [ip_network(text) for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")]


@dataclass(frozen=True)
class Oracle:
    """Decides connections by one policy."""

    policy: Policy
    facts: Facts

    def decide(self, connection: Connection) -> Outcome:
        """Say what must become of `connection`."""
        if connection.port in self.policy.server_first_ports:
            # Nobody waits for this client's first bytes, so they tell nothing.
            connection = _silent(connection)
        action = self._action(connection)
        if isinstance(action, Direct):
            return Outcome(Fate.DIRECT, "direct")
        if connection.protocol.is_http:
            return self._decide_http(action, connection)
        return self._decide_tcp(action, connection)

    def _decide_http(self, action: Deny | Tunnel, connection: Connection) -> Outcome:
        if isinstance(action, Tunnel) and self._proxy(action).plain_http is PlainHttp.ABSOLUTE_FORM:
            return Outcome(Fate.FORWARDED, f"proxy/{action.proxy}", f"http://{connection.name}/path")
        return Outcome(Fate.FORBIDDEN)

    def _decide_tcp(self, action: Deny | Tunnel, connection: Connection) -> Outcome:
        match action:
            case Deny():
                return Outcome(Fate.CLOSED)
            case Tunnel():
                accepted = self._proxy(action).connect_ports
                if accepted is not None and connection.port not in accepted:
                    return Outcome(Fate.CLOSED)
                has_name = connection.protocol is Protocol.TLS and connection.name
                target = f"{connection.name.lower()}:{connection.port}" if has_name else connection.dialled
                return Outcome(Fate.TUNNELLED, f"proxy/{action.proxy}", target)
            case _:
                assert_never(action)

    def _action(self, connection: Connection) -> Action:
        if self._is_always_direct(connection):
            return Direct()
        is_http = connection.protocol.is_http
        for rule in self.policy.rules:
            if any(self._matches(item, connection) for item in rule.destinations):
                return rule.http_action if is_http else rule.action
        otherwise = self.policy.default
        action = otherwise.http_action if is_http else otherwise.action
        if isinstance(action, Tunnel) and not _name_of(connection):
            match otherwise.on_unknown_name:
                case UnknownName.DENY:
                    return Deny()
                case UnknownName.DIRECT:
                    return Direct()
                case UnknownName.CONNECT_IP:
                    pass
        return action

    def _matches(self, destination: Destination, connection: Connection) -> bool:
        if destination.ports and connection.port not in destination.ports:
            return False
        match destination.host:
            case None:
                return True
            case DomainPattern() as pattern:
                name = _name_of(connection)
                return (pattern.apex and name == pattern.name) or (
                    pattern.subdomains and name.endswith(f".{pattern.name}")
                )
            case network:
                return connection.address in network and self._is_real(connection.address)

    def _is_real(self, address: Address) -> bool:
        return not any(address in synthetic for synthetic in self.policy.synthetic_ranges)

    def _is_always_direct(self, connection: Connection) -> bool:
        chosen, name = self.policy.always_direct, _name_of(connection)
        if chosen.cluster_local and name.endswith((".svc", ".cluster.local")):
            return True
        if not self._is_real(connection.address):
            return False
        if (connection.address, connection.port) in set(self._proxy_addresses()):
            return True
        nets = _THIS_HOST * chosen.loopback + _ITS_LINKS * chosen.link_local
        return any(connection.address in net for net in nets) or any(
            connection.address in found.network and (not found.ports or connection.port in found.ports)
            for found in self.facts.always_direct
        )

    def _proxy_addresses(self) -> Iterator[tuple[Address, int]]:
        for proxy in self.policy.proxies:
            for endpoint in proxy.endpoints:
                try:
                    yield ip_address(endpoint.host), endpoint.port
                except ValueError:
                    yield from ((found, endpoint.port) for found in self.facts.addresses.get(endpoint.host, ()))

    def _proxy(self, action: Tunnel) -> Proxy:
        (found,) = (proxy for proxy in self.policy.proxies if proxy.name == action.proxy)
        return found


def _silent(connection: Connection) -> Connection:
    return type(connection)(connection.address, connection.port, Protocol.OTHER)


def _name_of(connection: Connection) -> str:
    """Return the host that a connection names, normalised (N1); empty if it names none (N18)."""
    if connection.protocol is Protocol.OTHER:
        return ""
    name = connection.name.lower().removesuffix(".")
    if connection.protocol.is_http:
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return name
        return ""
    return name
