"""
Policy documents that a command is given: in files and directories, on stdin, or in manifests of ConfigMaps.

What stands in a ConfigMap is handed on as it would be in a cluster: whom it concerns comes from its namespace, and it
names Secrets. Nothing here judges. Invariant: each document has a source of its own.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds.cli.places import check_policies
from xds.diagnostics import Diagnostic, Where
from xds.errors import SourceError
from xds.judge import UNREADABLE, SourceRead
from xds.policy.config_maps import LABEL, object_of, source_of
from xds.policy.manifests import find_manifests, has_config_map, has_other_objects
from xds.policy.parse import Document
from xds.sources.directory import MAX_BYTES, read_documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.policy.manifests import ConfigMapText, Manifests

STDIN = Path("-")
"""Stands for what is piped in."""

HOME = "egress-system"
"""The namespace whose ConfigMaps concern the whole cluster, where nobody says another."""

_STDIN_SOURCE = "<stdin>"
_LABELLED = f'the label {LABEL}: "true"'


@dataclass(frozen=True, slots=True)
class Standing:
    """In which namespaces documents stand that are not in a cluster yet."""

    home: str = HOME
    """ConfigMaps there concern the whole cluster."""
    namespace: str | None = None
    """Where ConfigMaps stand that don't say, and plain documents; None: the former in `home`, the latter nowhere."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document of a ConfigMap was read: a file, and its first line there (None: lines do not match)."""

    file: str
    first_line: int | None
    line: int
    """Where its ConfigMap begins."""


@dataclass(frozen=True, slots=True)
class Located:
    """A finding as it is shown: at its place in a file, if that is known to the line, else in its document."""

    finding: Diagnostic
    document: str
    """The source that the control plane knows the document by."""
    file: str | None
    """The file that it was read from; None: from a cluster, or stdin."""
    line: int | None
    """The line in that file, or where the ConfigMap begins there."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was read, and where the documents of ConfigMaps were; any other document's source is its file."""

    read: SourceRead
    origins: Mapping[str, Origin] = field(default_factory=lambda: MappingProxyType({}))
    findings: tuple[Diagnostic, ...] = ()
    """About manifests themselves."""
    left_out: tuple[str, ...] = ()
    """The names of ConfigMaps that stand beside policies, hold documents, too, and don't have the label."""

    def locate(self, finding: Diagnostic) -> Located:
        """Return `finding` with its place in the file that was read."""
        where, source = finding.where, finding.where.source
        origin = self.origins.get(source)
        if origin is None:
            is_file = object_of(source) is None and source != _STDIN_SOURCE
            return Located(finding, source, source if is_file else None, where.line if is_file else None)
        file = None if origin.file == _STDIN_SOURCE else origin.file
        if where.line is not None and origin.first_line is None:
            return Located(finding, source, file, origin.line)
        line = origin.line if where.line is None or origin.first_line is None else origin.first_line + where.line - 1
        return Located(replace(finding, where=Where(origin.file, where.key, line)), source, file, line)


def read_piped(paths: Iterable[Path]) -> SourceRead | None:
    """
    Return what is piped in if one of `paths` is stdin.

    Within a running event loop, an interrupt would wait until whoever pipes is done: what is read there is read before.
    """
    return _read_stdin() if STDIN in paths else None


def read_policies(
    paths: Iterable[Path], standing: Standing | None = None, *, piped: SourceRead | None = None
) -> Gathered:
    """
    Read every path once, however it is spelled; `piped` is what `read_piped` returned, if it was called.

    Raises SourceError if one is missing, or if there is not a single document.
    """
    places = list({_identity(path): path for path in paths}.values())
    for place in places:
        check_policies(place)
    reads = [piped or _read_stdin() if path == STDIN else read_documents(path) for path in places]
    documents = {_identity(document.source): document for read in reads for document in read.documents}
    unreadable = {finding.where.source: finding for read in reads for finding in read.unreadable}
    if not documents and not unreadable:
        where = ", ".join(map(str, places))
        raise SourceError(f"{where} holds no policy document; documents are files named *.yaml or *.yml")
    gathered = _gather(SourceRead(tuple(documents.values()), tuple(unreadable.values())), standing or Standing())
    if not gathered.read.documents and not gathered.read.unreadable:
        where = ", ".join(map(str, places))
        raise SourceError(f"{where} holds no policy, only other objects; a policy's ConfigMap has {_LABELLED}")
    return gathered


def _identity(path: Path | str) -> str:
    """Return where a path really leads; `Path.resolve` would raise for a link that leads to itself (Python < 3.13)."""
    return str(path) if str(path) in {str(STDIN), _STDIN_SOURCE} else os.path.realpath(path)


def _read_stdin() -> SourceRead:
    content = sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        if len(content) <= MAX_BYTES:
            return SourceRead((Document(_STDIN_SOURCE, content.decode("utf-8-sig")),))
        message, hint = f"it is larger than {MAX_BYTES >> 20} MiB", "split it into several"
    except UnicodeDecodeError:
        message, hint = "it is not UTF-8 text", "save it as UTF-8"
    return SourceRead((), (Diagnostic(UNREADABLE, Where(_STDIN_SOURCE), message, hint),))


def _gather(read: SourceRead, standing: Standing) -> Gathered:
    """Take ConfigMaps apart. Where there is one, other objects of Kubernetes are what they are deployed with."""
    found = _find_manifests(read)
    findings = [finding for manifests in found.values() for finding in manifests.findings]
    # A manifest that can't be read may have held a policy for anybody, so that whoever judges has to know.
    broken = {finding.where.source: finding for finding in reversed(findings) if finding.is_error}
    plain = [
        replace(document, text=found[document.source].rest) if document.source in found else document
        for document in read.documents
        if document.source not in broken and (document.source not in found or found[document.source].rest)
    ]
    if standing.namespace is not None:
        scope = None if standing.namespace == standing.home else standing.namespace
        plain = [replace(document, namespace=scope, secrets=standing.namespace) for document in plain]
    in_maps, origins, twice = _take_apart(found, standing) if found else ((), {}, [])
    told = [finding for finding in findings if finding not in broken.values()]
    told += _find_unlabelled(found)
    unreadable = (*read.unreadable, *broken.values(), *twice)
    left_out = tuple(name for manifests in found.values() for name in manifests.left_out) if in_maps else ()
    return Gathered(SourceRead((*plain, *in_maps), unreadable), MappingProxyType(origins), tuple(told), left_out)


def _find_manifests(read: SourceRead) -> dict[str, Manifests]:
    """Return what is found in each text that has manifests; nothing if none of all is of a policy."""
    looked_at = [document for document in read.documents if has_config_map(document.text)]
    found = {document.source: find_manifests(document.text, document.source) for document in looked_at}
    if not any(manifests.config_maps or manifests.findings for manifests in found.values()):
        return {}
    others = [document for document in read.documents if has_other_objects(document.text)]
    return {item.source: find_manifests(item.text, item.source) for item in others if item.source not in found} | found


def _find_unlabelled(found: Mapping[str, Manifests]) -> Iterable[Diagnostic]:
    for file, manifests in found.items():
        yield from (_warn_unlabelled(file, item) for item in manifests.config_maps if not item.is_policy)


def _warn_unlabelled(file: str, config_map: ConfigMapText) -> Diagnostic:
    message = (
        f"the ConfigMap {config_map.full_name} holds what looks like a policy, without the label that makes it one"
    )
    return Diagnostic("EX904", Where(file, "metadata.labels", config_map.line), message, f"give it {_LABELLED}")


def _take_apart(
    found: Mapping[str, Manifests], standing: Standing
) -> tuple[tuple[Document, ...], dict[str, Origin], list[Diagnostic]]:
    """Return the documents in ConfigMaps, where each was read, and what is wrong with ConfigMaps given twice."""
    from xds.kubernetes.documents import build_documents  # noqa: PLC0415  # few commands are given ConfigMaps
    from xds.kubernetes.objects import ConfigMapObject  # noqa: PLC0415  # as above

    objects: dict[tuple[str, str], ConfigMapObject] = {}
    first: dict[tuple[str, str], tuple[str, ConfigMapText]] = {}
    origins: dict[str, Origin] = {}
    twice: list[Diagnostic] = []
    for file, manifests in found.items():
        for config_map in filter(lambda item: item.is_policy, manifests.config_maps):
            key = (config_map.namespace or standing.namespace or standing.home, config_map.name)
            if key in first:
                twice += _refuse_second(key, first[key], (file, config_map))
                continue
            first[key] = file, config_map
            entries = tuple(sorted((entry.key, entry.text) for entry in config_map.entries))
            objects[key] = ConfigMapObject(uid="", created="", documents=entries)
            for entry in config_map.entries:
                origins[source_of(*key, entry.key)] = Origin(file, entry.first_line, config_map.line)
    return build_documents(objects, standing.home), origins, twice


def _refuse_second(
    key: tuple[str, str], first: tuple[str, ConfigMapText], second: tuple[str, ConfigMapText]
) -> Iterable[Diagnostic]:
    places = " and ".join(f"{file}:{config_map.line}" for file, config_map in (first, second))
    for entry in second[1].entries:
        message = f"the ConfigMap {'/'.join(key)} is given twice: in {places}"
        yield Diagnostic("EX903", Where(source_of(*key, entry.key)), message, "keep one of the two")
