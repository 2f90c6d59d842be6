"""
Kubernetes manifests as text: which of them are policies, and where in the text the documents in these stand.

What `kubectl apply -f` takes is read, and `kubectl get -o yaml` writes: several objects, lists of objects, YAML or
JSON. Nothing here judges a policy or opens a file. Invariant: text that is not recognised as a manifest is left as it
is, line by line, so that its mistakes are found by whoever reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from xds.policy.config_maps import LABEL, is_document
from xds.policy.documents import KIND
from xds.policy.findings import Findings
from xds.policy.yaml_lines import Fields, Items, Scalar, child, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.diagnostics import Diagnostic
    from xds.policy.yaml_lines import Node

_CONFIG_MAP = "ConfigMap"
_LIST, _CONFIG_MAPS = "List", "ConfigMapList"
_HINT = re.compile(r"""kind["']?\s*:\s*["']?(?:ConfigMap|List)""")
"""Without it a text holds no ConfigMap, so that it need not be read an extra time."""
_BORDER = re.compile(r"^---(?=\s|$)", re.MULTILINE)
"""Begins a document of YAML: inside of one no line begins so (YAML 1.2, `c-forbidden`)."""
_KIND = re.compile(r"""^kind:[ \t]*["']?(\w+)""", re.MULTILINE)
_VERSION = re.compile(r"^apiVersion:[ \t]*\S", re.MULTILINE)
_UNREAD = frozenset({"EX101", "EX102", "EX103"})
_OURS = re.compile(r"^(?:apiVersion:\s*egress-xds/|https?Proxy:)", re.MULTILINE)
"""How policies look that stand in ConfigMaps."""
_LITERAL = re.compile(r":\s+(?:[&!]\S*\s+)*\|[-+0-9]*(?:\s+#.*)?\s*$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One document in a ConfigMap; its first line is `first_line` of the manifest, or None if lines do not match."""

    key: str
    text: str
    first_line: int | None


@dataclass(frozen=True, slots=True)
class ConfigMapText:
    """A ConfigMap, as its manifest has it; `namespace` is empty if that does not say."""

    namespace: str
    name: str
    line: int
    entries: tuple[Entry, ...]
    is_policy: bool = True
    """Whether it has the label that makes it one; without, it is of interest only for what it holds."""

    @property
    def full_name(self) -> str:
        """Its name, after its namespace if it says one."""
        return "/".join(filter(None, (self.namespace, self.name)))


@dataclass(frozen=True, slots=True)
class Manifests:
    """What was found in one text."""

    config_maps: tuple[ConfigMapText, ...]
    """Those that are policies, or look as if they should be."""
    rest: str
    """The text without objects of Kubernetes, its lines where they were; empty if nothing is left."""
    findings: tuple[Diagnostic, ...] = ()
    """What is wrong with manifests of ConfigMaps as YAML, so that something of them was not read."""
    left_out: tuple[str, ...] = ()
    """The names of ConfigMaps that hold documents and neither have the label nor look as if they should."""


def has_config_map(text: str) -> bool:
    """Whether `text` may hold a ConfigMap, at a glance."""
    return _HINT.search(text) is not None


def has_other_objects(text: str) -> bool:
    """Whether `text` holds objects that are no policies, at a glance."""
    return any(match[1] != KIND for match in _KIND.finditer(text))


def find_manifests(text: str, source: str = "") -> Manifests:
    """Take the objects of Kubernetes out of `text`; what is none stays. `source` is what findings call it."""
    config_maps: list[ConfigMapText] = []
    left_out: list[str] = []
    found: list[Diagnostic] = []
    rest: list[str] = []
    before = 0
    for part in _split(text):
        findings = Findings(source)
        objects = _objects(part, findings)
        lines = part.split("\n")
        all_of_them = [] if objects is None else [_read(item, lines, before) for item in objects]
        read = [item for item in all_of_them if _is_of_interest(item)]
        config_maps += read
        left_out += [item.full_name for item in all_of_them if item.entries and not _is_of_interest(item)]
        if objects is None:
            rest.append(part)
        else:
            rest.append("\n" * part.count("\n"))
        if read or (objects == [] and _is_ours(part)):
            found += (_move(item, before) for item in findings.since(0) if item.code in _UNREAD)
        before += part.count("\n")
    left = "".join(rest)
    return Manifests(tuple(config_maps), left if _has_value(left) else "", tuple(found), tuple(left_out))


def _is_ours(part: str) -> bool:
    """Whether a manifest that could not be read may be of interest."""
    kind = _KIND.search(part)
    return kind is not None and kind[1] in {_CONFIG_MAP, _CONFIG_MAPS, _LIST}


def _move(finding: Diagnostic, lines: int) -> Diagnostic:
    where = finding.where
    return replace(finding, where=replace(where, line=None if where.line is None else where.line + lines))


def _split(text: str) -> Iterable[str]:
    starts = [0, *(match.start() for match in _BORDER.finditer(text) if match.start()), len(text)]
    return (text[start:end] for start, end in pairwise(starts))


def _has_value(text: str) -> bool:
    lines = (line.removeprefix("---").strip() for line in text.split("\n"))
    return any(line and not line.startswith("#") for line in lines)


def _objects(part: str, findings: Findings) -> list[Fields] | None:
    """Return the objects in one document of YAML; None: it is none of Kubernetes."""
    documents = list(read_yaml(part, findings))
    if len(documents) != 1 or not isinstance(documents[0], Fields):
        # What can't be read, as definitions that are nested deeply, is known by how it begins.
        kind = _KIND.search(part)
        is_foreign = kind is not None and kind[1] != KIND and _VERSION.search(part) is not None
        return [] if is_foreign else None
    document = documents[0]
    kind_text = _text(document, "kind")
    if not kind_text or kind_text == KIND or not _text(document, "apiVersion"):
        return None
    if kind_text not in {_LIST, _CONFIG_MAPS}:
        return [document] if kind_text == _CONFIG_MAP else []
    items = child(document, "items")
    found = [item for item in items.items if isinstance(item, Fields)] if isinstance(items, Items) else []
    return [item for item in found if kind_text == _CONFIG_MAPS or _text(item, "kind") == _CONFIG_MAP]


def _read(config_map: Fields, lines: list[str], before: int) -> ConfigMapText:
    """Read a ConfigMap that stands in `lines`, which come after `before` others."""
    data = child(config_map, "data")
    entries = []
    for key, node in data.fields.items() if isinstance(data, Fields) else ():
        if is_document(key) and isinstance(node, Scalar):
            first = before + node.line + 1 if _is_literal(node, lines) else None
            entries.append(Entry(key, node.text, first))
    return ConfigMapText(
        namespace=_text(config_map, "metadata", "namespace"),
        name=_text(config_map, "metadata", "name"),
        line=before + config_map.line,
        entries=tuple(entries),
        is_policy=_text(config_map, "metadata", "labels", LABEL) == "true",
    )


def _is_of_interest(config_map: ConfigMapText) -> bool:
    """Whether it is a policy, or looks as if it should be one."""
    return config_map.is_policy or any(_OURS.search(entry.text) for entry in config_map.entries)


def _is_literal(node: Scalar, lines: list[str]) -> bool:
    """Whether the text of `node` stands line by line below its key."""
    if _LITERAL.search(lines[node.line - 1]) is None:
        return False
    texts = node.text.rstrip("\n").split("\n")
    written = lines[node.line : node.line + len(texts)]
    return len(written) == len(texts) and all(
        line.rstrip("\r").endswith(text) for text, line in zip(texts, written, strict=True)
    )


def _text(node: Node, *path: str) -> str:
    """Return the text at `path`; empty if there is none."""
    found: Node | None = node
    for part in path:
        found = None if found is None else child(found, part)
    return found.text if isinstance(found, Scalar) else ""
