"""
What is captured: the options of `xds capture`, checked, whatever puts them in force.

A `Capture` is the one value that both kinds of rules are made of, so that they can't differ in what they mean.
Invariant: every part of a `Capture` is in range, sorted and without duplicates, and its networks do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING

from xds.errors import SettingsError, quote_value

if TYPE_CHECKING:
    from collections.abc import Iterable

LISTENER_PORT = 15001
"""Where Envoy's outbound listener takes captured connections."""

ENVOY_UID = 1337
"""The user that Envoy runs as in a pod unless told otherwise."""

MAX_PORT = 65535
MAX_MARK = 0xFFFFFFFF
MAX_UID = 0xFFFFFFFE
"""2³²-1 means "no user" to the kernel."""


class Family(Enum):
    """An address family, with the programs and the loopback network that belong to it."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def restore_command(self) -> str:
        """The program that applies a script."""
        return "iptables-restore" if self is Family.IPV4 else "ip6tables-restore"

    @property
    def refusal(self) -> str:
        """What a client is told about a port that nobody serves."""
        return "icmp-port-unreachable" if self is Family.IPV4 else "icmp6-port-unreachable"

    @property
    def save_command(self) -> str:
        """The program that prints the rules in force."""
        return "iptables-save" if self is Family.IPV4 else "ip6tables-save"

    @property
    def loopback(self) -> str:
        """The addresses that never leave the pod."""
        return "127.0.0.0/8" if self is Family.IPV4 else "::1/128"

    def has(self, network: IPv4Network | IPv6Network) -> bool:
        """Whether `network` is of this family."""
        return isinstance(network, IPv4Network if self is Family.IPV4 else IPv6Network)


class UdpRejection(Enum):
    """Which UDP is answered with ICMP "port unreachable" instead of leaving."""

    QUIC = "quic"
    """UDP 443."""
    ALL = "all"
    """All but questions to name servers (port 53)."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """
    What to capture. Build it with `build_capture`, which checks every part.

    Ports and networks are those of the destination; user ids are those of the process that connects.
    """

    to_port: int
    exempt_uids: tuple[int, ...]
    exempt_marks: tuple[int, ...]
    exclude_ports: tuple[int, ...]
    exclude_networks: tuple[IPv4Network | IPv6Network, ...]
    exclude_uids: tuple[int, ...]
    reject_udp: UdpRejection = UdpRejection.QUIC
    dns: bool = False


def build_capture(  # noqa: PLR0913 - one per option, all of them by name
    *,
    to_port: int = LISTENER_PORT,
    exempt_uids: Iterable[int] = (),
    exempt_marks: Iterable[int] = (),
    exclude_ports: Iterable[int] = (),
    exclude_cidrs: Iterable[str] = (),
    exclude_uids: Iterable[int] = (),
    reject_udp: UdpRejection = UdpRejection.QUIC,
    dns: bool = False,
) -> Capture:
    """
    Check and sort what to capture; duplicates are dropped. An unusable value is a SettingsError.

    `exempt_uids` and `exempt_marks` say how Envoy's own connections are known; with neither given they are
    those of the user 1337.
    """
    marks = _checked("mark", exempt_marks, 1, MAX_MARK)
    uids = _checked("user id", exempt_uids, 0, MAX_UID)
    if dns and marks and not uids:
        raise SettingsError(
            "Envoy's own questions to name servers carry no mark, so that they would come back to it for ever; to "
            "capture those of others, say by --exempt-uid which user Envoy runs as, or leave out --dns"
        )
    return Capture(
        to_port=_checked("port", [to_port], 1, MAX_PORT)[0],
        exempt_uids=uids if uids or marks else (ENVOY_UID,),
        exempt_marks=marks,
        exclude_ports=_checked("port", exclude_ports, 1, MAX_PORT),
        exclude_networks=_merge(map(_parse_network, exclude_cidrs)),
        exclude_uids=_checked("user id", exclude_uids, 0, MAX_UID),
        reject_udp=reject_udp,
        dns=dns,
    )


def find_foreign_networks(capture: Capture, families: Iterable[Family]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the excluded networks that belong to none of `families`, so that no rule would mention them."""
    chosen = tuple(families)
    return tuple(net for net in capture.exclude_networks if not any(family.has(net) for family in chosen))


def find_captured_users(capture: Capture, users: Iterable[int]) -> tuple[int, ...]:
    """Return those of `users` whose own connections `capture` sends to Envoy. Marks are not seen from here."""
    if capture.exempt_marks:
        return ()
    return tuple(sorted(set(users) - set(capture.exempt_uids) - set(capture.exclude_uids)))


def find_unmapped_users(capture: Capture, uid_map: str) -> tuple[int, ...]:
    """
    Return the users of `capture` that a user namespace does not have.

    `uid_map` is what /proc/self/uid_map says: first user here, first user outside, count (user_namespaces(7)).
    """
    rows = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    ranges = [range(first, first + count) for first, _, count in rows]
    users = {*capture.exempt_uids, *capture.exclude_uids}
    return tuple(sorted(uid for uid in users if not any(uid in one for one in ranges)))


def _checked(what: str, values: Iterable[int], low: int, high: int) -> tuple[int, ...]:
    ordered = tuple(sorted(set(values)))
    for value in ordered:
        if not low <= value <= high:
            raise SettingsError(f"{what} {value} is not from {low} to {high}; nothing was changed")
    return ordered


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    """Read a network; host bits are masked, as everywhere in the project (N7)."""
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError:
        raise SettingsError(
            f"{quote_value(text)} is not an IP network; write one such as 10.0.0.0/8 or fd00::/8"
        ) from None
    if isinstance(network, IPv6Network) and network.network_address.scope_id is not None:
        raise SettingsError(f"{text!r} has a zone, which a rule can't match; write the network without '%'")
    return network


def _merge(networks: Iterable[IPv4Network | IPv6Network]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Sort networks and leave out what others contain, as a set of the kernel wants it; neighbours become one."""
    given = set(networks)
    four = [network for network in given if isinstance(network, IPv4Network)]
    six = [network for network in given if isinstance(network, IPv6Network)]
    merged: tuple[IPv4Network | IPv6Network, ...] = (*collapse_addresses(four), *collapse_addresses(six))
    for network in merged:
        if network.prefixlen == 0:
            other = next(family.value for family in Family if not family.has(network))
            raise SettingsError(
                f"'{network}' is every IPv{network.version} address: nothing of that family would be captured; "
                f"capture the other one alone with --family {other}"
            )
    return merged
