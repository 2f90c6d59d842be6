"""
Warnings about rules and entries that never decide anything, because earlier rules, or built-in ones, always do.

They need a policy without errors. What is said of a rule as a whole is not said of its entries again. Nothing here
changes what a policy means; what covers what is found in `coverage`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from xds.policy.coverage import BUILT_IN, SYNTHETIC, Covered, find_covered
from xds.policy.findings import quote
from xds.policy.hosts import Problem
from xds.policy.model import Action, Deny, Direct, DomainPattern, Policy, Rule
from xds.policy.patterns import parse_entry
from xds.policy.yaml_lines import Fields, Items, Node, Scalar, at, child

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.diagnostics import Where
    from xds.policy.coverage import Deciders
    from xds.policy.findings import Findings
    from xds.policy.model import Destination, Dialect

_MOST = 20
"""Rules of one document that are told of, for each kind of warning."""
_NAMED = 3
"""Rules that are named as the cause."""


@dataclass(slots=True)
class _Told:
    """What is to be said about one code; the last that is told counts the others."""

    code: str
    found: list[tuple[Where, str, str]] = field(default_factory=list)
    more: int = 0

    def add(self, where: Where, message: str, hint: str) -> None:
        if len(self.found) < _MOST:
            self.found.append((where, message, hint))
        else:
            self.more += 1

    def report(self, findings: Findings) -> None:
        for index, (where, message, hint) in enumerate(self.found, start=1):
            others = f" (and so for {self.more} more)" if self.more and index == _MOST else ""
            findings.add_at(self.code, where, f"{message}{others}", hint)


def lint_rules(policy: Policy, root: Fields, findings: Findings) -> None:
    """Warn of rules and entries of `policy`, which was read from `root`, that never decide anything."""
    linter = _Linter(policy, root, findings)
    for rule, covered in find_covered(policy):
        if covered:
            linter.look_at(rule, covered)
    linter.report()


class _Linter:
    """Puts into words what is covered in one policy."""

    def __init__(self, policy: Policy, root: Fields, findings: Findings) -> None:
        self._policy = policy
        self._root = root
        self._findings = findings
        self._unused = _Told("EX228")
        self._shadowed = _Told("EX229")
        self._repeats: list[tuple[Rule, Covered]] = []

    def look_at(self, rule: Rule, covered: tuple[Covered, ...]) -> None:
        """Say what there is to say of a rule of which something is covered."""
        other = [item for item in covered if any(self._differs(rule, number) for number in item.by)]
        if len(covered) == len(rule.destinations):
            if other or not _is_built_in(covered):
                self._say_unused(rule, covered, is_other=bool(other))
        elif other:
            self._say_shadowed(rule, other)
        else:
            # That a bypass names loopback as well is said in every list of every company, and does no harm.
            self._repeats += [(rule, item) for item in covered if item.by != (BUILT_IN,)]

    def report(self) -> None:
        self._unused.report(self._findings)
        self._shadowed.report(self._findings)
        if self._repeats:
            rule, item = self._repeats[0]
            more = f" and {len(self._repeats) - 1} more" if len(self._repeats) > 1 else ""
            entry = self._entry(rule, item.destination)
            message = f"{quote(entry.text)}{more}: {self._name(item.by)} first and does the same"
            self._findings.add_at("EX222", entry.where, message, "remove the repeats")

    def _say_unused(self, rule: Rule, covered: Sequence[Covered], *, is_other: bool) -> None:
        by = _together(covered)
        message = f"the rule {quote(rule.name)} is never used: {self._name(by)} first, for all that it matches"
        self._unused.add(rule.where, message, _hint(by, "remove it", is_other=is_other))

    def _say_shadowed(self, rule: Rule, covered: Sequence[Covered]) -> None:
        by = _together(covered)
        entry = self._entry(rule, covered[0].destination)
        what = quote(entry.text) + (f" and {len(covered) - 1} more" if len(covered) > 1 else "")
        message = f"{what} in the rule {quote(rule.name)}: never decided here, since {self._name(by)} first"
        self._shadowed.add(entry.where, message, _hint(by, "take it out", is_other=True))

    @cached_property
    def _nodes(self) -> Mapping[Where, Node]:
        rules = at(self._root, "spec", "rules")
        return {self._findings.where(node): node for node in rules.items} if isinstance(rules, Items) else {}

    def _differs(self, rule: Rule, number: int) -> bool:
        if number == SYNTHETIC:
            return True
        first = (Direct(), Direct()) if number == BUILT_IN else self._actions(number)
        return first != (rule.action, rule.http_action)

    def _actions(self, number: int) -> tuple[Action, Action]:
        return self._policy.rules[number].action, self._policy.rules[number].http_action

    def _name(self, by: Deciders) -> str:
        """Name what comes before, with what it does, and say that it comes."""
        words = [self._name_one(number) for number in by[:_NAMED]]
        if len(by) > _NAMED:
            words.append("others")
        if len(words) == 1:
            return f"{words[0]} comes"
        return f"{', '.join(words[:-1])} and {words[-1]} come"

    def _name_one(self, number: int) -> str:
        if number == SYNTHETIC:
            return "`dns.syntheticRange`, whose addresses stand for names,"
        if number == BUILT_IN:
            return "the built-in bypass of this host and its links (`alwaysDirect`)"
        rule = self._policy.rules[number]
        action, http_action = (_word(action) for action in self._actions(number))
        word = action if action == http_action else f"{action}, {http_action} for plain HTTP"
        return f"{quote(rule.name)} ({word})"

    def _entry(self, rule: Rule, destination: Destination) -> _Entry:
        """Find the entry of `rule` that `destination` was read from; a warning is not worth to fail for it."""
        node = self._nodes.get(rule.where)
        entries = () if node is None else _entries(at(node, "to"))
        found = next((item for item in entries if _stands_for(item, destination, self._policy.dialect)), None)
        return _Entry(rule.name, rule.where) if found is None else _Entry(found.text, self._findings.where(found))


@dataclass(frozen=True, slots=True)
class _Entry:
    text: str
    where: Where


def _is_built_in(covered: Iterable[Covered]) -> bool:
    return all(item.by == (BUILT_IN,) for item in covered)


def _together(covered: Iterable[Covered]) -> Deciders:
    return tuple(sorted({number for item in covered for number in item.by}))


def _hint(by: Deciders, removal: str, *, is_other: bool) -> str:
    if by[-1] == BUILT_IN:
        return f"{removal}, or switch the bypass off: `alwaysDirect: {{linkLocal: false, loopback: false}}`"
    if by[-1] == SYNTHETIC:
        return f"{removal}, or name the hosts that are meant in `domains`"
    return f"put the rule before, or {removal}" if is_other else removal


def _word(action: Action) -> str:
    if isinstance(action, Direct):
        return "direct"
    return "deny" if isinstance(action, Deny) else f"tunnel through {action.proxy}"


def _entries(to: Node) -> Iterable[Scalar]:
    """Yield every host and network that is written in `to`."""
    for part in ("domains", "cidrs", "tcp"):
        items = child(to, part)
        for item in items.items if isinstance(items, Items) else ():
            node = child(item, "host") if isinstance(item, Fields) else item
            if isinstance(node, Scalar):
                yield node


def _stands_for(item: Scalar, destination: Destination, dialect: Dialect) -> bool:
    """Whether `destination` was, perhaps among others, read from `item`."""
    entry = parse_entry(item.text, dialect)
    if isinstance(entry, Problem):
        return False
    if isinstance(entry.host, DomainPattern) and isinstance(destination.host, DomainPattern):
        return entry.host.name == destination.host.name
    return entry.host == destination.host
