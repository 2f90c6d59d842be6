"""
Parts of a policy in words, one text per part, as somebody would write them in a document.

Two parts that mean the same have the same text and two that differ have different ones, so that texts may be compared.
Invariant: no text holds a secret; where one is kept is no secret, and authorities are told by their hash.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, assert_never

from xds.policy.model import Deny, Direct, DomainPattern, Operator, Tunnel

if TYPE_CHECKING:
    from xds.policy.model import Action, Destination, Endpoint, LabelRequirement, Network, TlsOrigination


def describe_actions(action: Action, http_action: Action) -> str:
    """Return both actions, e.g. `tunnel through corp, plain HTTP direct`."""
    text = describe_action(action)
    return text if http_action == action else f"{text}, plain HTTP {describe_action(http_action)}"


def describe_action(action: Action) -> str:
    """Return e.g. `direct`, `deny` or `tunnel through corp`."""
    match action:
        case Direct():
            return "direct"
        case Deny():
            return "deny"
        case Tunnel(proxy, None):
            return f"tunnel through {proxy}"
        case Tunnel(proxy, origination):
            return f"tunnel through {proxy} as HTTPS{_authorities(origination)}"
        case other:
            assert_never(other)


def _authorities(origination: TlsOrigination | None) -> str:
    if origination is None or origination.ca_pem is None:
        return ""
    return f" with {describe_pem(origination.ca_pem)}"


def describe_pem(pem: str) -> str:
    """Return what tells these certificates from others."""
    return f"PEM sha256:{hashlib.sha256(pem.encode()).hexdigest()[:16]}"


def describe_destination(destination: Destination) -> str:
    """Return e.g. `corp.example`, `*.corp.example:443`, `10.0.0.0/8` or `any host:22`."""
    ports = ",".join(map(str, destination.ports))
    match destination.host:
        case None:
            host = "any host"
        case DomainPattern() as pattern:
            host = _describe_pattern(pattern)
        case network:
            host = describe_network(network, in_brackets=bool(ports))
    suffix = " whatever is spoken" if destination.plain_tcp else ""
    return f"{host}:{ports}{suffix}" if ports else f"{host}{suffix}"


def _describe_pattern(pattern: DomainPattern) -> str:
    if not pattern.apex:
        return f"*.{pattern.name}"
    return pattern.name if pattern.subdomains else f"{pattern.name} itself"


def describe_network(network: Network, *, in_brackets: bool = False) -> str:
    """Return a CIDR, or an address if it is one; `in_brackets` is for what a port follows."""
    text = str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
    match network:
        case IPv6Network() if in_brackets:
            return f"[{network.network_address}]{text.removeprefix(str(network.network_address))}"
        case IPv4Network() | IPv6Network():
            return text
        case other:
            assert_never(other)


def describe_endpoint(endpoint: Endpoint) -> str:
    """Return the URL of an endpoint of a proxy, and its priority unless that is the first."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    priority = f" priority {endpoint.priority}" if endpoint.priority else ""
    return f"{'https' if endpoint.tls else 'http'}://{host}:{endpoint.port}{priority}"


def describe_requirement(requirement: LabelRequirement) -> str:
    """Return e.g. `team In (a, b)`."""
    match requirement.operator:
        case Operator.IN | Operator.NOT_IN:
            return f"{requirement.key} {requirement.operator.value} ({', '.join(requirement.values)})"
        case Operator.EXISTS | Operator.DOES_NOT_EXIST:
            return f"{requirement.key} {requirement.operator.value}"
        case other:
            assert_never(other)


def describe_seconds(seconds: float | None) -> str:
    """Return e.g. `5s`; `never` for None."""
    return "never" if seconds is None else f"{seconds:g}s"


def describe_switch(*, is_on: bool) -> str:
    """Return `true` or `false`, as YAML has it."""
    return "true" if is_on else "false"
