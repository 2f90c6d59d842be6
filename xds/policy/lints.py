"""
Warnings about entries that are well-formed but may not mean what their author thinks.

Each kind of warning is given once per document, with a count and the first place, so that ten thousand
entries don't bury anything. Nothing here changes what a policy means.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, assert_never

from xds.policy.findings import quote
from xds.policy.patterns import CLIENTS, READINGS, Form, Reading, join_names

if TYPE_CHECKING:
    from xds.policy.findings import Findings
    from xds.policy.model import Dialect
    from xds.policy.yaml_lines import Scalar


class Lint(Enum):
    """The kinds of warning beside those about an entry's form."""

    PORT = "port"
    NETWORK_PORT = "port of a network"
    SINGLE_LABEL = "single label"
    LOCALHOST = "localhost"
    REPEAT = "repeat"
    SERVER_FIRST = "server first"


@dataclass(slots=True)
class _Tally:
    first: Scalar
    text: str
    more: int = 0


@dataclass(frozen=True, slots=True)
class Remedies:
    """What to write instead, where that differs between the forms: a remedy names only keys that its form has."""

    everything: str
    """For a bypass of everything (N3)."""
    server_first: str
    """For a name on a port where the server speaks first."""


LONG_REMEDIES = Remedies(
    everything="say it on purpose with `default: {action: direct}`; "
    "for some ports of any host write `to: {ports: […]}`",
    server_first="give the addresses in `to.cidrs` or `to.tcp`, or take the port out of `serverFirstPorts`",
)
SHORT_REMEDIES = Remedies(
    everything="say it on purpose with `httpProxy: direct` and `httpsProxy: direct`; "
    "some ports of any host need the long form",
    server_first="give the addresses; the long form can also say which ports these are",
)

_SINGLE_LABEL_HINT = "inside a cluster addresses decide; write the full name, or the CIDR of the services"
_LOCALHOST_HINT = "remove it: loopback addresses never leave the machine"


class Lints:
    """The warnings about one document's entries, counted by kind."""

    def __init__(self, remedies: Remedies) -> None:
        self.remedies = remedies
        self._tallies: dict[Form | Lint, _Tally] = {}

    def note(self, kind: Form | Lint, node: Scalar, text: str) -> None:
        """Count the entry `text`, which stands in `node`. A form is worth a warning where clients disagree about it."""
        tally = self._tallies.get(kind)
        if tally is None:
            self._tallies[kind] = _Tally(node, text)
        else:
            tally.more += 1

    def report(self, findings: Findings, dialect: Dialect, *, is_dialect_given: bool) -> None:
        """
        Add one warning per kind to `findings`.

        Where clients read an entry differently, a document that says whose reading it means is not warned (N2).
        """
        for kind, tally in self._tallies.items():
            match kind:
                case Form():
                    if not is_dialect_given:
                        _add(
                            findings,
                            "EX220",
                            tally,
                            _compare(dialect, kind),
                            f"write `dialect: {dialect.value}` {_SURE}",
                        )
                case Lint.PORT:
                    if not is_dialect_given:
                        what = "read here with the port, but by curl and .NET not at all"
                        _add(findings, "EX220", tally, what, f"write `dialect: {dialect.value}` {_SURE}")
                case Lint.NETWORK_PORT:
                    if not is_dialect_given:
                        what = "read here as a network on that port, but by no client at all"
                        _add(findings, "EX220", tally, what, f"write `dialect: {dialect.value}` {_SURE}")
                case Lint.SINGLE_LABEL:
                    _add(findings, "EX221", tally, "a name without a dot never shows on the wire", _SINGLE_LABEL_HINT)
                case Lint.LOCALHOST:
                    _add(findings, "EX221", tally, "the name of one's own machine proves nothing", _LOCALHOST_HINT)
                case Lint.REPEAT:
                    _add(findings, "EX222", tally, "covered by earlier entries of the same rule", "remove the repeats")
                case Lint.SERVER_FIRST:
                    what = "the server speaks first on such a port, so that no name is seen"
                    _add(findings, "EX223", tally, what, self.remedies.server_first)
                case _:
                    assert_never(kind)


_SURE = "to say that this is meant"


def _add(findings: Findings, code: str, tally: _Tally, what: str, hint: str) -> None:
    subject = quote(tally.text) + (f" and {tally.more} more" if tally.more else "")
    findings.add(code, tally.first, f"{subject}: {what}", hint)


def _compare(dialect: Dialect, form: Form) -> str:
    """Say how `dialect` reads `form`, and which clients read it differently."""
    if form is Form.CIDR:
        return "read here as networks, but by Python's urllib, .NET and Node.js not at all"
    own = READINGS[dialect][form]
    others: dict[Reading, list[str]] = {}
    for other, readings in READINGS.items():
        if other is not dialect and readings[form] != own:
            others.setdefault(readings[form], []).append(CLIENTS[other])
    differing = "; ".join(f"by {join_names(clients)} as {reading.words}" for reading, clients in others.items())
    return f"read here as {own.words}, but {differing}"
