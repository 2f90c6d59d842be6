"""
Entries of a NO_PROXY list: those that a policy can hold, and how the others, or other clients, read them.

One reading is chosen for the policy (N2). Invariant: an entry that is left out is told; none is widened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from xds.importers.imported import NOTHING
from xds.policy.findings import quote
from xds.policy.hosts import Problem
from xds.policy.model import Dialect, DomainPattern
from xds.policy.patterns import CLIENTS, READINGS, Form, Reading, parse_entry, split_entries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.importers.imported import Changes
    from xds.policy.patterns import Entry

_ON_PURPOSE = "if that is meant, write `httpProxy: direct` and `httpsProxy: direct`, and no list"
_BUILT_IN_NETWORKS = (
    IPv4Network("127.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),
    IPv6Network("::1/128"),
    IPv6Network("fe80::/10"),
    IPv6Network("fd00:ec2::254/128"),
)
_BUILT_IN_NAMES = ("localhost", "svc", "cluster.local")
"""Names that, with all below them, are direct in every policy or never leave the machine (N12, N13)."""
_NETWORK_FORMS = (Form.ADDRESS, Form.CIDR)


@dataclass(slots=True)
class _Group:
    first: str
    key: str
    line: int | None
    count: int = 1

    @property
    def subject(self) -> str:
        return quote(self.first) + (f" and {self.count - 1} more" if self.count > 1 else "")


@dataclass(slots=True)
class _Groups:
    """What is said once for many entries."""

    found: dict[str, _Group] = field(default_factory=dict)

    def add(self, kind: str, text: str, key: str, line: int | None) -> None:
        if kind in self.found:
            self.found[kind].count += 1
        else:
            self.found[kind] = _Group(text, key, line)


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a list, which may hold several entries, and its place."""

    text: str
    key: str
    line: int | None = None


def read_entries(items: Iterable[Item], dialect: Dialect, changes: Changes) -> tuple[str, ...]:
    """Return the entries that a policy in `dialect` can hold, as they were written and in their order."""
    kept: list[str] = []
    groups = _Groups()
    for item in items:
        for text in split_entries(item.text):
            entry = parse_entry(text, dialect)
            if isinstance(entry, Problem):
                _tell_problem(text, entry, item, changes)
            elif _keep(text, entry, item, groups, changes) and text not in kept:
                kept.append(text)
    _tell_groups(groups, dialect, changes)
    return tuple(kept)


def split_kinds(entries: Iterable[str], dialect: Dialect) -> tuple[list[str], list[str]]:
    """Return the names and the networks among entries that `read_entries` kept."""
    names: list[str] = []
    networks: list[str] = []
    for text in entries:
        entry = parse_entry(text, dialect)
        is_network = not isinstance(entry, Problem) and entry.form in _NETWORK_FORMS
        (networks if is_network else names).append(text)
    return names, networks


def _tell_problem(text: str, problem: Problem, item: Item, changes: Changes) -> None:
    message = f"{quote(text)} is left out: {problem.message}"
    if problem.code == "EX208":
        changes.note(item.key, message, f"{NOTHING}: it matched nothing before", item.line)
        return
    if text == "<local>":
        message = f"{quote(text)} is left out: names without a dot are recognised by their address"
        problem = Problem("EX221", "", "add the networks of these hosts")
    changes.lost(item.key, f"{message}; what it matched goes to the proxy", problem.hint, item.line)


def _keep(text: str, entry: Entry, item: Item, groups: _Groups, changes: Changes) -> bool:
    host = entry.host
    if host is None or (not isinstance(host, DomainPattern) and host.prefixlen == 0):
        what = f"{quote(text)} sends everything past the proxy, which a list here can't say"
        changes.lost(item.key, f"{what}: it is left out, and all goes to the proxy", _ON_PURPOSE, item.line)
        return False
    if is_built_in(host):
        groups.add("built in", text, item.key, item.line)
        return False
    if isinstance(host, DomainPattern):
        if host.apex and "." not in host.name:
            groups.add("single label", text, item.key, item.line)
            if not host.subdomains:
                return False
        groups.add("name", text, item.key, item.line)
        if len(set(_readings(entry.form).values())) > 1:
            groups.add(entry.form.name, text, item.key, item.line)
    else:
        groups.add("network", text, item.key, item.line)
    if entry.port is not None:
        groups.add("port", text, item.key, item.line)
    return True


def is_built_in(host: DomainPattern | IPv4Network | IPv6Network) -> bool:
    """Whether every policy sends `host` direct without being told, or it never leaves the machine (N12, N13)."""
    if isinstance(host, DomainPattern):
        return any(host.name == name or host.name.endswith(f".{name}") for name in _BUILT_IN_NAMES)
    return any(
        host.version == known.version and int(host[0]) >= int(known[0]) and int(host[-1]) <= int(known[-1])
        for known in _BUILT_IN_NETWORKS
    )


def _readings(form: Form) -> dict[Dialect, Reading]:
    return {dialect: readings[form] for dialect, readings in READINGS.items()}


def _tell_groups(groups: _Groups, dialect: Dialect, changes: Changes) -> None:
    for kind, group in groups.found.items():
        where = (group.key, group.line)
        match kind:
            case "built in":
                message, hint = "always direct here, so left out of the list", NOTHING
                changes.note(where[0], f"{group.subject}: {message}", hint, where[1])
            case "single label":
                message = "a name without a dot does not show on the wire: such hosts are recognised by their address"
                hint = "those of the cluster are known; add the networks of any others"
                changes.changed(where[0], f"{group.subject}: {message}", hint, where[1])
            case "name":
                message = "the policy believes every client that claims such a name, as the variables did"
                hint = "write `noProxyVerify` (`verify` in the long form) with the networks of these hosts"
                changes.note(where[0], f"{group.subject}: {message}", hint, where[1])
            case "network":
                message = (
                    "matches the address that is dialled, also that of a name; Go and curl match addresses in URLs"
                )
                hint = "narrow it if names that resolve into it should go to the proxy"
                changes.changed(where[0], f"{group.subject}: {message}, others ignore it", hint, where[1])
            case "port":
                message = "read with the port; curl takes no entry with a port"
                hint = "write the entry without it if all ports are meant"
                changes.changed(where[0], f"{group.subject}: {message}", hint, where[1])
            case _:
                changes.changed(
                    where[0],
                    f"{group.subject}: {_compare(Form[kind], dialect)}",
                    "import with the --dialect of the clients that are meant, or write both forms",
                    where[1],
                )


def _compare(form: Form, dialect: Dialect) -> str:
    """Say how `dialect` reads `form`, and which clients read it in another way."""
    readings = _readings(form)
    own = readings.pop(dialect)
    others: dict[Reading, list[str]] = {}
    for other, reading in readings.items():
        if reading != own:
            others.setdefault(reading, []).append(CLIENTS[other])
    differing = ", ".join(f"by {_join(clients)} as {_words(reading)}" for reading, clients in others.items())
    return f"read as {_words(own)}, as {CLIENTS[dialect]} does, but {differing}"


def _join(names: list[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def _words(reading: Reading) -> str:
    match reading.apex, reading.subdomains:
        case True, True:
            return "the name and all below it"
        case True, False:
            return "the name alone"
        case False, True:
            return "all below the name"
        case _:
            return "nothing"
