"""
What a policy says of a connection, read naively: rule after rule, entry after entry.

Written from the rules of NO_PROXY (N1-N23) and the docstrings of `xds.policy.model` alone. It must not import the
compiler, or the comparison of the two would prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import groupby
from typing import TYPE_CHECKING, assert_never

from xds.explain.connection import Fate, Outcome, Protocol
from xds.policy.model import Action, Deny, Direct, DomainPattern, PlainHttp, Tunnel, UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.explain.connection import Address, Connection
    from xds.facts import Facts
    from xds.policy.model import Destination, Policy, Proxy, Rule

_AN_ADDRESS = "192.0.2.1"
_THIS_HOST = [ip_network(text) for text in ("127.0.0.0/8", "::1/128")]
_ITS_LINKS = [ip_network(text) for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")]


class Asked(Enum):
    """How a proxy is asked for a destination: the way in which the policy came to know it."""

    BY_NAME = "by name"
    BY_ADDRESS = "by address"


@dataclass(frozen=True)
class Oracle:
    """Decides connections by one policy."""

    policy: Policy
    facts: Facts

    def accepts(self, connection: Connection, outcome: Outcome) -> bool:
        """
        Whether `outcome` is right for `connection`.

        An odd claim is refused wherever anybody looks at it. Where nobody has to, since what names no host goes
        directly, the connection may be dialled as the application did; no proxy ever hears of it.
        """
        if connection.port in self.policy.server_first_ports or not is_odd(connection):
            return outcome == self.decide(connection)
        if outcome.fate is Fate.DIRECT:
            nameless = replace(connection, name=_AN_ADDRESS)
            return isinstance(self._action(nameless)[0], Direct)
        return outcome == Outcome(Fate.FORBIDDEN if connection.protocol.is_http else Fate.CLOSED)

    def decide(self, connection: Connection) -> Outcome:
        """Say what must become of `connection`, whose claim is not odd."""
        if connection.port in self.policy.server_first_ports:
            # Nobody waits for this client's first bytes, so they tell nothing.
            connection = _silent(connection)
        action, asked = self._action(connection)
        if isinstance(action, Direct):
            return Outcome(Fate.DIRECT, "direct")
        if connection.protocol.is_http:
            return self._decide_http(action, connection, asked)
        return self._decide_tcp(action, connection, asked)

    def _decide_http(self, action: Deny | Tunnel, connection: Connection, asked: Asked) -> Outcome:
        if isinstance(action, Deny):
            return Outcome(Fate.FORBIDDEN)
        by_name = asked is Asked.BY_NAME and _name_of(connection)
        authority = f"{_without_port(connection.name)}:{connection.port}" if by_name else connection.dialled
        proxy = self._proxy(action)
        match proxy.plain_http:
            case PlainHttp.DENY:
                return Outcome(Fate.FORBIDDEN)
            case PlainHttp.ABSOLUTE_FORM:
                shown = authority.removesuffix(":80") if by_name else authority
                return Outcome(Fate.FORWARDED, f"proxy/{action.proxy}", f"http://{shown}{connection.path}")
            case PlainHttp.CONNECT if proxy.connect_ports is None or connection.port in proxy.connect_ports:
                return Outcome(Fate.TUNNELLED, f"proxy/{action.proxy}", authority)
            case PlainHttp.CONNECT:
                return Outcome(Fate.FORBIDDEN)
            case other:
                assert_never(other)

    def _decide_tcp(self, action: Deny | Tunnel, connection: Connection, asked: Asked) -> Outcome:
        match action:
            case Deny():
                return Outcome(Fate.CLOSED)
            case Tunnel():
                accepted = self._proxy(action).connect_ports
                if accepted is not None and connection.port not in accepted:
                    return Outcome(Fate.CLOSED)
                by_name = asked is Asked.BY_NAME and _name_of(connection)
                target = f"{connection.name.lower()}:{connection.port}" if by_name else connection.dialled
                return Outcome(Fate.TUNNELLED, f"proxy/{action.proxy}", target)
            case _:
                assert_never(action)

    def _action(self, connection: Connection) -> tuple[Action, Asked]:
        if self._is_always_direct(connection):
            return Direct(), Asked.BY_ADDRESS
        is_http = connection.protocol.is_http
        runs = groupby(self.policy.rules, key=lambda rule: rule.http_action if is_http else rule.action)
        for action, run in runs:
            wanted = [
                item
                for rule in run
                for item in rule.destinations
                if self._matches(item, connection) and (action != Direct() or self._is_verified(rule, item, connection))
            ]
            if wanted:
                # Neighbours with one action are one decision; a name says more than an address.
                only_addresses = all(isinstance(item.host, (IPv4Network, IPv6Network)) for item in wanted)
                return action, Asked.BY_ADDRESS if only_addresses else Asked.BY_NAME
        return self._default(connection), Asked.BY_NAME

    def _default(self, connection: Connection) -> Action:
        otherwise = self.policy.default
        action = otherwise.http_action if connection.protocol.is_http else otherwise.action
        if isinstance(action, Tunnel) and not _name_of(connection):
            match otherwise.on_unknown_name:
                case UnknownName.DENY:
                    return Deny()
                case UnknownName.DIRECT:
                    return Direct()
                case UnknownName.CONNECT_IP:
                    pass
        return action

    def _is_verified(self, rule: Rule, destination: Destination, connection: Connection) -> bool:
        """Whether a bypass may believe the name (N20)."""
        if not rule.verify or not isinstance(destination.host, DomainPattern):
            return True
        return any(connection.address in network for network in rule.verify) and self._is_real(connection.address)

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
            ranges = self.facts.cluster_ranges
            if not ranges:
                return True
            if self._is_real(connection.address) and any(connection.address in network for network in ranges):
                return True
        if not self._is_real(connection.address):
            return False
        if (connection.address, connection.port) in set(self._proxy_addresses()):
            return True
        nets = _THIS_HOST * chosen.loopback + _ITS_LINKS * chosen.link_local
        return any(connection.address in net for net in nets) or any(
            connection.address in found.network and (not found.ports or connection.port in found.ports)
            for found in (*self.facts.always_direct, *(self.facts.cluster_direct if chosen.cluster_networks else ()))
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
    name = _without_port(connection.name) if connection.protocol.is_http else connection.name
    return "" if _is_address(name) else name.lower().removesuffix(".")


def _without_port(host: str) -> str:
    head, colon, tail = host.rpartition(":")
    return head if colon and tail.isdigit() and "]" not in tail else host


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_odd(connection: Connection) -> bool:
    """Whether what the client claims is neither a name nor an address, nor nothing where nothing may be."""
    if connection.protocol is Protocol.OTHER:
        return False
    if not connection.name:
        return connection.protocol is Protocol.HTTP_11
    name = _without_port(connection.name) if connection.protocol.is_http else connection.name
    if _is_address(name):
        return False
    *labels, last = name.lower().removesuffix(".").split(".")
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    if any(not label or not set(label) <= letters for label in (*labels, last)):
        return True
    return last.isdigit() or last.startswith("0x")
