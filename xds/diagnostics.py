"""
What the project says about other people's input: diagnostics as data.

A user's mistake is never an exception here: parsing and compiling return `Diagnostic` values beside
their result. What a code means stands in the catalogue. This room formats one line of text and must not print,
log or colour anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from xds.catalogue import CATALOGUE, Severity


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """
    The place that a diagnostic or a policy value comes from.

    `source` names the object (a file's path, `configmap/<namespace>/<name>/<key>`); `key` is the path inside the
    document (`spec.rules[2].to.cidrs[0]`); `line` counts from 1.
    """

    source: str
    key: str = ""
    line: int | None = None

    def __str__(self) -> str:
        """`source:line key`, leaving out what is unknown."""
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place} {self.key}" if self.key else place


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding: what is wrong, where, and what to do about it."""

    code: str
    where: Where
    message: str
    hint: str

    @property
    def severity(self) -> Severity:
        """The severity that the catalogue gives to this code."""
        return CATALOGUE[self.code].severity

    @property
    def is_error(self) -> bool:
        """Whether this finding keeps its document out of force."""
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        """One line: `place: severity[code]: message; hint`."""
        return f"{self.where}: {self.severity.value}[{self.code}]: {self.message}; {self.hint}"
