"""
The capture rules: iptables scripts that send a pod's outgoing TCP connections to Envoy.

`render_capture` and `render_removal` return input for `iptables-restore --noflush` (or `ip6tables-restore`),
which applies the whole of a table or nothing of it. All rules live in one chain of our own per table, and one
jump in OUTPUT leads there; nothing else in the tables is touched. Both functions are told what
`iptables-save` says of the tables, so that applying twice leaves what applying once leaves. Nothing here runs a
program: `xds capture` does.

What is never captured: what Envoy itself opens, known by its user or by its socket mark, for it would come
back for ever; and what stays in the pod (the loopback interface, over which the pod also reaches its own
addresses). Everything that is not TCP passes by, but for QUIC (UDP 443, RFC 9114), which no CONNECT proxy carries:
it is rejected, so that a client falls back to TCP at once and not after a time-out. So is all UDP but questions to name
servers if that is asked for. Those questions go to Envoy if that is asked for.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from xds.errors import SettingsError, quote_value
from xds.names import DNS_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CHAIN = "EGRESS_XDS_OUTPUT"
"""The chain in the nat table that holds every rule of ours."""

LISTENER_PORT = 15001
"""Where Envoy's outbound listener takes captured connections."""

ENVOY_UID = 1337
"""The user that Envoy runs as in a pod unless told otherwise."""

MAX_PORT = 65535
MAX_MARK = 0xFFFFFFFF
MAX_UID = 0xFFFFFFFE
"""2³²-1 means "no user" to the kernel."""

_LOCAL, _STATE, _UID = 1, 3, 7
"""Columns of /proc/net/tcp (proc_pid_net(5)): local address and port, state (both in hexadecimal), user."""

LISTENS = "0A"
UNCONNECTED = "07"
"""TCP_LISTEN, and TCP_CLOSE, which is what a UDP socket is that takes packets from everybody (the kernel's
include/net/tcp_states.h)."""

TABLES = ("nat", "filter")
"""The tables that may hold a chain of ours."""

_QUIC_PORT = 443
_QUIC_JUMP = f"OUTPUT -p udp -m udp --dport {_QUIC_PORT} -j {CHAIN}"
_UDP_JUMP = f"OUTPUT -p udp -j {CHAIN}"
_JUMP = f"OUTPUT -p tcp -j {CHAIN}"
_DNS = "-p udp -m udp --dport 53"
_ANY_JUMP = re.compile(rf"-A (?P<rule>\S+ .*-[jg] {CHAIN})")


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


def _as_the_kernel_prints(address: str) -> str:
    """Return an address as /proc/net/tcp has it: 32 bits at a time, each in the byte order of the machine."""
    packed = ip_address(address).packed
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 -- addresses to recognise, not to listen on
_LISTENING = {
    Family.IPV4: frozenset(map(_as_the_kernel_prints, ("127.0.0.1", *_EVERY_ADDRESS))),
    Family.IPV6: frozenset(map(_as_the_kernel_prints, ("::1", "::"))),
}
"""Where a listener takes what is redirected. One on `::` takes IPv4, too, unless it was told not to."""


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
        exclude_networks=tuple(sorted(set(map(_parse_network, exclude_cidrs)), key=_network_order)),
        exclude_uids=_checked("user id", exclude_uids, 0, MAX_UID),
        reject_udp=reject_udp,
        dns=dns,
    )


def render_capture(capture: Capture, family: Family, saved: str = "") -> str:
    """
    Return the script that puts `capture` in force in place of any capture that `saved` shows.

    `saved` is what `iptables-save` prints of `TABLES`; empty stands for a pod without any rules.
    """
    nat, filtered = (_section(saved, table) for table in TABLES)
    rejection = _render_rejection(capture, family, filtered) or _render_removal("filter", filtered)
    redirect = "\n".join(
        [
            "*nat",
            # Declaring a chain of one's own empties it where it exists (iptables-restore, --noflush).
            f":{CHAIN} - [0:0]",
            *(f"-D {rule}" for rule in _jumps(nat)),
            *(f"-A {CHAIN} {match} -j RETURN" for match in _exemptions(capture, family)),
            *([f"-A {CHAIN} {_DNS} -j REDIRECT --to-ports {DNS_PORT}"] if capture.dns else []),
            f"-A {CHAIN} -p tcp -j REDIRECT --to-ports {capture.to_port}",
            f"-A {_JUMP}",
            *([f"-A OUTPUT {_DNS} -j {CHAIN}"] if capture.dns else []),
            "COMMIT",
            "",
        ]
    )
    return redirect + rejection


def _render_rejection(capture: Capture, family: Family, saved: str) -> str:
    """Return what rejects UDP; empty if none is rejected."""
    jump: str
    passing: tuple[str, ...]
    match capture.reject_udp:
        case UdpRejection.QUIC if _QUIC_PORT not in capture.exclude_ports:
            jump, passing = _QUIC_JUMP, ()
        case UdpRejection.ALL:
            jump, passing = _UDP_JUMP, (_DNS, *(f"-p udp -m udp --dport {port}" for port in capture.exclude_ports))
        case _:
            return ""
    exemptions = (match for match in _exemptions(capture, family) if not match.startswith("-p "))
    return "\n".join(
        [
            "*filter",
            f":{CHAIN} - [0:0]",
            *(f"-D {rule}" for rule in _jumps(saved)),
            *(f"-A {CHAIN} {match} -j RETURN" for match in (*exemptions, *passing)),
            f"-A {CHAIN} -p udp -j REJECT --reject-with {family.refusal}",
            f"-A {jump}",
            "COMMIT",
            "",
        ]
    )


def render_removal(saved: str) -> str:
    """Return the script that removes the capture that `saved` shows; empty if there is none."""
    return "".join(_render_removal(table, _section(saved, table)) for table in TABLES)


def _render_removal(table: str, saved: str) -> str:
    if f":{CHAIN} " not in saved:
        return ""
    jumps = (f"-D {rule}" for rule in _jumps(saved))
    return "\n".join([f"*{table}", *jumps, f"-F {CHAIN}", f"-X {CHAIN}", "COMMIT", ""])


def _section(saved: str, table: str) -> str:
    """Return what `iptables-save` says of one table."""
    _, _, rest = f"\n{saved}".partition(f"\n*{table}\n")
    return rest.partition("\nCOMMIT")[0]


def find_foreign_networks(capture: Capture, families: Iterable[Family]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the excluded networks that belong to none of `families`, so that no rule would mention them."""
    chosen = tuple(families)
    return tuple(net for net in capture.exclude_networks if not any(family.has(net) for family in chosen))


def find_listeners(tables: Mapping[Family, str], family: Family, port: int, state: str = LISTENS) -> frozenset[int]:
    """
    Return the users that listen where REDIRECT delivers a connection of `family`: on loopback, or on every address.

    `tables` holds what `/proc/net/tcp` and `/proc/net/tcp6` say, or with `state` UNCONNECTED those of UDP. They are
    read because the question must not be asked by connecting: Envoy would take the connection for a captured one, to
    itself.
    """
    wanted = {f"{host}:{port:04X}" for host in _LISTENING[family]}
    rows = (line.split() for table in tables.values() for line in table.splitlines())
    return frozenset(
        int(row[_UID]) for row in rows if len(row) > _UID and row[_STATE] == state and row[_LOCAL] in wanted
    )


def find_captured_users(capture: Capture, users: Iterable[int]) -> tuple[int, ...]:
    """Return those of `users` whose own connections `capture` sends to Envoy. Marks are not seen from here."""
    if capture.exempt_marks:
        return ()
    return tuple(sorted(set(users) - set(capture.exempt_uids) - set(capture.exclude_uids)))


def _exemptions(capture: Capture, family: Family) -> Iterator[str]:
    yield from (f"-m mark --mark {mark:#x}" for mark in capture.exempt_marks)
    yield from (f"-m owner --uid-owner {uid}" for uid in capture.exempt_uids)
    yield "-o lo"
    yield f"-d {family.loopback}"
    yield from (f"-m owner --uid-owner {uid}" for uid in capture.exclude_uids)
    yield from (f"-p tcp -m tcp --dport {port}" for port in capture.exclude_ports)
    yield from (f"-d {network}" for network in capture.exclude_networks if family.has(network))


def _jumps(saved: str) -> list[str]:
    """Every rule that leads to our chain, as `iptables-save` wrote it: `-D` takes the same words."""
    found = (_ANY_JUMP.fullmatch(line) for line in saved.splitlines())
    return [match["rule"] for match in found if match]


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
    if network.prefixlen == 0:
        other = next(family.value for family in Family if not family.has(network))
        raise SettingsError(
            f"{text!r} is every IPv{network.version} address: nothing of that family would be captured; "
            f"capture the other one alone with --family {other}"
        )
    return network


def _network_order(network: IPv4Network | IPv6Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
