"""
The catalogue of diagnostics: every code, how bad it is, and what it means for whoever reads it.

Every code lives in `CATALOGUE` exactly once, in the module of its kind; a code that is no longer produced moves to
`RETIRED` and is never given a second meaning. This room is text: it must not know who finds what, and where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.catalogue.compilation import COMPILATION
from xds.catalogue.destinations import DESTINATIONS
from xds.catalogue.entry import CatalogueEntry, Severity
from xds.catalogue.proxies import PROXIES
from xds.catalogue.selection import SELECTION
from xds.catalogue.sources import SOURCES
from xds.catalogue.structure import STRUCTURE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CATALOGUE", "RETIRED", "CatalogueEntry", "Severity"]


def _index(*entries: CatalogueEntry) -> Mapping[str, CatalogueEntry]:
    by_code = {entry.code: entry for entry in entries}
    assert len(by_code) == len(entries), "a code is listed twice"
    return by_code


# EX1: YAML and structure. EX2: destinations and rules. EX3: proxies. EX4: selection and names. EX5: compilation.
# EX9: sources, and the program itself.
CATALOGUE: Mapping[str, CatalogueEntry] = _index(
    *STRUCTURE, *DESTINATIONS, *PROXIES, *SELECTION, *COMPILATION, *SOURCES
)

RETIRED: frozenset[str] = frozenset()
"""Codes that older versions produced. They are never used again for anything else."""
