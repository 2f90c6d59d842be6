"""
Rules of others that decide about connections before ours do, so that these never reach Envoy.

Reads what iptables and nft print; nothing here runs them. What can't concern a captured connection is left out: other
protocols, the loopback interface, what is excluded anyway. Invariant: a rule that is not understood is never taken for
one that does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

from xds.capture.iptables import CHAIN, find_output_rules, find_rules_before_ours, find_rules_of, remove_our_jump
from xds.capture.nftables import TABLE, find_nftables, find_tables, of_kind, read_items
from xds.capture.wanted import Capture, Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_MESHES = {"ISTIO_OUTPUT": "Istio", "PROXY_INIT_OUTPUT": "Linkerd"}
"""The chains that lead the connections of a pod into another mesh."""

_MESH_TABLE = re.compile(r"\b(istio|linkerd)", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_TARGET = re.compile(r"-[jg] (\S+)")
_PROTOCOL = re.compile(r"(! )?-p (\S+)")
_DESTINATION = re.compile(r"(?<!! )-d (\S+)")
_PORT = re.compile(r"(?<!! )--dport (\d+)(?!\S)")
_USER = re.compile(r"(?<!! )--uid-owner (\d+)(?!\S)")
_LOOPBACK = re.compile(r"(?<!! )-o lo(?!\S)")
_DECIDES = re.compile(r"-j (?:ACCEPT|REDIRECT|DNAT)\b")
_LEAVES = re.compile(r"-j RETURN\b|-g ")
"""What ends the chain that the kernel begins with."""
_UNTRACKS = re.compile(r"-j NOTRACK\b|-j CT\b.* --notrack\b")

_NAT_PRIORITY, _TRACKING_PRIORITY = -100, -200
"""Of our redirection, and of the kernel's connection tracking, without which there is none (linux/netfilter_ipv4.h)."""
_FAMILIES = {"ip": (Family.IPV4,), "ip6": (Family.IPV6,), "inet": tuple(Family)}
_NUMBERS = {6: "tcp", 17: "udp"}
"""Protocols, for nft has no names where there is no /etc/protocols."""
_REDIRECTS, _UNTRACKED, _FOREIGN = frozenset({"dnat", "redirect"}), "notrack", "xt"


@dataclass(frozen=True, slots=True)
class Others:
    """What there is besides ours, as the programs print it; None is what nobody would say."""

    iptables: Mapping[Family, str | None]
    """What `iptables-save` says of the tables that may hold rules of ours."""
    raw: Mapping[Family, str | None]
    """What it says of the table `raw`."""
    tables: str | None
    """What `nft list tables` says."""
    ruleset: str | None
    """What `nft -j list ruleset` says; empty where there is nothing of others."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Who takes connections away, in words; without `is_known` it is what could not be looked at."""

    text: str
    remedy: str
    is_known: bool = True


def has_foreign_tables(listed: str) -> bool:
    """Whether there are tables that are not ours; `listed` is what `nft list tables` prints."""
    return len(find_tables(listed)) > len(find_nftables(listed))


def place_last(others: Others) -> Others:
    """Return what there would be if ours followed all rules of others, which is where applying puts them."""
    return replace(
        others, iptables={family: saved and remove_our_jump(saved) for family, saved in others.iptables.items()}
    )


def find_takers(others: Others, capture: Capture, families: Sequence[Family]) -> tuple[Taker, ...]:
    """Return all that takes connections from ours, the meshes first."""
    return (
        *_find_meshes(others, families),
        *_find_rules(others, capture, families),
        *_find_chains(others, capture, families),
    )


def _find_meshes(others: Others, families: Sequence[Family]) -> Iterator[Taker]:
    remedy = (
        "two captures in one pod take connections from each other: give the pod the annotation "
        "`egress-xds/mode: explicit`, which needs no capture, and run xds capture --undo"
    )
    for family in families:
        saved = others.iptables.get(family) or ""
        before = find_rules_before_ours(saved)
        for chain, mesh in _MESHES.items():
            if any(rule.endswith(f" {chain}") for rule in before):
                yield Taker(f"{mesh} captures before us ({chain}, {family.value}): its redirection wins", remedy)
            elif any(rule.endswith(f" {chain}") for rule in find_output_rules(saved)):
                yield Taker(f"{mesh} captures, too ({chain}, {family.value}): what we capture never reaches it", remedy)
    for table in find_tables(others.tables or ""):
        if found := _MESH_TABLE.search(table):
            yield Taker(f"{found[1].capitalize()} captures, too, with nftables (table {table})", remedy)


def _find_rules(others: Others, capture: Capture, families: Sequence[Family]) -> Iterator[Taker]:
    for family in families:
        saved, raw = others.iptables.get(family), others.raw.get(family)
        if saved is None or raw is None:
            yield Taker(f"those of iptables could not be looked at ({family.value})", "run it as root", is_known=False)
        for rule in dict.fromkeys(_find_deciding(saved or "", capture, family)):
            what = f"a rule of somebody else decides before ours ({family.value}): {rule}"
            yield Taker(what, "remove it, or let it follow ours")
        for rule in _find_untracking(raw or "", capture, family):
            what = f"a rule of the table raw takes connections out of tracking, and none of them is redirected: {rule}"
            yield Taker(f"{what} ({family.value})", "remove it, or let it leave out what is captured")


def _find_deciding(saved: str, capture: Capture, family: Family) -> Iterator[str]:
    first = find_rules_before_ours(saved)
    for rule in first:
        if _concerns(rule, capture, family) and _LEAVES.search(_bare(rule)):
            yield rule
    yield from _follow(first, find_rules_of(saved, "nat"), _DECIDES, lambda rule: _concerns(rule, capture, family))


def _find_untracking(raw: str, capture: Capture, family: Family) -> Iterator[str]:
    chains = find_rules_of(raw, "raw")
    begun = chains.get("OUTPUT", ())
    return _follow(begun, chains, _UNTRACKS, lambda rule: _concerns(rule, capture, family))


def _follow(
    begun: Iterable[str],
    chains: Mapping[str, tuple[str, ...]],
    decides: re.Pattern[str],
    concerns: Callable[[str], bool],
) -> Iterator[str]:
    """Yield the rules that decide, among those that may be reached."""
    seen, waiting = {CHAIN, *_MESHES}, list(begun)
    while waiting:
        rule = waiting.pop(0)
        if not concerns(rule):
            continue
        if decides.search(_bare(rule)):
            yield rule
        target = _TARGET.search(_bare(rule))
        if target and target[1] in chains and target[1] not in seen:
            seen.add(target[1])
            waiting.extend(chains[target[1]])


def _bare(rule: str) -> str:
    """Return a rule without what it quotes, which may be any words."""
    return _QUOTED.sub('""', rule)


def _concerns(rule: str, capture: Capture, family: Family) -> bool:
    """Whether a rule may match what is captured."""
    bare = _bare(rule)
    if found := _PROTOCOL.search(bare):
        is_not = bool(found[1])
        if not any((protocol == found[2]) is not is_not for protocol in _protocols(capture)):
            return False
    if _LOOPBACK.search(bare):
        return False
    if (found := _DESTINATION.search(bare)) and _is_excluded(found[1], capture, family):
        return False
    if (found := _PORT.search(bare)) and int(found[1]) in capture.exclude_ports:
        return False
    return not ((found := _USER.search(bare)) and int(found[1]) in {*capture.exempt_uids, *capture.exclude_uids})


def _protocols(capture: Capture) -> tuple[str, ...]:
    return ("tcp", "udp") if capture.dns else ("tcp",)


def _is_excluded(text: str, capture: Capture, family: Family) -> bool:
    """Whether connections to a network pass by anyway."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return False
    passing = (ip_network(family.loopback), *capture.exclude_networks)
    return any(network.version == one.version and network.subnet_of(one) for one in passing)  # type: ignore[arg-type]  # of one version


def _find_chains(others: Others, capture: Capture, families: Sequence[Family]) -> Iterator[Taker]:
    """Judge what hangs at the hook of outgoing packets, whatever the table."""
    try:
        items = None if others.ruleset is None else read_items(others.ruleset) if others.ruleset else []
    except ValueError:
        items = None
    if items is None:
        remedy = "run it as root where nft is installed, on Debian with `apt-get install nftables`"
        yield Taker("those of nftables could not be looked at", remedy, is_known=False)
        return
    for chain in of_kind(items, "chain"):
        name = f"{chain.get('family')} {chain.get('table')}"
        is_asked = bool(set(_FAMILIES.get(str(chain.get("family")), ())) & set(families))
        is_known = chain.get("table") == TABLE or _MESH_TABLE.search(name) or _is_of_iptables(chain, others)
        if chain.get("hook") == "output" and is_asked and not is_known:
            yield from _judge(chain, _find_statements(items, chain, capture))


def _is_of_iptables(chain: Mapping[str, object], others: Others) -> bool:
    """Whether iptables has said itself what is in a chain that it keeps in nftables."""
    families = _FAMILIES.get(str(chain.get("family")), ())
    said = {"nat": others.iptables, "raw": others.raw}.get(str(chain.get("table")), {})
    if chain.get("name") != "OUTPUT" or len(families) != 1:
        return False
    return "(nf_tables)" in (said.get(families[0]) or "")


def _judge(chain: Mapping[str, object], found: frozenset[str]) -> Iterator[Taker]:
    given = chain.get("prio")
    priority = given if isinstance(given, int) else -(2**31)
    where = f"table {chain.get('family')} {chain.get('table')}, chain {chain.get('name')}, priority {given}"
    remedy = f"remove it: nft delete chain {chain.get('family')} {chain.get('table')} {chain.get('name')}"
    if priority < _TRACKING_PRIORITY and _UNTRACKED in found:
        yield Taker(f"nftables takes connections out of tracking, and none of them is redirected ({where})", remedy)
    is_before = priority < _TRACKING_PRIORITY or (chain.get("type") == "nat" and priority <= _NAT_PRIORITY)
    if chain.get("type") == "nat" and is_before and (done := sorted(found & _REDIRECTS)):
        yield Taker(f"a chain of nftables decides before ours, with {' and '.join(done)} ({where})", remedy)
    elif is_before and _FOREIGN in found:
        yield Taker(f"a chain of nftables has rules that nft can't read ({where})", "see what made it", is_known=False)


def _find_statements(
    items: Sequence[Mapping[str, object]], base: Mapping[str, object], capture: Capture
) -> frozenset[str]:
    """Return the names of the statements that captured connections may reach from `base`."""
    place = (base.get("family"), base.get("table"))
    rules = [rule for rule in of_kind(items, "rule") if (rule.get("family"), rule.get("table")) == place]
    maps = [item for item in of_kind(items, "map") if (item.get("family"), item.get("table")) == place]
    found: set[str] = set()
    seen: set[object] = set()
    waiting: list[object] = [base.get("name")]
    while waiting:
        name = waiting.pop()
        if name in seen or name == CHAIN:
            continue
        seen.add(name)
        for rule in rules:
            written = rule.get("expr")
            if rule.get("chain") != name or not isinstance(written, list) or _is_beside(written, capture):
                continue
            found.update(key for statement in written if isinstance(statement, dict) for key in statement)
            waiting.extend(_find_targets(written))
            if "vmap" in found:
                waiting.extend(_find_targets(maps))
    return frozenset(found)


def _find_targets(value: object) -> Iterator[object]:
    """Yield the chains that verdicts anywhere in `value` lead to."""
    match value:
        case {"target": str(name)}:
            yield name
        case Mapping():
            for item in value.values():
                yield from _find_targets(item)
        case list():
            for item in value:
                yield from _find_targets(item)
        case _:
            pass


def _is_beside(statements: Iterable[object], capture: Capture) -> bool:
    """Whether a rule matches other protocols, or the loopback interface, alone."""
    return any(_excludes(statement, capture) for statement in statements)


def _excludes(statement: object, capture: Capture) -> bool:
    match statement:
        case {"match": {"op": "==", "left": {"meta": {"key": "oifname" | "oif"}}, "right": "lo"}}:
            return True
        case {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": str() | int() as right}}:
            return (_NUMBERS.get(right, "") if isinstance(right, int) else right) not in _protocols(capture)
        case {"match": {"left": {"payload": {"protocol": "udp" | "icmp" | "icmpv6" | "sctp" as protocol}}}}:
            return protocol not in _protocols(capture)
        case {"match": {"op": "==", "left": {"payload": {"field": "daddr"}}, "right": element}}:
            return _is_loopback(element)
        case _:
            return False


def _is_loopback(element: object) -> bool:
    match element:
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            written = f"{address}/{length}"
        case str(written):
            pass
        case _:
            return False
    try:
        return ip_network(written, strict=False).is_loopback
    except ValueError:
        return False
