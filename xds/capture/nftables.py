"""
Scripts for nftables: input for `nft -f -`, which applies the whole of it or nothing, both families included.

All rules live in one table of our own per family, so that removing them is removing the tables. There is a table for
each family rather than one for both (`inet`), because `--family` changes one of them alone, and because NAT in an
`inet` table wants Linux 5.2. The priorities are those of iptables' tables. Invariant: a script replaces what is there,
so that applying it twice leaves what applying it once leaves.
"""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import TYPE_CHECKING

from xds.capture.found import Kind, Rule, put_together
from xds.capture.plan import NAME_PORT, QUIC_PORT, Plan, build_plan
from xds.capture.wanted import Capture, Family, UdpRejection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xds.capture.found import Found

TABLE = "egress_xds"
"""The name of our tables, in each family's own."""

_SET = "excluded_networks"
_REDIRECT = "redirect_output"
_REJECT = "reject_output"
_TABLE_OF = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_FAMILY_OF = {name: family for family, name in _TABLE_OF.items()}
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "icmpv6"}


def table_words(family: Family) -> tuple[str, str]:
    """Return how nft names our table of a family, e.g. `("ip", "egress_xds")`."""
    return _TABLE_OF[family], TABLE


def render_nftables(capture: Capture, families: Iterable[Family]) -> str:
    """Return the script that puts `capture` in force in place of our tables that are there."""
    return "".join(_render_table(build_plan(capture, family), family) for family in families)


def render_nftables_removal(families: Iterable[Family]) -> str:
    """Return the script that removes our tables, whether they are there or not."""
    return "".join(_render_absence(family) for family in families)


def find_nftables(listed: str) -> tuple[Family, ...]:
    """Return the families that have a table of ours; `listed` is what `nft list tables` prints."""
    rows = {tuple(line.split()) for line in listed.splitlines()}
    return tuple(family for family in Family if ("table", *table_words(family)) in rows)


def find_tables(listed: str) -> tuple[str, ...]:
    """Return `FAMILY NAME` of every table that `nft list tables` prints."""
    return tuple(line.removeprefix("table ").strip() for line in listed.splitlines() if line.startswith("table "))


def _render_absence(family: Family) -> str:
    name = " ".join(table_words(family))
    # There is no word for "delete if it exists" before nft 1.0.7; what was just added can be deleted.
    return f"add table {name}\ndelete table {name}\n"


def _render_table(plan: Plan, family: Family) -> str:
    lines = [
        f"table {' '.join(table_words(family))} {{",
        *_render_set(plan, family),
        f"\tchain {_REDIRECT} {{",
        "\t\ttype nat hook output priority -100; policy accept;",
        *(f"\t\t{rule}" for rule in _redirecting(plan, family)),
        "\t}",
        *_render_rejection(plan, family),
        "}",
        "",
    ]
    return _render_absence(family) + "\n".join(lines)


def _render_set(plan: Plan, family: Family) -> Iterator[str]:
    if not plan.networks:
        return
    yield f"\tset {_SET} {{"
    yield f"\t\ttype {'ipv4_addr' if family is Family.IPV4 else 'ipv6_addr'}"
    yield "\t\tflags interval"
    yield f"\t\telements = {{ {', '.join(map(str, sorted(plan.networks)))} }}"
    yield "\t}"


def _redirecting(plan: Plan, family: Family) -> Iterator[str]:
    yield from _exemptions(plan, family)
    yield from (f"tcp dport {port} return" for port in sorted(plan.tcp_ports))
    if plan.dns_port is not None:
        yield f"udp dport {NAME_PORT} redirect to :{plan.dns_port}"
    if plan.to_port is not None:
        yield f"meta l4proto tcp redirect to :{plan.to_port}"


def _render_rejection(plan: Plan, family: Family) -> Iterator[str]:
    if plan.reject_udp is UdpRejection.NONE:
        return
    rejected = f"udp dport {QUIC_PORT}" if plan.reject_udp is UdpRejection.QUIC else "meta l4proto udp"
    yield f"\tchain {_REJECT} {{"
    yield "\t\ttype filter hook output priority 0; policy accept;"
    yield from (f"\t\t{rule}" for rule in _exemptions(plan, family))
    yield from (f"\t\tudp dport {port} return" for port in sorted(plan.udp_ports))
    yield f"\t\t{rejected} reject with {_ICMP[family]} port-unreachable"
    yield "\t}"


def _exemptions(plan: Plan, family: Family) -> Iterator[str]:
    yield from (f"meta mark {mark:#x} return" for mark in sorted(plan.marks))
    yield from (f"meta skuid {uid} return" for uid in sorted(plan.uids))
    yield 'oifname "lo" return'
    yield f"{_TABLE_OF[family]} daddr {family.loopback} return"
    if plan.networks:
        yield f"{_TABLE_OF[family]} daddr @{_SET} return"


def read_nftables(listed: str, family: Family) -> Found | None:
    """
    Return what our rules do; None where there are none of ours.

    `listed` is what `nft -j list table …` prints of our table (libnftables-json(5)). Raises ValueError if it is no such
    text.
    """
    items = read_items(listed)
    rules = {
        name: [_read_rule(rule, items) for rule in of_kind(items, "rule") if rule.get("chain") == name]
        for name in (_REDIRECT, _REJECT)
    }
    flat = {name: [rule for found in several for rule in found] for name, several in rules.items()}
    if not list(of_kind(items, "table")):
        return None
    rejects = [rule.value for rule in flat[_REJECT] if rule.kind is Kind.REJECT]
    reject = UdpRejection(rejects[0]) if rejects else UdpRejection.NONE
    return put_together(family, flat[_REDIRECT], flat[_REJECT], reject)


def read_items(listed: str) -> list[Mapping[str, object]]:
    """Return the items of what `nft -j` prints (libnftables-json(5)). Raises ValueError if it is no such text."""
    document = json.loads(listed)
    items = document.get("nftables") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise ValueError("what nft prints is not the JSON of libnftables")  # noqa: TRY004 -- as for text that is no JSON
    return [item for item in items if isinstance(item, dict)]


def of_kind(items: Iterable[Mapping[str, object]], kind: str) -> Iterator[Mapping[str, object]]:
    """Yield the items of a kind, such as `rule`."""
    for item in items:
        found = item.get(kind)
        if isinstance(found, dict):
            yield found


def _read_rule(rule: Mapping[str, object], items: Iterable[Mapping[str, object]]) -> list[Rule]:
    """
    Return the rules of ours that one rule stands for: one, or one per network of the set.

    Where there is no /etc/protocols, nft knows protocols by their numbers alone.
    """
    match rule.get("expr"):
        case [{"match": {"op": "==", "left": left, "right": right}}, {"return": None}]:
            return _read_exemption(left, right, items) or [_strange(rule)]
        case [{"match": {"left": {"payload": {"protocol": "udp"}}, "right": 53}}, {"redirect": {"port": int(port)}}]:
            return [Rule(Kind.REDIRECT_NAMES, str(port))]
        case [{"match": {"left": {"meta": {"key": "l4proto"}}, "right": "tcp" | 6}}, {"redirect": {"port": int(port)}}]:
            return [Rule(Kind.REDIRECT, str(port))]
        case [{"match": {"left": {"payload": {"protocol": "udp"}}, "right": 443}}, {"reject": _}]:
            return [Rule(Kind.REJECT, UdpRejection.QUIC.value)]
        case [{"match": {"left": {"meta": {"key": "l4proto"}}, "right": "udp" | 17}}, {"reject": _}]:
            return [Rule(Kind.REJECT, UdpRejection.ALL.value)]
        case _:
            return [_strange(rule)]


def _read_exemption(left: object, right: object, items: Iterable[Mapping[str, object]]) -> list[Rule]:
    """Return what passes by; empty if that is nothing of ours."""
    match left, right:
        case {"meta": {"key": "mark"}}, int(mark):
            return [Rule(Kind.MARK, hex(mark))]
        case {"meta": {"key": "skuid"}}, int(uid):
            return [Rule(Kind.USER, str(uid))]
        case {"meta": {"key": "oifname"}}, "lo":
            return [Rule(Kind.LOOPBACK, "lo")]
        case {"payload": {"field": "daddr"}}, str(name) if name == f"@{_SET}":
            sets = (found for found in of_kind(items, "set") if found.get("name") == _SET)
            return [rule for found in sets for element in _elements(found) for rule in _read_networks(element)]
        case {"payload": {"field": "daddr"}}, element:
            return _read_networks(element)
        case {"payload": {"protocol": "tcp", "field": "dport"}}, int(port):
            return [Rule(Kind.TCP_PORT, str(port))]
        case {"payload": {"protocol": "udp", "field": "dport"}}, int(port):
            return [Rule(Kind.UDP_PORT, str(port))]
        case _:
            return []


def _elements(found: Mapping[str, object]) -> list[object]:
    elements = found.get("elem")
    return elements if isinstance(elements, list) else []


def _read_networks(element: object) -> list[Rule]:
    match element:
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            networks = [ip_network(f"{address}/{length}")]
        case {"range": [str(first), str(last)]}:
            networks = list(summarize_address_range(ip_address(first), ip_address(last)))
        case str(address):
            networks = [ip_network(address)]
        case _:
            return []
    return [Rule(Kind.NETWORK, str(network)) for network in networks]


def _strange(rule: Mapping[str, object]) -> Rule:
    return Rule(Kind.STRANGE, json.dumps(rule.get("expr")))
