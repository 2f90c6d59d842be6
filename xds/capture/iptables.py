"""
Scripts for iptables: input for `iptables-restore --noflush` or `ip6tables-restore --noflush`.

All rules live in one chain of our own per table, and jumps in OUTPUT lead there; nothing else in the tables is touched.
What renders is told what `iptables-save` says of the tables, so that applying twice leaves what applying once leaves.
Invariant: each table of a script is applied whole or not at all; both of them are not, which is what
`render_restoration` is for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.capture.found import Kind, Rule, put_together
from xds.capture.plan import NAME_PORT, QUIC_PORT, Plan, build_plan
from xds.capture.wanted import Capture, Family, UdpRejection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.capture.found import Found

CHAIN = "EGRESS_XDS_OUTPUT"
"""The chain in each table that holds every rule of ours."""

TABLES = ("nat", "filter")
"""The tables that may hold a chain of ours."""

_QUIC_JUMP = f"OUTPUT -p udp -m udp --dport {QUIC_PORT} -j {CHAIN}"
_UDP_JUMP = f"OUTPUT -p udp -j {CHAIN}"
_JUMP = f"OUTPUT -p tcp -j {CHAIN}"
_DNS = f"-p udp -m udp --dport {NAME_PORT}"
_DNS_JUMP = f"OUTPUT {_DNS} -j {CHAIN}"
_ANY_JUMP = re.compile(rf"-A (?P<rule>\S+ .*-[jg] {CHAIN})")
_RULE = re.compile(r"-A (?P<chain>\S+) (?P<rule>.*)")
_QUOTED = re.compile(r'(--[a-z0-9-]+ )("(?:[^"\\]|\\.)*")', re.DOTALL)
"""An option that may hold any text, such as the comment of a rule, as `iptables-save` quotes it."""

_WORDS = (
    (Kind.MARK, re.compile(r"-m mark --mark (0x[0-9a-f]+)(?:/0xffffffff)? -j RETURN")),
    (Kind.USER, re.compile(r"-m owner --uid-owner ([0-9]+) -j RETURN")),
    (Kind.LOOPBACK, re.compile(r"-o (lo) -j RETURN")),
    (Kind.NETWORK, re.compile(r"-d (\S+) -j RETURN")),
    (Kind.TCP_PORT, re.compile(r"-p tcp -m tcp --dport ([0-9]+) -j RETURN")),
    (Kind.UDP_PORT, re.compile(r"-p udp -m udp --dport ([0-9]+) -j RETURN")),
    (Kind.REDIRECT_NAMES, re.compile(rf"{_DNS} -j REDIRECT --to-ports ([0-9]+)")),
    (Kind.REDIRECT, re.compile(r"-p tcp -j REDIRECT --to-ports ([0-9]+)")),
    (Kind.REJECT, re.compile(r"-p udp -j REJECT --reject-with (\S+)")),
)
"""How `iptables-save` writes each kind of rule."""


def render_capture(capture: Capture, family: Family, saved: str = "") -> str:
    """
    Return the script that puts `capture` in force in place of any capture that `saved` shows.

    `saved` is what `iptables-save` prints of `TABLES`; empty stands for a pod without any rules.
    """
    plan = build_plan(capture, family)
    nat, filtered = (_section(saved, table) for table in TABLES)
    rejection = _render_rejection(plan, family, filtered) or _render_removal("filter", filtered)
    names = f"{_DNS} -j REDIRECT --to-ports {plan.dns_port}"
    redirect = [
        *(f"-A {CHAIN} {match} -j RETURN" for match in _exemptions(plan, family)),
        *(f"-A {CHAIN} -p tcp -m tcp --dport {port} -j RETURN" for port in sorted(plan.tcp_ports)),
        *([f"-A {CHAIN} {names}"] if plan.dns_port is not None else []),
        f"-A {CHAIN} -p tcp -j REDIRECT --to-ports {plan.to_port}",
        f"-A {_JUMP}",
        *([f"-A {_DNS_JUMP}"] if plan.dns_port is not None else []),
    ]
    return _render_table("nat", nat, redirect) + rejection


def _render_rejection(plan: Plan, family: Family, saved: str) -> str:
    """Return what rejects UDP; empty if none is rejected."""
    if plan.reject_udp is UdpRejection.NONE:
        return ""
    jump = _QUIC_JUMP if plan.reject_udp is UdpRejection.QUIC else _UDP_JUMP
    rules = [
        *(f"-A {CHAIN} {match} -j RETURN" for match in _exemptions(plan, family)),
        *(f"-A {CHAIN} -p udp -m udp --dport {port} -j RETURN" for port in sorted(plan.udp_ports)),
        f"-A {CHAIN} -p udp -j REJECT --reject-with {family.refusal}",
        f"-A {jump}",
    ]
    return _render_table("filter", saved, rules)


def _render_table(table: str, saved: str, rules: list[str]) -> str:
    """Return what puts `rules` in place of those of ours in the saved table."""
    # Declaring a chain of one's own empties it where it exists (iptables-restore, --noflush).
    return "\n".join(
        [f"*{table}", f":{CHAIN} - [0:0]", *(f"-D {rule}" for rule in _jumps(saved)), *rules, "COMMIT", ""]
    )


def render_removal(saved: str) -> str:
    """Return the script that removes the capture that `saved` shows; empty if there is none."""
    return "".join(_render_removal(table, _section(saved, table)) for table in TABLES)


def _render_removal(table: str, saved: str) -> str:
    if f":{CHAIN} " not in saved:
        return ""
    jumps = (f"-D {rule}" for rule in _jumps(saved))
    return "\n".join([f"*{table}", *jumps, f"-F {CHAIN}", f"-X {CHAIN}", "COMMIT", ""])


def render_restoration(before: str, now: str) -> str:
    """
    Return the script that puts our rules back as they were, each jump in its old place; empty if they are.

    `before` and `now` are what `iptables-save` printed of `TABLES`. Rules of others stay as they are now.
    """
    return "".join(_restore(table, _section(before, table), _section(now, table)) for table in TABLES)


def _restore(table: str, before: str, now: str) -> str:
    if _ours(before) == _ours(now):
        return ""
    if f":{CHAIN} " not in before:
        return _render_removal(table, now)
    foreign: dict[str, int] = {}
    for chain, rule in _rules(now):
        foreign[chain] = foreign.get(chain, 0) + (not rule.endswith(f" {CHAIN}"))
    places: dict[str, int] = {}
    jumps: list[str] = []
    for chain, rule in _rules(before):
        places[chain] = places.get(chain, 0) + 1
        if chain != CHAIN and _ANY_JUMP.fullmatch(f"-A {chain} {rule}"):
            # Where others have taken rules away meanwhile, the old place may be behind the end.
            foreign[chain] = foreign.get(chain, 0) + 1
            jumps.append(f"-I {chain} {min(places[chain], foreign[chain])} {rule}")
    kept = [f"-A {CHAIN} {rule}" for chain, rule in _rules(before) if chain == CHAIN]
    return _render_table(table, now, [*kept, *jumps])


def _ours(saved: str) -> list[str]:
    return [line for line in saved.split("\n") if line.startswith((f":{CHAIN} ", f"-A {CHAIN} "))] + _jumps(saved)


def read_iptables(saved: str, family: Family) -> Found | None:
    """Return what our rules in `saved` do; None where there are none of ours."""
    sections = {table: _section(saved, table) for table in TABLES}
    if not any(f":{CHAIN} " in section for section in sections.values()):
        return None
    jumps = {table: _jumps(section) for table, section in sections.items()}
    redirecting = [
        rule
        for rule in _read_rules(sections["nat"])
        if not (rule.kind is Kind.REDIRECT and _JUMP not in jumps["nat"])
        and not (rule.kind is Kind.REDIRECT_NAMES and _DNS_JUMP not in jumps["nat"])
    ]
    reject = UdpRejection.NONE
    if _UDP_JUMP in jumps["filter"]:
        reject = UdpRejection.ALL
    elif _QUIC_JUMP in jumps["filter"]:
        reject = UdpRejection.QUIC
    return put_together(family, redirecting, _read_rules(sections["filter"]), reject)


def find_rules_before_ours(saved: str) -> tuple[str, ...]:
    """Return the rules in OUTPUT of the nat table before ours that captures TCP; all, if ours is not there."""
    rules = find_output_rules(saved)
    end = next((index for index, rule in enumerate(rules) if f"OUTPUT {rule}" == _JUMP), len(rules))
    return tuple(rule for rule in rules[:end] if not rule.endswith(f" {CHAIN}"))


def find_output_rules(saved: str) -> tuple[str, ...]:
    """Return every rule in OUTPUT of the nat table, without the chain's name."""
    return tuple(rule for chain, rule in _rules(_section(saved, "nat")) if chain == "OUTPUT")


def remove_our_jump(saved: str) -> str:
    """Return what `iptables-save` says without our rule in OUTPUT that captures TCP."""
    return saved.replace(f"\n-A {_JUMP}\n", "\n")


def find_rules_of(saved: str, table: str) -> dict[str, tuple[str, ...]]:
    """Return the rules of a table by chain, without the chain's name."""
    found: dict[str, list[str]] = {}
    for chain, rule in _rules(_section(saved, table)):
        found.setdefault(chain, []).append(rule)
    return {chain: tuple(rules) for chain, rules in found.items()}


def _read_rules(saved: str) -> list[Rule]:
    return [_read_rule(rule) for chain, rule in _rules(saved) if chain == CHAIN]


def _read_rule(text: str) -> Rule:
    for kind, pattern in _WORDS:
        if found := pattern.fullmatch(text):
            return Rule(kind, found[1])
    return Rule(Kind.STRANGE, text)


def _rules(saved: str) -> list[tuple[str, str]]:
    """Return the chain and the words of each rule."""
    found = (_RULE.fullmatch(line) for line in saved.split("\n"))
    return [(match["chain"], match["rule"]) for match in found if match]


def _section(saved: str, table: str) -> str:
    """Return what `iptables-save` says of one table, with every rule in one line, whatever its comment says."""
    whole = _QUOTED.sub(lambda found: found[0].replace("\n", " "), saved)
    _, _, rest = f"\n{whole}".partition(f"\n*{table}\n")
    return rest.partition("\nCOMMIT")[0]


def _exemptions(plan: Plan, family: Family) -> Iterator[str]:
    yield from (f"-m mark --mark {mark:#x}" for mark in sorted(plan.marks))
    yield from (f"-m owner --uid-owner {uid}" for uid in sorted(plan.uids))
    yield "-o lo"
    yield f"-d {family.loopback}"
    yield from (f"-d {network}" for network in sorted(plan.networks))


def _jumps(saved: str) -> list[str]:
    """Every rule that leads to our chain, as `iptables-save` wrote it: `-D` takes the same words."""
    found = (_ANY_JUMP.fullmatch(line) for line in saved.split("\n"))
    return [match["rule"] for match in found if match]
