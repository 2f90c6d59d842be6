"""
What rules that are in force do, whichever program was asked for them.

Each reader turns its program's words into `Rule`s; `put_together` makes a `Plan` of them. Invariant: what is not
understood is kept in words and never taken for a rule of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_network
from typing import TYPE_CHECKING

from xds.capture.plan import Plan
from xds.capture.wanted import Family, UdpRejection

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Kind(Enum):
    """What a rule does, and with it what its value means."""

    MARK = "mark"
    """Packets with this mark (hexadecimal) pass by."""
    USER = "user"
    LOOPBACK = "loopback"
    """What stays in the pod passes by."""
    NETWORK = "network"
    TCP_PORT = "TCP port"
    UDP_PORT = "UDP port"
    REDIRECT_NAMES = "names"
    """Questions to name servers go to this port."""
    REDIRECT = "redirect"
    """TCP connections go to this port."""
    REJECT = "reject"
    STRANGE = "strange"
    """A rule that `xds capture` does not write, in the words of the program."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of ours."""

    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Found:
    """Our rules of one family, as they are in force."""

    plan: Plan
    strange: tuple[str, ...]
    """What is in the way of taking them for rules that `xds capture` wrote, in words."""


def put_together(
    family: Family, redirecting: Sequence[Rule], rejecting: Sequence[Rule], reject_udp: UdpRejection
) -> Found:
    """Say what rules do, those that redirect and those that reject, and what of them is not as we write it."""
    strange = [rule.value for rule in (*redirecting, *rejecting) if rule.kind is Kind.STRANGE]
    end = next((index for index, rule in enumerate(redirecting) if rule.kind is Kind.REDIRECT), len(redirecting))
    passing = redirecting[:end]
    if any(rule.kind is not Kind.STRANGE for rule in redirecting[end + 1 :]):
        strange.append("rules that follow the one that captures, which no connection reaches")
    if not _keeps_loopback(passing, family):
        strange.append("connections within the pod do not pass by")
    everywhere = (Kind.MARK, Kind.USER, Kind.NETWORK)
    if reject_udp is not UdpRejection.NONE and _of(rejecting, *everywhere) != _of(passing, *everywhere):
        strange.append("those who pass by are others for UDP than for TCP")
    to_ports, dns_ports = _numbers(redirecting, Kind.REDIRECT), _numbers(redirecting, Kind.REDIRECT_NAMES)
    plan = Plan(
        marks=_numbers(passing, Kind.MARK),
        uids=_numbers(passing, Kind.USER),
        networks=frozenset(map(ip_network, _values(passing, Kind.NETWORK) - {family.loopback, _bare(family)})),
        tcp_ports=_numbers(passing, Kind.TCP_PORT),
        to_port=min(to_ports, default=None),
        dns_port=min(dns_ports, default=None),
        reject_udp=reject_udp,
        udp_ports=_numbers(rejecting, Kind.UDP_PORT) if reject_udp is UdpRejection.ALL else frozenset(),
    )
    return Found(plan, tuple(strange))


def _keeps_loopback(rules: Iterable[Rule], family: Family) -> bool:
    found = list(rules)
    return bool(_values(found, Kind.LOOPBACK)) and bool(_values(found, Kind.NETWORK) & {family.loopback, _bare(family)})


def _bare(family: Family) -> str:
    """Return the loopback network as a program may write it: without the length of a single address."""
    return family.loopback.removesuffix("/128")


def _of(rules: Iterable[Rule], *kinds: Kind) -> frozenset[Rule]:
    return frozenset(rule for rule in rules if rule.kind in kinds)


def _values(rules: Iterable[Rule], kind: Kind) -> frozenset[str]:
    return frozenset(rule.value for rule in rules if rule.kind is kind)


def _numbers(rules: Iterable[Rule], kind: Kind) -> frozenset[int]:
    return frozenset(int(value, 0) for value in _values(rules, kind))
