"""
The grammar of NO_PROXY entries: one entry of text becomes what it matches.

`parse_entry` reads one entry in one dialect (N2); `split_entries` cuts a list written as one text (N1).
Actions, rules and documents are not known here. Invariant: an entry that does not fit the grammar is a
`Problem`; nothing is guessed, stripped or widened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds.policy.hosts import Problem, is_address_like, parse_name, parse_network, parse_port
from xds.policy.model import Dialect, DomainPattern, Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WILDCARD_HINT = "write `*.name.example`; for addresses a CIDR"
_SEPARATORS = re.compile(r"[,\s]+")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](/[^:/]*)?(?::(.*))?", re.DOTALL)


class Form(Enum):
    """How an entry is written; the value shows it."""

    NAME = "name.example"
    DOTTED = ".name.example"
    STARRED = "*.name.example"
    ADDRESS = "192.0.2.7"
    CIDR = "192.0.2.0/24"
    EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Reading:
    """Which hosts a form stands for: the name itself, what is below it, or neither."""

    apex: bool
    subdomains: bool

    @property
    def words(self) -> str:
        """What is taken, for people."""
        match self.apex, self.subdomains:
            case True, True:
                return "the name and all below it"
            case True, False:
                return "the name alone"
            case False, True:
                return "all below the name"
            case _:
                return "nothing"


def join_names(names: Sequence[str]) -> str:
    """Return e.g. `curl, Go and Python`; there must be one."""
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


_ALL, _APEX, _BELOW, _NEVER = Reading(True, True), Reading(True, False), Reading(False, True), Reading(False, False)  # noqa: FBT003 - two named fields

READINGS: Mapping[Dialect, Mapping[Form, Reading]] = MappingProxyType(
    {
        Dialect.GO: {Form.NAME: _ALL, Form.DOTTED: _BELOW, Form.STARRED: _BELOW},
        Dialect.CURL: {Form.NAME: _ALL, Form.DOTTED: _ALL, Form.STARRED: _NEVER},
        Dialect.PYTHON: {Form.NAME: _ALL, Form.DOTTED: _ALL, Form.STARRED: _NEVER},
        Dialect.DOTNET: {Form.NAME: _APEX, Form.DOTTED: _ALL, Form.STARRED: _NEVER},
        Dialect.NODE: {Form.NAME: _APEX, Form.DOTTED: _ALL, Form.STARRED: _BELOW},
    }
)
"""What each dialect takes the forms of names for (N2): what its clients do, as they are asked in tests."""

CLIENTS: Mapping[Dialect, str] = MappingProxyType(
    {
        Dialect.GO: "Go",
        Dialect.CURL: "curl",
        Dialect.PYTHON: "Python",
        Dialect.DOTNET: ".NET",
        Dialect.NODE: "Node.js",
    }
)
"""The clients that the dialects are named after, as messages call them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one entry matches. `host` None is every host; `port` None every port."""

    form: Form
    host: DomainPattern | Network | None
    port: int | None = None


def split_entries(text: str) -> tuple[str, ...]:
    """Split a list that is written as one text, at commas and white space (N1)."""
    return tuple(part for part in _SEPARATORS.split(text) if part)


def parse_entry(text: str, dialect: Dialect) -> Entry | Problem:
    """Read one entry as `dialect` does."""
    text = text.strip()
    problem = _foreign(text)
    if problem is not None:
        return problem
    split = _split_port(text)
    if isinstance(split, Problem):
        return split
    host, port_text = split
    port = None if port_text is None else parse_port(port_text)
    if isinstance(port, Problem):
        return port
    if host == "*":
        return Entry(Form.EVERYTHING, None, port)
    if is_address_like(host):
        return _address_entry(host, port)
    return _name_entry(host, port, dialect)


def _foreign(text: str) -> Problem | None:
    """Return the problem of text that belongs to another grammar."""
    if not text:
        return Problem("EX201", "the entry is empty", "remove it")
    if ";" in text or "|" in text:
        return Problem(
            "EX202", "`;` and `|` do not separate entries", "this looks like a Windows or Java list: use commas"
        )
    if len(_SEPARATORS.split(text)) > 1:
        return Problem("EX202", "this is more than one entry", "write one entry per list item")
    if "://" in text:
        return Problem("EX201", "this is a URL", "write the host only, with `:port` if wanted")
    if "@" in text:
        return Problem("EX201", "an entry has no user", "write the host only, with `:port` if wanted")
    return None


def _split_port(text: str) -> tuple[str, str | None] | Problem:
    """Split `host:p`, `ip:p`, `cidr:p`, `[v6]:p` and `[v6]/len:p`. A bare IPv6 address has no port (N8)."""
    if text.startswith("["):
        match = _BRACKETED.fullmatch(text)
        if match is None or ":" not in match[1]:
            return Problem("EX205", "the brackets hold no IPv6 address", "write e.g. `[2001:db8::1]:443`")
        return match[1] + (match[2] or ""), match[3]
    network, slash, rest = text.partition("/")
    if slash:
        prefix, colon, port = rest.partition(":")
        return f"{network}/{prefix}", port if colon else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None


def _address_entry(host: str, port: int | None) -> Entry | Problem:
    network = parse_network(host)
    if isinstance(network, Problem):
        return network
    return Entry(Form.CIDR if "/" in host else Form.ADDRESS, network, port)


def _name_entry(host: str, port: int | None, dialect: Dialect) -> Entry | Problem:
    form, rest = Form.NAME, host
    if host.startswith("*."):
        form, rest = Form.STARRED, host[2:]
    elif host.startswith("."):
        form, rest = Form.DOTTED, host[1:]
    if "*" in rest:
        return Problem("EX204", "a wildcard stands for whole labels at the front only", _WILDCARD_HINT)
    name = parse_name(rest)
    if isinstance(name, Problem):
        return name
    reading = READINGS[dialect][form]
    if reading == _NEVER:
        client = CLIENTS[dialect]
        return Problem("EX208", f"{client} never matches `*.`, and the dialect is {dialect.value}", f"write `.{name}`")
    return Entry(form, DomainPattern(name, reading.apex, reading.subdomains), port)
