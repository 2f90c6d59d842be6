"""
Manifests with pods in them: read from files or stdin, changed pod by pod, printed again.

YAML is read as kubectl reads it: times and base-60 numbers stay text. Nothing here knows what becomes of a pod.
Invariant: a document in which no pod changed is printed as it was written, comments included.
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
from xds.errors import SourceError
from xds.sources.directory import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
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


@dataclass(frozen=True, slots=True)
class Manifest:
    """One document: its text, which ends with a newline, and what it says."""

    text: str
    value: object


class _Loader(yaml.SafeLoader):
    """Reads what kubectl reads: JSON with less punctuation."""


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
    return [Manifest(part, value) for part in _split(text) if (value := _parse(part, place)) is not None]


def change_pods(
    value: object, change: Callable[[FoundPod], Mapping[str, object]], kind_of_list: tuple[str, str] = ("", "")
) -> object:
    """Return `value`, an object or a list of objects, with every pod in it changed; what holds none as it is."""
    if not isinstance(value, Mapping):
        return value
    version, kind = str(value.get("apiVersion") or kind_of_list[0]), str(value.get("kind") or kind_of_list[1])
    items = value.get("items")
    if kind.endswith("List") and isinstance(items, list):
        inner = version, kind.removesuffix("List")
        return {**value, "items": [change_pods(item, change, inner) for item in items]}
    path = _TEMPLATES.get((version, kind))
    if path is None:
        return value
    metadata = value.get("metadata")
    known = metadata if isinstance(metadata, Mapping) else {}
    name = str(known.get("name") or f"{known.get('generateName') or ''}…")
    namespace = str(known.get("namespace") or "")
    return _change_at(value, path, lambda pod: change(FoundPod(pod=pod, kind=kind, name=name, namespace=namespace)))


def _change_at(
    holder: Mapping[str, object], path: tuple[str, ...], change: Callable[[Mapping[str, object]], Mapping[str, object]]
) -> Mapping[str, object]:
    if not path:
        return change(holder)
    inner = holder.get(path[0])
    return {**holder, path[0]: _change_at(inner, path[1:], change)} if isinstance(inner, Mapping) else holder


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


def _split(text: str) -> list[str]:
    """Return the documents of a text, without their borders and with a newline at the end of each."""
    return [f"{part.strip(_BLANK)}\n" for part in _BORDER.split(text)]


def _parse(text: str, place: str) -> object:
    """Return what a document says; None: nothing. Raises SourceError."""
    try:
        value = json.loads(text) if text.startswith("{") else yaml.load(text, Loader=_Loader)  # noqa: S506 -- a safe one
        # What can't be JSON is no manifest, nor are numbers of which JSON has none.
        return json.loads(json.dumps(value, allow_nan=False))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1} of the document"
        raise SourceError(f"{place} is no YAML{line}: {error.problem}; see: kubectl apply --dry-run=client") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise SourceError(f"{place} holds a document that is no manifest: {error}; see: kubectl apply") from error
