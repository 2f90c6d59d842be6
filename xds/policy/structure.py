"""
A document's tree against its shape: every structural mistake at once, and the rest still read.

Pydantic judges; this module says the verdict in the policy's own words, with key and line, and then
takes the wrong parts out so that the remainder can be checked for meaning in the same go. Nothing here
knows what a policy means. Invariant: a shape that comes with findings is for finding more, never for use.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from xds.policy.documents import TEXT_OR_LIST
from xds.policy.findings import quote
from xds.policy.unavailable import Path, report_unavailable
from xds.policy.yaml_lines import Fields, Items, Kind, Node, Scalar, Step, at, child

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pydantic_core import ErrorDetails

    from xds.policy.findings import Findings

ShapeT = TypeVar("ShapeT", bound=BaseModel)

_MANY = 10
"""Mistakes of structure that are looked at, for each that may be kept."""

_WHOLE_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "`true` or `false`",
    "list_type": "a list",
    TEXT_OR_LIST: "text or a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}

_STAND_INS: Mapping[Path, str | None] = {
    ("metadata",): None,
    ("metadata", "name"): "unnamed",
    ("spec",): None,
    ("spec", "default"): None,
    ("spec", "default", "action"): "deny",
    ("httpProxy",): "deny",
    ("httpsProxy",): "deny",
}
"""What stands in for a required part that is missing, so that the rest is still read. None: an empty mapping."""

SAID_ELSEWHERE: frozenset[Path] = frozenset({("httpProxy",), ("httpsProxy",)})
"""Missing keys whose absence is explained where their meaning is known."""


def read_shape(shape: type[ShapeT], root: Fields, findings: Findings) -> tuple[ShapeT, Fields] | None:
    """
    Return `root` as a `shape`, beside the tree that it was read from (equal to `root` if all is well).

    None if too little of it is left to make sense of, or if `findings` are bounded and the mistakes far more.
    """
    mark = len(findings)
    node: Node | None = _without(root, report_unavailable(root, findings), ())
    is_first = True
    while isinstance(node, Fields):
        try:
            return shape.model_validate(_plain(node)), node
        except ValidationError as error:
            if findings.most is not None and error.error_count() > _MANY * findings.most:
                # Each costs a kilobyte to look at.
                message = f"the structure is wrong in {error.error_count()} places"
                findings.add("EX103", root, message, "compare a part of it with the description of the form")
                return None
            details = error.errors(include_url=False, include_context=True, include_input=False)
        if is_first:
            _report_all(shape, node, details, findings, mark)
            is_first = False
        node = _repair(node, details)
    return None


def _plain(node: Node) -> object:
    """Return `node` as plain data. What YAML takes for something we don't read stays a node, which no type fits."""
    match node:
        case Fields():
            return {name: _plain(value) for name, value in node.fields.items()}
        case Items():
            return [_plain(item) for item in node.items]
        case Scalar(kind=Kind.TEXT):
            return node.text
        case Scalar(kind=Kind.INTEGER) if _WHOLE_NUMBER.fullmatch(node.text):
            return int(node.text)
        case Scalar(kind=Kind.BOOLEAN):
            return node.text.lower() in ("true", "yes", "on")
        case Scalar():
            return node


def _repair(root: Fields, details: list[ErrorDetails]) -> Node | None:
    """Take out what is wrong and put stand-ins in for what is missing; each round leaves fewer mistakes."""
    wrong: set[Path] = set()
    missing: set[Path] = set()
    for detail in details:
        if detail["type"] != "missing":
            wrong.add(_existing(root, detail["loc"]))
        elif detail["loc"] in _STAND_INS:
            missing.add(detail["loc"])
        else:
            wrong.add(detail["loc"][:-1])
    node = _without(root, wrong, ())
    for path in sorted(missing, key=len):
        if node is not None:
            node = _with_stand_in(node, path, _STAND_INS[path])
    return node


def _existing(root: Node, path: Path) -> Path:
    """
    Return the longest part of `path` that is in the tree.

    For a union pydantic adds words of its own; a repair that removed nothing would never end.
    """
    node: Node = root
    for depth, part in enumerate(path):
        below = child(node, part)
        if below is None:
            return path[:depth]
        node = below
    return path


def _without(node: Node, wrong: Collection[Path], path: Path) -> Node | None:
    if not wrong:
        return node
    if path in wrong:
        return None
    match node:
        case Scalar():
            return node
        case Items():
            items = [_without(item, wrong, (*path, index)) for index, item in enumerate(node.items)]
            kept = tuple(item for item in items if item is not None)
            return Items(node.place, node.line, kept, node.is_cut or _is_any_cut(items))
        case Fields():
            fields = {name: _without(value, wrong, (*path, name)) for name, value in node.fields.items()}
            rest = {name: value for name, value in fields.items() if value is not None}
            return Fields(node.place, node.line, rest, node.is_cut or _is_any_cut(fields.values()))


def _is_any_cut(nodes: Iterable[Node | None]) -> bool:
    return any(node is None or (not isinstance(node, Scalar) and node.is_cut) for node in nodes)


def _with_stand_in(node: Node, path: Path, text: str | None) -> Node:
    assert isinstance(node, Fields), "a key is missing in a mapping only"
    name = str(path[0])
    place = Step(node.place, name)
    if len(path) > 1:
        below = _with_stand_in(node.fields.get(name, Fields(place, node.line)), path[1:], text)
    elif text is None:
        below = Fields(place, node.line)
    else:
        below = Scalar(place, node.line, text)
    return Fields(node.place, node.line, {**node.fields, name: below})


def _report_all(shape: type[BaseModel], root: Node, details: list[ErrorDetails], findings: Findings, mark: int) -> None:
    known = {item.where.key for item in findings.since(mark)}
    for index, detail in enumerate(details):
        if findings.is_full:
            findings.count_errors(len(details) - index)
            return
        if detail["type"] == "missing" and detail["loc"] in SAID_ELSEWHERE:
            continue
        if at(root, *detail["loc"]).key not in known or detail["type"] in ("missing", "extra_forbidden"):
            _report(shape, root, detail, findings)


def _report(shape: type[BaseModel], root: Node, detail: ErrorDetails, findings: Findings) -> None:
    """Say one of pydantic's verdicts in the policy's own words."""
    loc = detail["loc"]
    node = at(root, *loc)
    name = str(loc[-1])
    match detail["type"]:
        case "missing":
            where = findings.where(Fields(Step(node.place, name), node.line))
            findings.add_at("EX108", where, f"the key {quote(name)} is missing", "add it")
        case "extra_forbidden":
            findings.add("EX106", node, f"the key {quote(name)} is unknown", _suggest(name, _known_keys(shape, loc)))
        case "literal_error":
            message = f"{_show(node)} is not one of the allowed values"
            findings.add("EX109", node, message, f"write {detail['ctx']['expected']}".replace("'", "`"))
        case "too_short":
            findings.add("EX109", node, "the list is empty", "give at least one value")
        case kind if kind in _EXPECTED:
            findings.add("EX107", node, f"expected {_EXPECTED[kind]}, found {_describe(node)}", _retype(node, detail))
        case _:
            findings.add("EX109", node, f"{_show(node)} is out of range", _limits(detail))


def _show(node: Node) -> str:
    if isinstance(node, Scalar) and node.kind is not Kind.NULL:
        return quote(node.text)
    return _describe(node)


def _describe(node: Node) -> str:
    match node:
        case Fields():
            return "a mapping"
        case Items():
            return "a list"
        case Scalar():
            return node.kind.value


def _retype(node: Node, detail: ErrorDetails) -> str:
    kind = detail["type"]
    if isinstance(node, Scalar) and node.kind is Kind.NULL:
        return "give it a value, or remove the key"
    if kind == "string_type" and isinstance(node, Scalar):
        return f"put {quote(node.text)} in quotes"
    if kind == "int_type" and isinstance(node, Scalar):
        return "write digits only, without quotes"
    if kind == TEXT_OR_LIST:
        return f"write a list: {detail['ctx']['forms']}"
    if kind == "list_type":
        return "write a list: `[a, b]`, or one `- item` per line"
    return f"write {_EXPECTED[kind]}"


def _limits(detail: ErrorDetails) -> str:
    limits = detail.get("ctx", {})
    return f"write at least {limits['ge']}" if "ge" in limits else f"write at most {limits.get('le')}"


def _suggest(name: str, known: list[str]) -> str:
    """Return the hint for an unknown key: the nearest known one, else all of them."""
    by_folded = {_fold(key): key for key in known}
    nearest = difflib.get_close_matches(_fold(name)[:64], by_folded, n=1)
    if nearest:
        return f"did you mean {quote(by_folded[nearest[0]])}?"
    return f"known here: {', '.join(sorted(known))}"


def _fold(name: str) -> str:
    return re.sub(r"[-_.]", "", name).lower()


def is_like(name: str, known: Collection[str]) -> bool:
    """Whether `name` is one of `known`, but for case, hyphens and small misspellings."""
    return bool(difflib.get_close_matches(_fold(name)[:64], [_fold(key) for key in known], n=1))


def _known_keys(shape: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the mapping that holds `loc`."""
    model, is_entry = shape, False
    for part in loc[:-1]:
        if is_entry:
            is_entry = False
            continue
        info = next((info for info in model.model_fields.values() if info.alias == part), None)
        below = None if info is None else _model_of(info.annotation)
        if info is not None and below is not None:
            model, is_entry = below, get_origin(info.annotation) in (dict, list)
    return [info.alias or name for name, info in model.model_fields.items()]


def _model_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arg in get_args(annotation) if (model := _model_of(arg)) is not None), None)
