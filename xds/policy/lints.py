"""
Warnings about entries that are well-formed but may not mean what their author thinks.

Each kind of warning is given once per document, with a count and the first place, so that ten thousand
entries don't bury anything. Nothing here changes what a policy means.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, assert_never

from xds.policy.findings import count_of, quote
from xds.policy.model import Dialect
from xds.policy.patterns import CLIENTS, READINGS, Form, Reading

if TYPE_CHECKING:
    from xds.policy.findings import Findings
    from xds.policy.yaml_lines import Scalar


class Lint(Enum):
    """The kinds of warning about one entry."""

    NAME = Form.NAME
    DOTTED = Form.DOTTED
    STARRED = Form.STARRED
    CIDR = Form.CIDR
    PORT = "port"
    SINGLE_LABEL = "single label"
    LOCALHOST = "localhost"
    REPEAT = "repeat"
    SERVER_FIRST = "server first"


@dataclass(slots=True)
class _Tally:
    first: Scalar
    text: str
    count: int = 1


_NAME_FORMS = (Lint.NAME, Lint.DOTTED, Lint.STARRED)


class Lints:
    """The warnings about one document's entries, counted by kind."""

    def __init__(self) -> None:
        self._tallies: dict[Lint, _Tally] = {}

    def note(self, lint: Lint, node: Scalar, text: str) -> None:
        """Count the entry `text`, which stands in `node`."""
        tally = self._tallies.get(lint)
        if tally is None:
            self._tallies[lint] = _Tally(node, text)
        else:
            tally.count += 1

    def report(self, findings: Findings, dialect: Dialect, *, is_dialect_given: bool) -> None:
        """
        Add one warning per kind to `findings`.

        Where clients read an entry differently, a document that says whose reading it means is not warned (N2).
        """
        for lint, tally in self._tallies.items():
            match lint:
                case Lint.NAME | Lint.DOTTED | Lint.STARRED:
                    if not is_dialect_given:
                        _report_reading(findings, dialect, lint.value, tally)
                case Lint.CIDR | Lint.PORT:
                    if not is_dialect_given:
                        _report_support(findings, lint, tally)
                case Lint.SINGLE_LABEL:
                    _add(findings, "EX221", tally, "without a dot, which nothing on the wire shows", _SINGLE_LABEL_HINT)
                case Lint.LOCALHOST:
                    _add(findings, "EX221", tally, "for the application's own machine", _LOCALHOST_HINT)
                case Lint.REPEAT:
                    _add(findings, "EX222", tally, "that earlier entries of the same rule cover", "remove the repeats")
                case Lint.SERVER_FIRST:
                    _add(findings, "EX223", tally, "by name on ports where the server speaks first", _SERVER_FIRST_HINT)
                case _:
                    assert_never(lint)


_SINGLE_LABEL_HINT = "inside a cluster addresses decide; write the full name, or the CIDR of the services"
_LOCALHOST_HINT = "remove it: loopback addresses never leave the machine, and the name proves nothing"
_SERVER_FIRST_HINT = "no name can be seen there: give the addresses in `to.cidrs` or `to.tcp`"
_DIALECT_HINT = "write `dialect: {}` to say that this reading is meant, or write it so that all agree"


def _add(findings: Findings, code: str, tally: _Tally, what: str, hint: str) -> None:
    entries = count_of(tally.count, "entry", "entries")
    first = quote(tally.text) if tally.count == 1 else f"first {quote(tally.text)}"
    findings.add(code, tally.first, f"{entries} {what} ({first})", hint)


def _report_reading(findings: Findings, dialect: Dialect, form: object, tally: _Tally) -> None:
    assert isinstance(form, Form)
    own = READINGS[dialect][form]
    others: dict[Reading, list[str]] = {}
    for other, readings in READINGS.items():
        if readings[form] != own:
            others.setdefault(readings[form], []).append(CLIENTS[other])
    differing = "; ".join(f"{' and '.join(clients)}: {_words(reading)}" for reading, clients in others.items())
    what = f"of the form {quote(form.value)} mean {_words(own)} here, but not everywhere: {differing}"
    _add(findings, "EX220", tally, what, _DIALECT_HINT.format(dialect.value))


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


def _report_support(findings: Findings, lint: Lint, tally: _Tally) -> None:
    if lint is Lint.CIDR:
        what = "are networks, which hold here for names that resolve into them too, but mean nothing to Python, .NET and Node.js"
    else:
        what = "have a port, which curl does not read"
    hint = (
        "give `dialect` to say that this is known: applications that leave their own proxy settings behind may change"
    )
    _add(findings, "EX220", tally, what, hint)
