"""
Compares what an Envoy should have with what it has, resource by resource.

Versions first, then contents. Both are compared as people see them, without credentials: so a difference that is only
in what is redacted is not seen, and said to be possible instead, where versions can tell. Two programs wrote the two
forms; what means the same in JSON's protobuf form is made equal before anything is compared.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import unified_diff
from enum import Enum
from typing import TYPE_CHECKING

import click

from xds.cli.output import count_of, render_json, render_table, render_yaml
from xds.cli.resources import describe_held
from xds.errors import clean_text
from xds.inspection.config_dump import State
from xds.render import REDACTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.cli.resources import Shown

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_DURATION = re.compile(r"(-?[0-9]+)\.([0-9]*?)0*s")
_WELL_KNOWN = "google.protobuf."
_FIRST = {"@type": 0, "name": 1}
_BY_USE = (State.ACTIVE, State.WARMING, State.REFUSED)
_OPAQUE_VALUE = "[not compared]"
_UNSAID_OF_ENDPOINTS: dict[str, tuple[object, ...]] = {
    "health_check_config": ({},),
    "health_status": ("HEALTHY", "UNKNOWN"),
    "load_balancing_weight": (0, 1),
    "locality": ({},),
    "metadata": ({},),
    "policy": ({}, {"overprovisioning_factor": 140}),
}
"""What Envoy adds when it lists endpoints: defaults, and how they are."""


class Verdict(Enum):
    """How one resource compares."""

    SAME = "same"
    SAME_CONTENT = "same-content"
    """Another version, and nothing else is different."""
    MAY_DIFFER = "may-differ"
    """Another version, and the same content but for what is redacted."""
    DIFFERS = "differs"
    MISSING = "missing"
    """Envoy does not have it."""
    UNEXPECTED = "unexpected"
    """Envoy has it, and should not."""

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return self in (Verdict.SAME, Verdict.SAME_CONTENT)


_COLOURS = {Verdict.SAME: "green", Verdict.SAME_CONTENT: "green", Verdict.MAY_DIFFER: "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One resource on both sides; None: it is not on that one."""

    kind: str
    name: str
    expected: Shown | None
    held: Shown | None
    verdict: Verdict
    diff: tuple[str, ...] = ()
    """A unified diff of YAML, from what is expected to what is held."""

    @property
    def note(self) -> str:
        """What Envoy says of it that matters here."""
        held = self.held.held if self.held is not None else None
        if held is None:
            return ""
        waiting = "" if held.state is not State.WARMING else "warming: it waits for what it refers to"
        return f"refused: {held.refusal.text}" if held.refusal is not None else waiting

    @property
    def is_finding(self) -> bool:
        """Whether somebody should look."""
        return not self.verdict.is_good or bool(self.note)


def compare(expected: Iterable[Shown], held: Iterable[Shown], *, versions_tell: bool) -> tuple[Compared, ...]:
    """
    Compare two sides, in the order of what is expected; what is not expected comes last.

    `versions_tell` says whether versions of both sides are made in one way, so that different ones mean something.
    """
    left = {(item.kind, item.name): item for item in expected}
    right = _pick_used(held)
    return tuple(
        _compare(left.get(key), right.get(key), versions_tell=versions_tell) for key in dict.fromkeys((*left, *right))
    )


def _pick_used(held: Iterable[Shown]) -> dict[tuple[str, str], Shown]:
    """Of several states of one resource, take the one that is used, or else comes next."""
    states = [(item, item.held.state if item.held is not None else State.ACTIVE) for item in held]
    found: dict[tuple[str, str], Shown] = {}
    for wanted in _BY_USE:
        for item, state in states:
            if state is wanted:
                found.setdefault((item.kind, item.name), item)
    return found


def _compare(expected: Shown | None, held: Shown | None, *, versions_tell: bool) -> Compared:
    some = expected or held
    assert some is not None
    verdict, diff = _judge(expected, held, versions_tell=versions_tell)
    return Compared(kind=some.kind, name=some.name, expected=expected, held=held, verdict=verdict, diff=diff)


def _judge(expected: Shown | None, held: Shown | None, *, versions_tell: bool) -> tuple[Verdict, tuple[str, ...]]:
    if held is None or (held.held is not None and held.held.state is State.REFUSED):
        return (Verdict.MISSING if expected is not None else Verdict.UNEXPECTED), ()
    if expected is None:
        return Verdict.UNEXPECTED, ()
    if expected.version and expected.version == held.version:
        return Verdict.SAME, ()
    left, right = _blank_opaque(_normalise(expected.content), _normalise(held.content))
    if left != right:
        return Verdict.DIFFERS, _diff(left, right, expected, held)
    is_hidden = versions_tell and bool(held.version) and _is_redacted(left)
    return (Verdict.MAY_DIFFER if is_hidden else Verdict.SAME_CONTENT), ()


def _normalise(value: object, *, in_endpoints: bool = False) -> object:
    """Give values one form, and keys one order."""
    match value:
        case dict():
            inside = in_endpoints or str(value.get("@type", "")).endswith(".ClusterLoadAssignment")
            items = {key: _normalise(item, in_endpoints=inside) for key, item in value.items()}
            said = {
                key: item
                for key, item in items.items()
                if not inside or not any(item == unsaid for unsaid in _UNSAID_OF_ENDPOINTS.get(key, ()))
            }
            return dict(sorted(said.items(), key=lambda pair: (_FIRST.get(pair[0], len(_FIRST)), pair[0])))
        case list():
            return [_normalise(item, in_endpoints=in_endpoints) for item in value]
        case str() if _NUMBER.fullmatch(value):
            return int(value)  # 64 bits are text in JSON
        case str() if found := _DURATION.fullmatch(value):
            return f"{found[1]}.{found[2]}s" if found[2] else f"{found[1]}s"
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _blank_opaque(left: object, right: object) -> tuple[object, object]:
    """Leave out what one side could not unpack and the other could."""
    match left, right:
        case {"@type": str(one)}, {"@type": str(other)} if one == other and (_is_opaque(left) or _is_opaque(right)):
            blank = {"@type": one, "value": _OPAQUE_VALUE}
            return blank, blank
        case dict(), dict():
            pairs = {key: _blank_opaque(left[key], right[key]) for key in left if key in right}
            return (
                {key: pairs[key][0] if key in pairs else value for key, value in left.items()},
                {key: pairs[key][1] if key in pairs else value for key, value in right.items()},
            )
        case list(), list():
            shared = [_blank_opaque(*pair) for pair in zip(left, right, strict=False)]
            ones, others = [pair[0] for pair in shared], [pair[1] for pair in shared]
            return [*ones, *left[len(shared) :]], [*others, *right[len(shared) :]]
        case _:
            return left, right


def _is_opaque(value: object) -> bool:
    match value:
        case {"@type": str(type_url), "value": str(), **rest}:
            return not rest and _WELL_KNOWN not in type_url
        case _:
            return False


def _is_redacted(value: object) -> bool:
    match value:
        case dict():
            return any(map(_is_redacted, value.values()))
        case list():
            return any(map(_is_redacted, value))
        case str():
            return REDACTED in value
        case _:
            return False


def _diff(left: object, right: object, expected: Shown, held: Shown) -> tuple[str, ...]:
    return tuple(
        unified_diff(
            render_yaml(left).splitlines(),
            render_yaml(right).splitlines(),
            f"expected {expected.kind} {expected.name} {expected.version}".rstrip(),
            f"held {held.kind} {held.name} {held.version}".rstrip(),
            lineterm="",
        )
    )


def render_comparison(compared: Sequence[Compared], output: str) -> str:
    """Return the comparison in one of the forms of `--output`."""
    if output == "table":
        return "\n\n".join([_render_table(compared), *(_style(item.diff) for item in compared if item.diff)])
    described = [_describe(item) for item in compared]
    return render_json(described) if output == "json" else render_yaml(described)


def count_verdicts(compared: Sequence[Compared]) -> str:
    """Say e.g. `3 resources: 2 same, 1 differs`."""
    counts = Counter(item.verdict for item in compared)
    parts = [f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]]
    return f"{count_of(len(compared), 'resource')}: {', '.join(parts) or 'nothing to compare'}"


def _describe(item: Compared) -> dict[str, object]:
    held = item.held.held if item.held is not None else None
    return {
        "type": item.kind,
        "name": item.name,
        "verdict": item.verdict.value,
        "expectedVersion": item.expected.version if item.expected is not None else None,
        "heldVersion": item.held.version if item.held is not None else None,
        **(describe_held(held) if held is not None else {"state": None, "updated": None, "refused": None}),
        "diff": list(item.diff),
    }


def _render_table(compared: Sequence[Compared]) -> str:
    rows = [
        (
            item.kind,
            item.name,
            _version(item.expected),
            _version(item.held),
            f"{item.verdict.value}  {item.note}".rstrip(),
        )
        for item in compared
    ]
    return render_table(("TYPE", "NAME", "EXPECTED", "HELD", "VERDICT"), rows, paint=_paint)


def _paint(cell: str) -> str:
    """Colour a verdict, and not the note behind it."""
    word, gap, note = cell.partition("  ")
    return f"{click.style(word, fg=_COLOURS.get(Verdict(word), 'red'))}{gap}{note}"


def _version(side: Shown | None) -> str:
    return "-" if side is None else side.version or "?"


def _style(diff: Iterable[str]) -> str:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    lines = map(clean_text, diff)
    return "\n".join(click.style(line, fg=colours[line[0]]) if line[:1] in colours else line for line in lines)
