"""
Scripts for iptables: input for `iptables-restore --noflush` or `ip6tables-restore --noflush`.

All rules live in one chain of our own per table, and jumps in OUTPUT lead there; nothing else in the tables is touched.
What renders is told what `iptables-save` says of the tables, so that applying twice leaves what applying once leaves.
Invariant: each table of a script is applied whole or not at all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.capture.wanted import Capture, Family, UdpRejection
from xds.names import DNS_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAIN = "EGRESS_XDS_OUTPUT"
"""The chain in the nat table that holds every rule of ours."""

TABLES = ("nat", "filter")
"""The tables that may hold a chain of ours."""

_QUIC_PORT = 443
_QUIC_JUMP = f"OUTPUT -p udp -m udp --dport {_QUIC_PORT} -j {CHAIN}"
_UDP_JUMP = f"OUTPUT -p udp -j {CHAIN}"
_JUMP = f"OUTPUT -p tcp -j {CHAIN}"
_DNS = "-p udp -m udp --dport 53"
_ANY_JUMP = re.compile(rf"-A (?P<rule>\S+ .*-[jg] {CHAIN})")


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
