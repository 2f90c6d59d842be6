"""What an entry of the catalogue is made of. Nothing here knows a code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad a finding is: an `ERROR` keeps the document out, a `WARNING` does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """What a code means, whatever document it is found in."""

    code: str
    severity: Severity
    title: str
    explanation: str


def error(code: str, title: str, explanation: str) -> CatalogueEntry:
    """Return an entry about what keeps a document out."""
    return CatalogueEntry(code, Severity.ERROR, title, explanation)


def warning(code: str, title: str, explanation: str) -> CatalogueEntry:
    """Return an entry about what does not."""
    return CatalogueEntry(code, Severity.WARNING, title, explanation)
