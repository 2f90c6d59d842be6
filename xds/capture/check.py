"""
What is missing or wrong with a capture, in words, each with its remedy.

Judges what was `Seen`; nothing here looks by itself. Invariant: whatever could not be looked at is said to be unknown,
and never taken for good.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from xds.capture.iptables import read_iptables
from xds.capture.nftables import read_nftables
from xds.capture.others import Others, find_takers
from xds.capture.plan import build_plan, describe_differences
from xds.capture.sockets import UNCONNECTED, find_listeners
from xds.capture.wanted import Capture, Family, find_captured_users, find_unmapped_users
from xds.names import DNS_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from xds.capture.found import Found

LOOPBACKS = {Family.IPV4: "127.0.0.1", Family.IPV6: "[::1]"}
"""Where a captured connection arrives."""

_NET_ADMIN = 1 << 12
"""CAP_NET_ADMIN among the bits of CapEff (proc_pid_status(5), capabilities(7))."""

_SCOPE, _GLOBAL = 3, "00"
"""The column of an address's scope in /proc/net/if_inet6, and what it says of one that leads anywhere."""


class State(Enum):
    """What came of a check."""

    GOOD = "good"
    FINDING = "finding"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    subject: str
    state: State
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there is in a network namespace, as the kernel and its programs print it; None is what nobody would say."""

    status: str
    """/proc/self/status."""
    uid_map: str
    """/proc/self/uid_map."""
    missing: Mapping[str, str]
    """By backend, the program of it that is not installed; empty where none is missing."""
    sockets: Mapping[Family, str] | None
    """/proc/net/tcp and tcp6."""
    answerers: Mapping[Family, str] | None
    """/proc/net/udp and udp6."""
    iptables: Mapping[Family, str | None]
    """What `iptables-save` says of the tables that may hold rules of ours."""
    raw: Mapping[Family, str | None]
    """What `iptables-save` says of the table `raw`, which no rule of ours is in."""
    nft_tables: str | None
    """What `nft list tables` says."""
    ruleset: str | None
    """What `nft -j list ruleset` says; empty where there is no table but ours."""
    nftables: Mapping[Family, str | None]
    """What `nft -j list table` says of ours; empty where there is none."""
    addresses: str
    """/proc/net/if_inet6; empty where the kernel knows no IPv6."""
    trials: Mapping[str, str | None]
    """By backend, what the kernel says against the rules; empty if it takes them."""
    refusals: tuple[str, ...] = ()
    """What those said who would not show their rules."""


def check_capture(seen: Seen, capture: Capture, families: Sequence[Family]) -> tuple[Check, ...]:
    """Say of everything that a capture needs whether it is there, in the order in which one would put it right."""
    found = {family: _read(seen, family) for family in Family}
    return (
        *_check_rights(seen),
        *_check_users(seen, capture),
        *_check_programs(seen),
        *_check_kernel(seen, families, found),
        *_check_envoy(seen, capture, families),
        *_check_names(seen, capture, families),
        *_check_rules(capture, families, found),
        *_check_other_family(seen, families, found),
        *_check_others(seen, capture, families),
    )


@dataclass(frozen=True, slots=True)
class _InForce:
    """Rules of ours of one family, by backend; `is_known` unless somebody would not show his."""

    by: Mapping[str, Found]
    is_known: bool


def _read(seen: Seen, family: Family) -> _InForce:
    by: dict[str, Found] = {}
    saved, listed = seen.iptables.get(family), seen.nftables.get(family)
    if saved and (found := read_iptables(saved, family)):
        by["iptables"] = found
    is_readable = True
    if listed:
        try:
            found = read_nftables(listed, family)
        except ValueError:
            found, is_readable = None, False
        if found:
            by["nftables"] = found
    asked = [text for name, text in (("iptables", saved), ("nftables", listed)) if not seen.missing.get(name)]
    return _InForce(by, is_readable and bool(asked) and None not in asked)


def _check_rights(seen: Seen) -> Iterator[Check]:
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)", seen.status, re.MULTILINE)
    if effective is None or not int(effective[1], 16) & _NET_ADMIN:
        yield Check(
            "rights",
            State.FINDING,
            "this process lacks CAP_NET_ADMIN: it can neither look at the rules nor change them",
            "run it as root with capabilities.add: [NET_ADMIN], or from the node: see docs/capture.md",
        )
    elif seen.refusals:
        yield Check(
            "rights",
            State.FINDING,
            f"the rules are not shown to this process: {seen.refusals[0]}",
            "run it in the user namespace that the network namespace belongs to, or as root of the node",
        )
    else:
        yield Check("rights", State.GOOD, "may look at the rules of this network namespace and change them")


def _check_users(seen: Seen, capture: Capture) -> Iterator[Check]:
    unmapped = find_unmapped_users(capture, seen.uid_map)
    if unmapped:
        yield Check(
            "users",
            State.FINDING,
            f"there is no user {unmapped[0]} in this user namespace, so that no rule can know its connections",
            "mark Envoy's connections instead: --exempt-mark N with `xds bootstrap --so-mark N`",
        )
    else:
        yield Check("users", State.GOOD, "every user that passes by exists in this user namespace")


def _check_programs(seen: Seen) -> Iterator[Check]:
    there = [name for name, missing in seen.missing.items() if not missing]
    if there:
        yield Check("programs", State.GOOD, f"installed: {' and '.join(there)}")
        return
    lacking = " and ".join(seen.missing.values())
    yield Check("programs", State.FINDING, f"not installed: {lacking}", "on Debian: apt-get install iptables")


def _check_kernel(seen: Seen, families: Sequence[Family], found: Mapping[Family, _InForce]) -> Iterator[Check]:
    if all(found[family].by for family in families):
        yield Check("kernel", State.GOOD, "has what the rules need, for they are in force")
        return
    able = [name for name, complaint in seen.trials.items() if complaint == ""]
    refused = [f"{name}: {complaint}" for name, complaint in seen.trials.items() if complaint]
    if able:
        yield Check("kernel", State.GOOD, f"takes the rules of {' and '.join(able)}")
    elif refused:
        yield Check(
            "kernel",
            State.FINDING,
            f"does not take the rules: {'; '.join(refused)}",
            "it needs NAT with REDIRECT, matching of sockets' owners, and REJECT for each family; load the modules "
            "nf_nat, xt_REDIRECT, xt_owner and ipt_REJECT, or nft_redir and nft_reject, on the node",
        )
    else:
        yield Check(
            "kernel",
            State.UNKNOWN,
            "could not be asked whether it takes the rules",
            "run it with CAP_SYS_ADMIN, which makes a network namespace to try them in, or simply apply them",
        )


def _check_envoy(seen: Seen, capture: Capture, families: Sequence[Family]) -> Iterator[Check]:
    if seen.sockets is None:
        yield Check("Envoy", State.UNKNOWN, "who listens could not be read from /proc/net", "mount /proc")
        return
    users = {family: find_listeners(seen.sockets, family, capture.to_port) for family in families}
    if captured := find_captured_users(capture, frozenset().union(*users.values())):
        yield Check(
            "Envoy",
            State.FINDING,
            f"runs as user {captured[0]}, whose own connections are not exempt and come back to it for ever",
            f"run it as user {capture.exempt_uids[0]}, or give --exempt-uid {captured[0]}",
        )
    if deaf := [family for family in families if not users[family]]:
        places = " and ".join(f"{LOOPBACKS[family]}:{capture.to_port}" for family in deaf)
        heard = [family.value for family in families if users[family]]
        yield Check(
            "Envoy",
            State.FINDING,
            f"nothing listens on {places}: connections that are captured fail",
            f"capture {heard[0]} alone with --family {heard[0]}, or let Envoy listen for both"
            if heard
            else "start Envoy, and see whether the control plane has a policy for it",
        )
    if not captured and not deaf:
        yield Check("Envoy", State.GOOD, f"listens on port {capture.to_port}, and its own connections pass by")


def _check_names(seen: Seen, capture: Capture, families: Sequence[Family]) -> Iterator[Check]:
    if not capture.dns:
        return
    if seen.answerers is None:
        yield Check("names", State.UNKNOWN, "who answers questions could not be read from /proc/net", "mount /proc")
        return
    silent = [family for family in families if not find_listeners(seen.answerers, family, DNS_PORT, UNCONNECTED)]
    if silent:
        places = " and ".join(f"{LOOPBACKS[family]}:{DNS_PORT}" for family in silent)
        yield Check(
            "names",
            State.FINDING,
            f"nothing answers questions on {places}: no name resolves",
            "put a policy with `dns.mode: capture` in force, or leave out --dns",
        )
    else:
        yield Check("names", State.GOOD, f"Envoy answers questions on port {DNS_PORT}")


def _check_rules(capture: Capture, families: Sequence[Family], found: Mapping[Family, _InForce]) -> Iterator[Check]:
    for family in families:
        yield from _check_rules_of(build_family_name(family), capture, family, found[family])


def build_family_name(family: Family) -> str:
    """Return how people write a family: `IPv4` or `IPv6`."""
    return "IPv4" if family is Family.IPV4 else "IPv6"


def _check_rules_of(name: str, capture: Capture, family: Family, in_force: _InForce) -> Iterator[Check]:
    subject = f"{name} rules"
    again = "apply the capture again with the options that are meant"
    if not in_force.by:
        if in_force.is_known:
            yield Check(subject, State.FINDING, "nothing is captured", "xds capture --apply")
        else:
            yield Check(subject, State.UNKNOWN, "could not be looked at", "run it as root, with the programs installed")
        return
    if len(in_force.by) > 1:
        yield Check(
            subject,
            State.FINDING,
            "rules of iptables and of nftables are both in force",
            "xds capture --undo, then --apply where both programs are installed",
        )
    for backend, one in in_force.by.items():
        wrong = [*describe_differences(build_plan(capture, family), one.plan), *_shorten(one.strange)]
        if wrong:
            yield Check(subject, State.FINDING, f"of {backend}, not those asked for: {'; '.join(wrong)}", again)
        elif len(in_force.by) == 1:
            yield Check(subject, State.GOOD, f"of {backend}, in force as asked for")


_SHOWN = 3


def _shorten(strange: tuple[str, ...]) -> list[str]:
    rest = [f"and {len(strange) - _SHOWN} more"] if len(strange) > _SHOWN else []
    return [*(f"a strange rule: {text}" for text in strange[:_SHOWN]), *rest]


def _check_other_family(seen: Seen, families: Sequence[Family], found: Mapping[Family, _InForce]) -> Iterator[Check]:
    """Say that IPv6 slips through: where it is not asked for, nobody else would."""
    if Family.IPV6 in families or found[Family.IPV6].by:
        return
    addresses = _find_global_addresses(seen.addresses)
    if not addresses:
        yield Check("IPv6 rules", State.GOOD, "not needed, for there is no IPv6 address that leads anywhere")
    else:
        yield Check(
            "IPv6 rules",
            State.FINDING,
            f"there is {addresses[0]}, and IPv6 is not captured: connections over it go past Envoy",
            "capture both families, or have the pod's network without IPv6",
        )


def _find_global_addresses(table: str) -> list[str]:
    rows = [line.split() for line in table.splitlines()]
    return [str(IPv6Address(int(row[0], 16))) for row in rows if len(row) > _SCOPE and row[_SCOPE] == _GLOBAL]


def _check_others(seen: Seen, capture: Capture, families: Sequence[Family]) -> Iterator[Check]:
    found = find_takers(Others(seen.iptables, seen.raw, seen.nft_tables, seen.ruleset), capture, families)
    for taker in found:
        state = State.FINDING if taker.is_known else State.UNKNOWN
        yield Check("others' rules", state, taker.text, taker.remedy)
    if not found:
        yield Check("others' rules", State.GOOD, "none takes connections away from Envoy")
