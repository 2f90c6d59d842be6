"""
What the rules of one address family do, in no program's words.

Both renderers take a `Plan`, and what is read back from a kernel is one, so that rules of iptables and of nftables can
be compared with what is asked for. Invariant: equal plans treat every packet alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.capture.wanted import Capture, Family, UdpRejection
from xds.names import DNS_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

QUIC_PORT = 443
"""The UDP port of HTTP/3 (RFC 9114, section 3.1)."""

NAME_PORT = 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    The rules of one family. Whoever matches `marks`, `uids` or `networks` passes by altogether.

    Envoy's users and the excluded ones are the same here: their connections are not captured.
    """

    marks: frozenset[int]
    uids: frozenset[int]
    networks: frozenset[IPv4Network | IPv6Network]
    tcp_ports: frozenset[int]
    """Destination ports whose TCP connections pass by."""
    to_port: int | None
    """Where other TCP connections go; None if nothing leads them there."""
    dns_port: int | None
    """Where questions to name servers go; None if they pass by."""
    reject_udp: UdpRejection
    udp_ports: frozenset[int]
    """Destination ports that UDP may reach, though all of it is rejected."""


def build_plan(capture: Capture, family: Family) -> Plan:
    """Say what `capture` means for one family."""
    reject = capture.reject_udp
    if reject is UdpRejection.QUIC and QUIC_PORT in capture.exclude_ports:
        reject = UdpRejection.NONE
    ports = frozenset(capture.exclude_ports)
    return Plan(
        marks=frozenset(capture.exempt_marks),
        uids=frozenset((*capture.exempt_uids, *capture.exclude_uids)),
        networks=frozenset(network for network in capture.exclude_networks if family.has(network)),
        tcp_ports=ports,
        to_port=capture.to_port,
        dns_port=DNS_PORT if capture.dns else None,
        reject_udp=reject,
        udp_ports=ports | {NAME_PORT} if reject is UdpRejection.ALL else frozenset(),
    )


def describe_differences(asked: Plan, found: Plan) -> tuple[str, ...]:
    """Say in words what the rules found do otherwise than asked, the gravest first."""
    said: list[str] = []
    if asked.to_port != found.to_port:
        where = "nothing sends TCP to Envoy" if found.to_port is None else f"TCP is sent to port {found.to_port}"
        said.append(f"{where} instead of port {asked.to_port}")
    if asked.dns_port != found.dns_port:
        said.append(
            "questions to name servers pass by" if found.dns_port is None else "questions to name servers are captured"
        )
    if asked.reject_udp is not found.reject_udp:
        said.append(f"the UDP that is rejected is {found.reject_udp.value} instead of {asked.reject_udp.value}")
    elif asked.udp_ports != found.udp_ports:
        said.extend(_describe("UDP port", asked.udp_ports, found.udp_ports))
    said.extend(_describe("user", asked.uids, found.uids))
    said.extend(_describe("mark", asked.marks, found.marks))
    said.extend(_describe("port", asked.tcp_ports, found.tcp_ports))
    said.extend(_describe("network", _written(asked.networks), _written(found.networks)))
    return tuple(said)


_NAMED = 5


def _describe(what: str, asked: frozenset[int] | frozenset[str], found: frozenset[int] | frozenset[str]) -> list[str]:
    missing, extra = sorted(map(str, asked - found)), sorted(map(str, found - asked))
    return [
        *([f"{what} {_list(missing)} does not pass by"] if missing else []),
        *([f"{what} {_list(extra)} passes by"] if extra else []),
    ]


def _list(values: list[str]) -> str:
    rest = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return f"{', '.join(values[:_NAMED])}{rest}"


def _written(networks: Iterable[IPv4Network | IPv6Network]) -> frozenset[str]:
    return frozenset(map(str, networks))
