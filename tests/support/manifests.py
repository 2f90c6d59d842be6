"""
What `deploy/` comes to, without kubectl and Helm: enough of both to build what stands there.

Whatever is not understood raises, so that nothing in a manifest goes unchecked because a tool is missing.
"""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUSTOMIZE = DEPLOY / "kustomize"
CHART = DEPLOY / "helm" / "egress-xds"

Manifest = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "labels"}


def read_manifests(path: Path) -> list[Manifest]:
    """Return the objects in a file."""
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found is not None]


def build(directory: Path) -> list[Manifest]:
    """Return what `kubectl kustomize` makes of a directory."""
    (wanted,) = read_manifests(directory / "kustomization.yaml")
    assert wanted.keys() <= _KNOWN, f"{directory} has keys that are not understood here: {wanted.keys() - _KNOWN}"
    found: list[Manifest] = []
    for name in wanted.get("resources", ()):
        path = directory / name
        found += build(path.resolve()) if path.is_dir() else read_manifests(path)
    for name in wanted.get("components", ()):
        (component,) = read_manifests(directory / name / "kustomization.yaml")
        assert component["kind"] == "Component"
        found = _apply((directory / name).resolve(), component, found)
    return _apply(directory, {key: wanted[key] for key in ("patches", "labels") if key in wanted}, found)


def _apply(directory: Path, wanted: Manifest, objects: list[Manifest]) -> list[Manifest]:
    """Add what a component brings, then patch and label."""
    assert wanted.keys() <= _KNOWN
    result = deepcopy(objects)
    for name in wanted.get("resources", ()):
        result += read_manifests(directory / name)
    for patch in wanted.get("patches", ()):
        operations = yaml.safe_load((directory / patch["path"]).read_text(encoding="utf-8"))
        target = patch["target"]
        (chosen,) = [
            item for item in result if (item["kind"], item["metadata"]["name"]) == (target["kind"], target["name"])
        ]
        for operation in operations:
            _add(chosen, operation)
    for label in wanted.get("labels", ()):
        assert (label["includeSelectors"], label["includeTemplates"]) == (False, True)
        for item in result:
            _label(item, label["pairs"])
    return result


def _add(target: Manifest, operation: Manifest) -> None:
    assert operation["op"] == "add"
    *parents, last = operation["path"].strip("/").split("/")
    place: Any = target
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if last == "-":
        place.append(operation["value"])
    else:
        place[last] = operation["value"]


def _label(item: Manifest, pairs: Mapping[str, str]) -> None:
    item["metadata"].setdefault("labels", {}).update(pairs)
    if item["kind"] == "Deployment":
        item["spec"]["template"]["metadata"].setdefault("labels", {}).update(pairs)


_LINE = re.compile(r"\s*\{\{-? (?P<what>.*?) ?\}\}")
_CONTROL = re.compile(r"(if|range|with|else|end|define)\b")
_PLACED = re.compile(r"(?P<what>include|toYaml) (?P<name>\S+)(?: [.$])? \| nindent (?P<indent>\d+)")
_SILENT = re.compile(r'\$\w+ :?= |include "egress-xds\.check" ')
"""What has no text of its own: assignments, and what refuses values."""
_INLINE = re.compile(r"\{\{ (.*?) \}\}")


class Chart:
    """The chart with its default values; variables (`$…`) are empty, since they hold what Helm makes up."""

    def __init__(self) -> None:
        (self.values,) = read_manifests(CHART / "values.yaml")
        (self.chart,) = read_manifests(CHART / "Chart.yaml")
        self._defined = dict(self._read_definitions())

    @property
    def templates(self) -> list[Path]:
        """All files with templates."""
        return sorted((CHART / "templates").iterdir())

    def render(self) -> list[Manifest]:
        """Return the objects that Helm would make."""
        texts = [self._render(path.read_text(encoding="utf-8")) for path in self.templates if path.suffix == ".yaml"]
        return [found for text in texts for found in yaml.safe_load_all(text) if found is not None]

    def look_up(self, path: str) -> Any:  # noqa: ANN401  # a value of YAML
        """Return what `.Values.a.b` is. Raises KeyError."""
        found: Any = self.values
        for part in path.removeprefix(".Values.").split("."):
            found = found[part]
        return found

    def _read_definitions(self) -> Iterator[tuple[str, str]]:
        text = (CHART / "templates" / "_names.tpl").read_text(encoding="utf-8")
        yield from re.findall(r'\{\{- define "(.*?)" -\}\}\n(.*?)\{\{- end \}\}', text, re.DOTALL)

    def _render(self, text: str) -> str:
        lines: list[str] = []
        active = [True]
        for line in text.splitlines():
            control = _LINE.fullmatch(line)
            if control and _CONTROL.match(control["what"]):
                self._branch(control["what"], active)
            elif all(active) and not (control and (_SILENT.match(control["what"]) or "/*" in line)):
                lines.append(self._place(control["what"]) if control else self._fill(line))
        assert active == [True], "a block is not closed"
        return "\n".join(lines)

    def _branch(self, what: str, active: list[bool]) -> None:
        word, _, condition = what.partition(" ")
        if word == "if":
            active.append(self._holds(condition))
        elif word == "range":
            assert not self._value(condition.rpartition(":= ")[2]), f"only empty lists are understood: {what}"
            active.append(False)
        elif word == "else":
            active[-1] = not active[-1]
        else:
            assert what == "end", f"not understood: {what}"
            active.pop()

    def _holds(self, condition: str) -> bool:
        words = condition.split()
        match words:
            case ["not", value]:
                return not self._value(value)
            case ["not", "(has", literal, values]:
                return literal.strip('"') not in self._value(values.removesuffix(")"))
            case ["or", *values]:
                return any(map(self._value, values))
            case ["eq" | "ne", value, literal]:
                return (self._value(value) == literal.strip('"')) is (words[0] == "eq")
            case _:
                return bool(self._value(condition))

    def _place(self, what: str) -> str:
        placed = _PLACED.fullmatch(what)
        assert placed, f"not understood: {what}"
        if placed["what"] == "include":
            text = self._fill(self._defined[placed["name"].strip('"')])
        else:
            text = yaml.safe_dump(self._value(placed["name"]))
        return "\n".join(" " * int(placed["indent"]) + line for line in text.splitlines())

    def _fill(self, line: str) -> str:
        return _INLINE.sub(lambda match: str(self._value(match[1])), line)

    def _value(self, expression: str) -> Any:  # noqa: ANN401  # a value of YAML
        first, _, default = expression.partition(" | default ")
        if default:
            return self._value(first) or self._value(default)
        if first.startswith('"'):
            return first.strip('"')
        if first.startswith("$") and not first.startswith("$."):
            return {}
        known = {
            ".Release.Namespace": "egress-system",
            ".Release.Service": "Helm",
            ".Chart.Version": self.chart["version"],
            ".Chart.AppVersion": self.chart["appVersion"],
        }
        path = first.removeprefix("$")
        return known[path] if path in known else self.look_up(path)
