"""
Manifests with pods in them: read from files or stdin, changed pod by pod, printed again.

YAML is read as kubectl reads it: times and base-60 numbers stay text; but keys that stand there twice are refused.
Nothing here knows what becomes of a pod. Invariant: a document in which no pod changed is printed as it was written,
comments included.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from xds.cli.documents import STDIN
from xds.cli.output import render_json
from xds.errors import SourceError, quote_value
from xds.sources.directory import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_BORDER = re.compile(r"^---(?=\s|$)", re.MULTILINE)
"""Begins a document of YAML: inside of one no line begins so (YAML 1.2, `c-forbidden`)."""

_BLANK = " \t\r\n"

_TEMPLATES: dict[tuple[str, str], tuple[str, ...]] = {
    ("v1", "Pod"): (),
    ("v1", "PodTemplate"): ("template",),
    ("v1", "ReplicationController"): ("spec", "template"),
    ("apps/v1", "Deployment"): ("spec", "template"),
    ("apps/v1", "StatefulSet"): ("spec", "template"),
    ("apps/v1", "DaemonSet"): ("spec", "template"),
    ("apps/v1", "ReplicaSet"): ("spec", "template"),
    ("batch/v1", "Job"): ("spec", "template"),
    ("batch/v1", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""Where objects keep their pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPod:
    """A pod, or the template of one, and the object that it stands in."""

    pod: Mapping[str, object]
    kind: str
    name: str
    namespace: str
    """Empty if the object does not say."""

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceNote:
    """What a manifest says of a namespace."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One document: its text, which ends with a newline, what it says, and the file and line where it begins."""

    text: str
    value: object
    place: str = ""


class _Loader(yaml.SafeLoader):
    """Reads what kubectl reads: JSON with less punctuation. `repeated`: each key given twice, and its line from 0."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[str, int]] = []

    def compose_mapping_node(self, anchor: dict[object, yaml.Node]) -> yaml.MappingNode:
        """Compose as the library does; what merge keys (`<<`) add comes later, and is no repetition."""
        # The type is that of the library's stubs; what is passed on is the name of an anchor, or None.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            # JSON knows text only: `1` and `"1"` are one key.
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    self.repeated.append((key.value, key.start_mark.line))
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such: certificates are to be recognised."""


_OTHERWISE = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)",
    "tag:yaml.org,2002:float": r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?",
}
"""Numbers of YAML 1.1, but for those to the base 60, of which `22:22` is one, and those that JSON does not have."""

_DISPUTED = re.compile(r"[yYnN]|[-+.]?[0-9][0-9A-Fa-fxXoO_.+-]*")
"""Text that some readers of YAML take for a truth value or a number."""

_Loader.yaml_implicit_resolvers = {
    letter: [item for item in resolvers if item[0] not in {*_OTHERWISE, "tag:yaml.org,2002:timestamp"}]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _OTHERWISE.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list("-+0123456789."))


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _DISPUTED.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def read_manifests(path: Path) -> list[Manifest]:
    """Read a file, or stdin. Raises SourceError if that can't be done, or if it is no manifest."""
    text = _read(path)
    place = "what is piped in" if path == STDIN else str(path)
    return [
        Manifest(part, value, f"{place}, line {line}")
        for line, part in _split(text)
        if (value := _parse(part, place, line)) is not None
    ]


def find_namespaces(manifests: Iterable[Manifest]) -> dict[str, NamespaceNote]:
    """Return what is said of namespaces, by name. Raises SourceError for labels or annotations that are no text."""
    found: dict[str, NamespaceNote] = {}
    for manifest in manifests:
        for key, value in _each_object(manifest.value):
            if key == ("v1", "Namespace"):
                found[_name_of(value)] = NamespaceNote(
                    labels=_texts(value, "labels", manifest.place),
                    annotations=_texts(value, "annotations", manifest.place),
                )
    return found


def find_unknown(value: object) -> list[tuple[str, str]]:
    """Return kind and name of each object with a pod inside whose kind is not known, such as Argo's Rollout."""
    return [
        (key[1], _name_of(item))
        for key, item in _each_object(value)
        if key not in _TEMPLATES and key[1] and _holds_pod(item)
    ]


def _holds_pod(value: object) -> bool:
    """Whether anything in it has a specification with containers, as the template of a pod has."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, Mapping):
            spec = item.get("spec")
            containers = spec.get("containers") if isinstance(spec, Mapping) else None
            if isinstance(containers, list) and containers and all(isinstance(one, Mapping) for one in containers):
                return True
            left += item.values()
        elif isinstance(item, list):
            left += item
    return False


def _each_object(
    value: object, kind_of_list: tuple[str, str] = ("", "")
) -> Iterator[tuple[tuple[str, str], Mapping[str, object]]]:
    """Yield version and kind of each object in a document, and the object."""
    if not isinstance(value, Mapping):
        return
    key, items = _kind_of(value, kind_of_list), _items_of(value, kind_of_list)
    if items is None:
        yield key, value
        return
    for item in items:
        yield from _each_object(item, (key[0], key[1].removesuffix("List")))


def _kind_of(value: Mapping[str, object], kind_of_list: tuple[str, str]) -> tuple[str, str]:
    return str(value.get("apiVersion") or kind_of_list[0]), str(value.get("kind") or kind_of_list[1])


def _items_of(value: Mapping[str, object], kind_of_list: tuple[str, str]) -> list[object] | None:
    """Return what is in a list of objects; None: it is none."""
    items = value.get("items")
    return items if isinstance(items, list) and _kind_of(value, kind_of_list)[1].endswith("List") else None


def _metadata_of(value: Mapping[str, object]) -> Mapping[str, object]:
    metadata = value.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _name_of(value: Mapping[str, object]) -> str:
    metadata = _metadata_of(value)
    return str(metadata.get("name") or f"{metadata.get('generateName') or ''}…")


def _texts(value: Mapping[str, object], key: str, place: str) -> Mapping[str, str]:
    texts = _metadata_of(value).get(key) or {}
    if not isinstance(texts, Mapping):
        raise SourceError(f"{place}: {key} of namespace/{_name_of(value)} are no object; write KEY: VALUE there")
    for name, text in texts.items():
        if not isinstance(text, str):
            raise SourceError(
                f"{place}: {key} of namespace/{_name_of(value)}: {quote_value(name)} is no text; quote the value"
            )
    return texts


def change_pods(
    value: object, change: Callable[[FoundPod], Mapping[str, object]], kind_of_list: tuple[str, str] = ("", "")
) -> object:
    """Return `value`, an object or a list of objects, with every pod in it changed; what holds none as it is."""
    if not isinstance(value, Mapping):
        return value
    (version, kind), items = _kind_of(value, kind_of_list), _items_of(value, kind_of_list)
    if items is not None:
        inner = version, kind.removesuffix("List")
        return {**value, "items": [change_pods(item, change, inner) for item in items]}
    path = _TEMPLATES.get((version, kind))
    if path is None:
        return value
    name, namespace = _name_of(value), str(_metadata_of(value).get("namespace") or "")
    return _change_at(value, path, lambda pod: change(FoundPod(pod=pod, kind=kind, name=name, namespace=namespace)))


def _change_at(
    holder: Mapping[str, object], path: tuple[str, ...], change: Callable[[Mapping[str, object]], Mapping[str, object]]
) -> Mapping[str, object]:
    if not path:
        return change(holder)
    inner = holder.get(path[0])
    if isinstance(inner, Mapping):
        return {**holder, path[0]: _change_at(inner, path[1:], change)}
    # There is no pod where one has to be: that is not for us to say.
    change({})
    return holder


def write_manifest(value: object) -> Manifest:
    """Return a document with this value."""
    plain = json.loads(json.dumps(value))
    text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=120)
    return Manifest(text, plain)


def render_manifests(manifests: Iterable[Manifest], form: str) -> str:
    """Return documents as YAML, or as one JSON object, which is a List if there are several."""
    known = list(manifests)
    if form == "json":
        values = [manifest.value for manifest in known]
        return render_json(values[0] if len(values) == 1 else {"apiVersion": "v1", "kind": "List", "items": values})
    return "---\n".join(manifest.text for manifest in known).removesuffix("\n")


def _read(path: Path) -> str:
    try:
        if path == STDIN:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror}; give a file with manifests, or -") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    if len(content) > MAX_BYTES:
        raise SourceError(f"{path} is larger than {MAX_BYTES >> 20} MiB; split it into several")
    return text


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Yield the documents of a text and their first lines, without borders and with a newline at the end of each."""
    line = 1
    for part in _BORDER.split(text):
        begin = part[: len(part) - len(part.lstrip(_BLANK))].count("\n")
        yield line + begin, f"{part.strip(_BLANK)}\n"
        line += part.count("\n")


def _parse(text: str, place: str, line: int) -> object:
    """Return what a document says that begins in `line`; None: nothing. Raises SourceError."""
    try:
        value = json.loads(text, object_pairs_hook=_build_object) if text.startswith("{") else _load(text, place, line)
        # What can't be JSON is no manifest, nor are numbers of which JSON has none.
        return json.loads(json.dumps(value, allow_nan=False))
    except yaml.MarkedYAMLError as error:
        where = line if error.problem_mark is None else line + error.problem_mark.line
        raise SourceError(
            f"{place}, line {where}, is no YAML: {error.problem}; see: kubectl apply --dry-run=client"
        ) from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise SourceError(
            f"{place}, line {line}, begins a document that is no manifest: {error}; see: kubectl apply"
        ) from error


def _load(text: str, place: str, line: int) -> object:
    loader = _Loader(text)
    try:
        value = loader.get_single_data()
    finally:
        loader.dispose()
    for key, where in loader.repeated:
        name = f"{str(value.get('kind') or 'object').lower()}/{_name_of(value)}" if isinstance(value, Mapping) else ""
        raise SourceError(
            f"{place}, line {line + where}: {name} has the key {quote_value(key)} twice; keep one of the two"
        )
    return value


def _build_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {quote_value(key)} stands there twice; keep one of the two")
        found[key] = value
    return found
