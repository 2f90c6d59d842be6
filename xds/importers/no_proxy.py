"""
Entries of a NO_PROXY list: those that a policy can hold, and how the others, or other clients, read them.

One reading is chosen for the policy (N2). Invariant: an entry that is left out is told; none is widened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from xds.importers.imported import NOTHING
from xds.importers.readings import compare_names, compare_networks, compare_ports
from xds.policy.findings import quote
from xds.policy.hosts import Problem
from xds.policy.model import Dialect, DomainPattern
from xds.policy.patterns import READINGS, Form, parse_entry, split_entries

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
    entry: Entry
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

    def add(self, kind: str, text: str, entry: Entry, item: Item) -> None:
        if kind in self.found:
            self.found[kind].count += 1
        else:
            self.found[kind] = _Group(text, entry, item.key, item.line)


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a list, which may hold several entries, and its place."""

    text: str
    key: str
    line: int | None = None


def read_entries(items: Iterable[Item], dialect: Dialect, changes: Changes) -> tuple[str, ...]:
    """Return the entries that a policy in `dialect` can hold, as they were written and in their order."""
    kept: dict[str, None] = {}
    groups = _Groups()
    for item in items:
        for text in split_entries(item.text):
            entry = parse_entry(text, dialect)
            if isinstance(entry, Problem):
                _tell_problem(text, entry, item, changes)
            elif _keep(text, entry, item, groups, changes):
                kept[text] = None
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
        changes.note(item.key, message, f"{NOTHING}: clients of this dialect matched nothing with it", item.line)
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
        groups.add("built in", text, entry, item)
        return False
    if isinstance(host, DomainPattern):
        if host.apex and "." not in host.name:
            groups.add("single label", text, entry, item)
            if not host.subdomains:
                return False
        groups.add("name", text, entry, item)
        groups.add(f"form {_shape(text, entry)}", text, entry, item)
        if entry.port is not None:
            groups.add(f"port {_shape(text, entry)}", text, entry, item)
    else:
        groups.add(f"network {_shape(text, entry)}", text, entry, item)
    return True


def _shape(text: str, entry: Entry) -> str:
    """Return what entries have in common that clients read alike; an odd one, as `X.example.`, is by itself."""
    host = entry.host
    if isinstance(host, DomainPattern):
        written = entry.form.value.replace("name.example", host.name)
    else:
        written = str(host) if entry.form is Form.CIDR else str(host).partition("/")[0]
    is_usual = text == (written if entry.port is None else f"{written}:{entry.port}")
    version = 6 if isinstance(host, IPv6Network) else 4
    return f"{entry.form.name} {version} {entry.port is None} {'' if is_usual else text}"


def is_built_in(host: DomainPattern | IPv4Network | IPv6Network) -> bool:
    """Whether every policy sends `host` direct without being told, or it never leaves the machine (N12, N13)."""
    if isinstance(host, DomainPattern):
        return any(host.name == name or host.name.endswith(f".{name}") for name in _BUILT_IN_NAMES)
    return any(
        host.version == known.version and int(host[0]) >= int(known[0]) and int(host[-1]) <= int(known[-1])
        for known in _BUILT_IN_NETWORKS
    )


def _tell_groups(groups: _Groups, dialect: Dialect, changes: Changes) -> None:
    for kind, group in groups.found.items():
        text, entry = group.first, group.entry
        match kind:
            case "built in":
                changes.note(group.key, f"{group.subject}: always direct here, so left out", NOTHING, group.line)
                continue
            case "name":
                message = "the policy believes every client that claims such a name, as the variables did"
                hint = "write `noProxyVerify` (`verify` in the long form) with the networks of these hosts"
                changes.note(group.key, f"{group.subject}: {message}", hint, group.line)
                continue
            case "single label":
                message = "a name without a dot does not show on the wire: such hosts are recognised by their address"
                hint = "those of the cluster are known; add the networks of any others"
            case _ if kind.startswith("network"):
                message = f"matches the address that is dialled, also that of a name; {compare_networks(text, entry)}"
                hint = "narrow it if names that resolve into it should go to the proxy"
            case _ if kind.startswith("port"):
                message = compare_ports(text, entry)
                hint = "write the entry without it if all ports are meant"
            case _:
                message = compare_names(text, entry, READINGS[dialect][entry.form])
                hint = "import with the --dialect of the clients that are meant, or write both forms"
        if message:
            changes.changed(group.key, f"{group.subject}: {message}", hint, group.line)
