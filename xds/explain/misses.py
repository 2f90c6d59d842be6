"""
Why a rule that looks as if it were for a connection is not: its ports, a name that nobody shows, an address elsewhere.

Nothing here decides; it is for people who expected another rule. Invariant: a rule that has nothing to do with the
connection is not spoken of.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from xds.explain.claims import Claim, Shown
from xds.explain.connection import Protocol
from xds.policy.model import DomainPattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds.diagnostics import Where
    from xds.explain.connection import Connection
    from xds.policy.model import Destination, Network, Policy, Rule

_MOST = 5
"""Rules that are spoken of."""
_MOST_PORTS = 6


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that nearly matched, and why it did not."""

    rule: str
    where: Where
    why: str


@dataclass(frozen=True, slots=True)
class Sight:
    """A connection as the rules see it, and the name that the application dialled, which they may not see."""

    connection: Connection
    claim: Claim
    dialled: str = ""
    is_silent: bool = False
    """Whether its port is one of those whose servers speak first."""


def find_misses(rules: Sequence[Rule], policy: Policy, sight: Sight) -> tuple[Miss, ...]:
    """Return the first few of `rules`, none of which matched, that look as if they should have."""
    found = []
    for rule in rules:
        why = next((text for item in rule.destinations if (text := _why(item, rule, policy, sight))), "")
        if why:
            found.append(Miss(rule.name, rule.where, why))
        if len(found) == _MOST:
            break
    return tuple(found)


def _why(destination: Destination, rule: Rule, policy: Policy, sight: Sight) -> str:
    is_for_port = not destination.ports or sight.connection.port in destination.ports
    match destination.host:
        case None:
            return ""
        case DomainPattern() as pattern:
            return _why_name(pattern, destination, rule, sight, is_for_port=is_for_port)
        case network:
            if sight.connection.address not in network:
                return ""
            if any(sight.connection.address in item for item in policy.synthetic_ranges):
                return f"{network} is a network, and the address stands for a name"
            return "" if is_for_port else f"{network} is listed for {describe_ports(destination.ports)} only"


def _why_name(pattern: DomainPattern, destination: Destination, rule: Rule, sight: Sight, *, is_for_port: bool) -> str:
    seen = sight.claim.shown is Shown.NAME
    name = sight.claim.name if seen else sight.dialled
    if not name:
        return ""
    if not covers(pattern, name):
        return _why_other_name(pattern, name)
    if not is_for_port:
        return f"{describe_host(pattern)} is listed for {describe_ports(destination.ports)} only"
    if not seen:
        return f"it names {name}, but {_why_unseen(sight)}"
    return f"{name} is believed only at an address in {describe_networks(rule.verify)} (verify)" if rule.verify else ""


def _why_unseen(sight: Sight) -> str:
    if sight.is_silent:
        return f"port {sight.connection.port} is one of serverFirstPorts, so that no name is read"
    if sight.connection.protocol is Protocol.OTHER:
        return "what is neither TLS nor HTTP shows no name"
    return "the client shows no name" if sight.claim.shown is Shown.NOTHING else "the client shows an address instead"


def _why_other_name(pattern: DomainPattern, name: str) -> str:
    if name == pattern.name:
        return f"it is for names below {pattern.name}, not for {pattern.name} itself"
    if name.endswith(f".{pattern.name}"):
        return f"it is for {pattern.name} itself, not for names below it"
    return ""


def covers(pattern: DomainPattern, name: str) -> bool:
    """Whether `name`, in normal form, is one of the pattern's."""
    return (pattern.apex and name == pattern.name) or (pattern.subdomains and name.endswith(f".{pattern.name}"))


def describe_destination(destination: Destination) -> str:
    """Return what a rule lists, in words."""
    host = describe_host(destination.host)
    return f"{host}, {describe_ports(destination.ports)}" if destination.ports else host


def describe_host(host: DomainPattern | Network | None) -> str:
    """Return what a destination is for, in words."""
    match host:
        case None:
            return "any host"
        case IPv4Network() | IPv6Network() as network:
            return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
        case DomainPattern(name, apex=True, subdomains=True):
            return f"{name} and below"
        case DomainPattern(name, apex=True):
            return name
        case DomainPattern(name):
            return f"below {name}"


def describe_ports(ports: Sequence[int]) -> str:
    """Return ports in words."""
    shown = ", ".join(map(str, ports[:_MOST_PORTS]))
    more = f" and {len(ports) - _MOST_PORTS} more" if len(ports) > _MOST_PORTS else ""
    return f"{'port' if len(ports) == 1 else 'ports'} {shown}{more}"


def describe_networks(networks: Sequence[Network]) -> str:
    """Return networks in words."""
    shown = " or ".join(map(str, networks[:_MOST_PORTS]))
    return f"{shown} or {len(networks) - _MOST_PORTS} more" if len(networks) > _MOST_PORTS else shown
