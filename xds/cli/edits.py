"""
Documents as they would be after an edit: new ones take the place of old ones, others are removed.

A ConfigMap is taken as `kubectl apply` takes its manifest: it replaces the one of its name as a whole. A bare document
replaces the one of the same file name, or else the one that holds the policies that it holds. Nothing here judges a
document.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from xds.policy.config_maps import build_document, object_of
from xds.policy.parse import parse_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.judge import SourceRead
    from xds.policy.parse import Document


class EditKind(Enum):
    """What becomes of a document."""

    ADDED = "added"
    REPLACED = "replaced"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Edit:
    """One document that is new, another or gone."""

    kind: EditKind
    source: str
    """Of the new document; of the old one if there is no new one."""
    replaced: Document | None = None


def apply_edits(
    read: SourceRead, new: Iterable[Document], removals: Iterable[str], *, home: str, now: str
) -> tuple[SourceRead, tuple[Edit, ...]]:
    """
    Return what `read` would be, and what was done to it.

    `home` is the control plane's own namespace (empty: there is no cluster), `now` the time in RFC 3339. Raises
    click.UsageError for a removal that removes nothing.
    """
    documents = {document.source: document for document in read.documents}
    edits: list[Edit] = []
    for name in removals:
        edits += _remove(name, documents, home)
    config_maps: dict[tuple[str, str], list[Document]] = {}
    for document in new:
        place = object_of(document.source)
        if place is None:
            edits.append(_put_document(document, documents, home, now))
        else:
            config_maps.setdefault(place, []).append(document)
    for place, held in config_maps.items():
        edits += _put_config_map(place, held, documents, now)
    edits = [edit for edit in edits if not _is_idle(edit, documents)]
    gone = {edit.source for edit in edits} | {edit.replaced.source for edit in edits if edit.replaced is not None}
    unreadable = tuple(finding for finding in read.unreadable if finding.where.source not in gone)
    return replace(read, documents=tuple(documents.values()), unreadable=unreadable), tuple(edits)


def _is_idle(edit: Edit, documents: Mapping[str, Document]) -> bool:
    """Whether a document took the place of one with the same text."""
    old, new = edit.replaced, documents.get(edit.source)
    return old is not None and new is not None and old.text == new.text


def _remove(name: str, documents: dict[str, Document], home: str) -> list[Edit]:
    found = [source for source in documents if name in _names_of(source, home)]
    if not found:
        offer = ", ".join(sorted(documents)[:5])
        raise click.UsageError(f"--remove {name}: there is no such document; there are: {offer or 'none'}")
    return [Edit(EditKind.REMOVED, source, documents.pop(source)) for source in found]


def _names_of(source: str, home: str) -> set[str]:
    """Return what people may call a document."""
    path = PurePath(source)
    config_map = object_of(source)
    if config_map is None:
        return {source, path.name}
    namespace, name = config_map
    called = {source, f"{namespace}/{name}", f"{namespace}/{name}/{path.name}"}
    return called | {name} if namespace == home else called


def _put_document(new: Document, documents: dict[str, Document], home: str, now: str) -> Edit:
    old = _find_old(new, documents)
    if old is not None:
        del documents[old.source]
        if home:
            new = replace(old, text=new.text)
        documents[new.source] = new
        return Edit(EditKind.REPLACED, new.source, old)
    if home:
        path = PurePath(new.source)
        new = build_document(home, path.stem, path.name, new.text, home=home, created=now)
    documents[new.source] = new
    return Edit(EditKind.ADDED, new.source)


def _find_old(new: Document, documents: Mapping[str, Document]) -> Document | None:
    name = PurePath(new.source).name
    found = [document for source, document in documents.items() if PurePath(source).name == name]
    if len(found) != 1:
        held = _policies_of(new)
        found = [document for document in documents.values() if held and _policies_of(document) == held]
    return found[0] if len(found) == 1 else None


def _policies_of(document: Document) -> frozenset[str]:
    parsed = parse_document(document)
    return frozenset([policy.name for policy in parsed.policies] + [policy.name for policy in parsed.held])


def _put_config_map(
    place: tuple[str, str], new: Iterable[Document], documents: dict[str, Document], now: str
) -> Iterable[Edit]:
    old = {source: documents.pop(source) for source in list(documents) if object_of(source) == place}
    created = next((document.created for document in old.values()), now)
    for document in new:
        documents[document.source] = replace(document, created=created)
        known = old.pop(document.source, None)
        yield Edit(EditKind.ADDED if known is None else EditKind.REPLACED, document.source, known)
    for source, document in old.items():
        yield Edit(EditKind.REMOVED, source, document)


def rename(read: SourceRead, edits: Iterable[Edit]) -> SourceRead:
    """Return `read` with the new name of each replaced document: for a judge, who knows what was good by its source."""
    names = {edit.replaced.source: edit.source for edit in edits if edit.replaced is not None}
    return replace(
        read,
        documents=tuple(replace(item, source=names.get(item.source, item.source)) for item in read.documents),
    )
