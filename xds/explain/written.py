"""
Where in a document's text the deciding words stand: the entry of a rule, the default, the list `noProxy`.

A policy's values are normalised, and know the lines of rules only. Nothing here judges a document: it is one that
became a policy. Invariant: a place that can't be found in the text is the rule's own, never another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.diagnostics import Where
from xds.explain.misses import covers
from xds.policy.findings import Findings
from xds.policy.hosts import Problem
from xds.policy.model import DomainPattern
from xds.policy.patterns import parse_entry, split_entries
from xds.policy.yaml_lines import Fields, Items, Scalar, at, child, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.explain.cause import Cause
    from xds.policy.model import Destination, Policy
    from xds.policy.patterns import Entry
    from xds.policy.yaml_lines import Node

_LISTS = ("domains", "cidrs", "tcp")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a document, and the entry there as it is written; empty if the place is no entry."""

    where: Where
    entry: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """The text of one policy."""

    policy: Policy
    root: Fields | None

    @classmethod
    def read(cls, policy: Policy, text: str) -> Written:
        """Find the policy in the text of its source, which may hold several."""
        nodes = read_yaml(text, Findings(policy.where.source))
        found = (node for node in nodes if isinstance(node, Fields) and node.line == policy.where.line)
        return cls(policy, next(found, None))

    @property
    def no_proxy(self) -> tuple[str, ...] | None:
        """The entries of `noProxy` as they are written; None: it is no document of the short form."""
        if self.root is None or "spec" in self.root.fields:
            return None
        node = self.root.fields.get("noProxy")
        return () if node is None else tuple(text for text, _ in _texts(node))

    def find_default(self, *, is_http: bool) -> Place:
        """Return the place of what happens where no rule matches."""
        if self.root is None:
            return Place(self.policy.where)
        if "spec" not in self.root.fields:
            return self._at(at(self.root, "httpProxy" if is_http else "httpsProxy"))
        node = at(self.root, "spec", "default")
        return self._at(at(node, "http") if is_http else node)

    def find_rule(self, cause: Cause, name: str, port: int) -> Place:
        """
        Return the place of the entry that made a rule match.

        `name` is the one that the connection shows, if any.
        """
        rule = None if self.root is None else self._rule_node(self.root, cause.where)
        if rule is None or cause.destination is None:
            return Place(cause.where)
        for text, node in _entries(rule):
            entry = parse_entry(text, self.policy.dialect)
            if not isinstance(entry, Problem) and _is_cause(entry, cause.destination, name, port):
                return Place(Where(self.policy.where.source, node.key, node.line), text)
        return Place(cause.where)

    def _rule_node(self, root: Fields, where: Where) -> Node | None:
        if "spec" not in root.fields:
            return root.fields.get("noProxy")
        rules = at(root, "spec", "rules")
        items = rules.items if isinstance(rules, Items) else ()
        return next((item for item in items if (item.key, item.line) == (where.key, where.line)), None)

    def _at(self, node: Node) -> Place:
        return Place(Where(self.policy.where.source, node.key, node.line))


def _entries(rule: Node) -> Iterable[tuple[str, Node]]:
    """Yield the entries of `noProxy` or of a rule."""
    to = child(rule, "to")
    if to is None:
        yield from _texts(rule)
        return
    for part in _LISTS:
        listed = child(to, part)
        for node in listed.items if isinstance(listed, Items) else ():
            text = child(node, "host") if part == "tcp" else node
            if isinstance(text, Scalar):
                yield text.text.strip(), text


def _texts(node: Node) -> Iterable[tuple[str, Node]]:
    for item in node.items if isinstance(node, Items) else (node,):
        if isinstance(item, Scalar):
            yield from ((text, item) for text in split_entries(item.text))


def _is_cause(entry: Entry, destination: Destination, name: str, port: int) -> bool:
    if entry.port not in (None, port):
        return False
    if not isinstance(destination.host, DomainPattern) or not isinstance(entry.host, DomainPattern):
        return entry.host == destination.host
    # Neighbouring entries for a name and for what is below it are one destination.
    return entry.host.name == destination.host.name and (not name or covers(entry.host, name))
