"""
YAML text as a tree in which every value knows its key path and its line.

This is the only module that knows PyYAML. It reads events, so that nothing recurses on the input's
depth, and it keeps each scalar's own text beside what YAML 1.1 would make of it (`no` is text to most
people and a truth value to YAML). It must not know what a policy is. Invariant: whatever the text,
the result is a bounded tree of text-keyed mappings, no larger than a fixed multiple of the text, and
everything dropped on the way is a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

import yaml

from xds.policy.findings import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xds.policy.findings import Findings

MAX_LENGTH = 16 * 1024 * 1024
"""Characters of one source. Ten thousand entries take half a million."""

MAX_DEPTH = 32
"""Levels of nesting. A policy needs eight."""

MAX_ALIASED = 100_000
"""Values that aliases may repeat in one source: far above any use, far below a "billion laughs"."""

MAX_NAME = 317
"""Characters of one key. The longest that means anything is that of a label: a DNS name, `/` and 63 more."""

MAX_KEY = 500
"""Characters of a key path as it is shown. It is cut at its end, so that the place in a policy is still known."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Kind(Enum):
    """What YAML 1.1 takes a scalar for; the value says it in words."""

    TEXT = "text"
    INTEGER = "a number"
    FLOAT = "a number with a fraction"
    BOOLEAN = "true or false"
    NULL = "nothing"
    TIMESTAMP = "a date"
    MERGE = "a merge key"
    TAGGED = "a tagged value"


_KINDS = {
    "tag:yaml.org,2002:int": Kind.INTEGER,
    "tag:yaml.org,2002:float": Kind.FLOAT,
    "tag:yaml.org,2002:bool": Kind.BOOLEAN,
    "tag:yaml.org,2002:null": Kind.NULL,
    "tag:yaml.org,2002:timestamp": Kind.TIMESTAMP,
    "tag:yaml.org,2002:merge": Kind.MERGE,
}
_TEXT_TAGS = ("!", "tag:yaml.org,2002:str")
_COLLECTION_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What one source may hold.

    `length` is in characters; what aliases repeat may be as long again. `values` counts scalars, collections and
    documents, keys included, and what aliases repeat each time.
    """

    length: int = MAX_LENGTH
    values: int = MAX_LENGTH


@dataclass(frozen=True, slots=True)
class Step:
    """
    A key or an index below a place.

    Values share the steps above them: a path written out for each would cost its length times their number.
    """

    parent: Place
    part: str | int


Place = str | Step
"""Where a value stands: its key path, or the steps to it. `""` is the document itself."""


@dataclass(frozen=True, slots=True)
class _Placed:
    place: Place
    line: int

    @property
    def key(self) -> str:
        """The key path inside the document, put together anew each time."""
        return show_place(self.place)


@dataclass(frozen=True, slots=True)
class Scalar(_Placed):
    """A single value: its text as written (unquoted, unescaped) and what YAML takes it for."""

    text: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Items(_Placed):
    """A list. `is_cut` says that something wrong was taken out, here or further down."""

    items: tuple[Node, ...] = ()
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Fields(_Placed):
    """A mapping. The line of each value is the line of its key; `is_cut` is as for lists."""

    fields: Mapping[str, Node] = field(default_factory=dict)
    is_cut: bool = False


Node = Scalar | Items | Fields


@dataclass(frozen=True, slots=True)
class Broken(_Placed):
    """A document that is not YAML, or not bounded: what is wrong was reported."""


def read_yaml(text: str, findings: Findings, limits: Limits | None = None) -> Iterator[Node | Broken]:
    """
    Yield the documents of `text` in order, leaving out empty ones: of a text without any, none.

    What is wrong with a document is in `findings` before it is yielded. What follows a broken one is lost. `limits` are
    the widest ones if they are not given.
    """
    limits = limits or Limits()
    if len(text) > limits.length:
        broken = Broken("", 1)
        findings.add("EX103", broken, f"the text has more than {limits.length} characters", _SPLIT)
        yield broken
        return
    text = text.removeprefix("\ufeff")
    unreadable = _UNREADABLE.search(text)
    if unreadable is not None:
        broken = Broken("", text.count("\n", 0, unreadable.start()) + 1)
        findings.add(
            "EX101",
            broken,
            f"the character U+{ord(unreadable.group()):04X} is not allowed in YAML",
            "remove it; it often comes from copying, or from a file that is not text",
        )
        yield broken
        return
    yield from _Builder(findings, limits).read(text)


def at(node: Node, *path: str | int) -> Node:
    """Return the node at `path` below `node`, or the deepest one on the way: the best place to point at."""
    for part in path:
        below = child(node, part)
        if below is None:
            return node
        node = below
    return node


def child(node: Node, part: str | int) -> Node | None:
    """Return the node under a key or index, if there is one."""
    if isinstance(node, Fields) and isinstance(part, str):
        return node.fields.get(part)
    if isinstance(node, Items) and isinstance(part, int) and 0 <= part < len(node.items):
        return node.items[part]
    return None


def show_place(place: Place) -> str:
    """Return the key path of a place, at most `MAX_KEY` characters of it."""
    parts: list[str | int] = []
    while isinstance(place, Step):
        parts.append(place.part)
        place = place.parent
    for part in reversed(parts):
        if len(place) > MAX_KEY:
            break
        place = f"{place}[{part}]" if isinstance(part, int) else join_key(place, part)
    return place if len(place) <= MAX_KEY else f"{place[: MAX_KEY - 1]}…"


def join_key(parent: str, name: str) -> str:
    """Return the path of the key `name` inside the mapping at `parent`."""
    if not _PLAIN_KEY.fullmatch(name):
        return f"{parent}[{quote(name)[1:-1]}]"
    return f"{parent}.{name}" if parent else name


@dataclass(slots=True)
class _Frame:
    """A collection that is still open. `name` is the mapping's key whose value comes next."""

    place: Place
    line: int
    anchor: str | None
    is_mapping: bool
    is_dropped: bool = False
    name: str | None = None
    name_line: int = 0
    drops_value: bool = False
    fields: dict[str, Node] = field(default_factory=dict)
    items: list[Node] = field(default_factory=list)

    def close(self) -> Node:
        if self.is_mapping:
            return Fields(self.place, self.line, self.fields)
        return Items(self.place, self.line, tuple(self.items))


class _TooBigError(Exception):
    """The document passes a bound; `line` says where."""

    def __init__(self, line: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.line = line
        self.hint = hint


class _Builder:
    """Owns the state of one reading: open collections, anchors, and how much was read and repeated by aliases."""

    def __init__(self, findings: Findings, limits: Limits) -> None:
        self._findings = findings
        self._limits = limits
        self._values = 0
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._aliased = 0
        self._aliased_length = 0
        self._root: Node | None = None

    def read(self, text: str) -> Iterator[Node | Broken]:
        try:
            for document in self._documents(text):
                if not (isinstance(document, Scalar) and document.kind is Kind.NULL):
                    yield document
        except yaml.YAMLError as error:
            yield self._report_yaml(error)
        except _TooBigError as error:
            broken = Broken("", error.line)
            self._findings.add("EX103", broken, str(error), error.hint)
            yield broken

    def _documents(self, text: str) -> Iterator[Node]:
        for event in yaml.parse(text, Loader=_Loader):
            match event:
                case yaml.DocumentStartEvent():
                    self._count(event)
                    self._stack, self._anchors, self._root = [], {}, None
                case yaml.DocumentEndEvent():
                    assert self._root is not None, "every document has a value, if only an empty one"
                    yield self._root
                case yaml.ScalarEvent() | yaml.AliasEvent():
                    self._leaf(event)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._open(event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    frame = self._stack.pop()
                    node = frame.close()
                    self._remember(frame.anchor, node)
                    if not frame.is_dropped:
                        self._attach(node)
                case _:
                    pass

    def _count(self, event: yaml.Event) -> None:
        self._values += 1
        if self._values > self._limits.values:
            message = f"the text holds more than {self._limits.values} values"
            raise _TooBigError(_line_of(event), message, _SPLIT)

    def _leaf(self, event: yaml.ScalarEvent | yaml.AliasEvent) -> None:
        self._count(event)
        line = _line_of(event)
        place, line_of_key, is_name = self._place(line)
        if isinstance(event, yaml.AliasEvent):
            node = self._repeat(event.anchor or "", place, line_of_key)
        else:
            node = Scalar(place, line_of_key, event.value, _kind_of(event))
            self._remember(event.anchor, node)
        if not is_name:
            self._attach(node)
        elif isinstance(node, Scalar):
            self._take_name(replace(node, line=line))
        else:
            self._refuse_name(line)

    def _open(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        self._count(event)
        line = _line_of(event)
        if len(self._stack) >= MAX_DEPTH:
            raise _TooBigError(
                line, f"values are nested more than {MAX_DEPTH} deep", "no policy needs that; flatten it"
            )
        place, line_of_key, is_name = self._place(line)
        if event.tag not in _COLLECTION_TAGS:
            self._findings.add("EX107", Broken(place, line), "a YAML tag stands here", "remove the tag; none is read")
        if is_name:
            self._refuse_name(line)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self._stack.append(_Frame(place, line_of_key, event.anchor, is_mapping, is_dropped=is_name))

    def _place(self, line: int) -> tuple[Place, int, bool]:
        """Return the place and line of the value that comes next, and whether it is a key itself."""
        if not self._stack:
            return "", line, False
        frame = self._stack[-1]
        if not frame.is_mapping:
            return Step(frame.place, len(frame.items)), line, False
        if frame.name is None:
            return frame.place, line, True
        return Step(frame.place, frame.name), frame.name_line, False

    def _attach(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        if not frame.is_mapping:
            frame.items.append(node)
            return
        if frame.name is not None and not frame.drops_value:
            frame.fields[frame.name] = node
        frame.name = None

    def _take_name(self, name: Scalar) -> None:
        frame = self._stack[-1]
        if len(name.text) > MAX_NAME:
            self._drop_name(name.line)
            message = f"the key {quote(name.text)} has more than {MAX_NAME} characters"
            self._findings.add("EX103", Broken(frame.place, name.line), message, "shorten it, or remove it")
            return
        spot = Broken(Step(frame.place, name.text), name.line)
        frame.name, frame.name_line, frame.drops_value = name.text, name.line, False
        if name.kind is Kind.MERGE:
            frame.drops_value = True
            self._findings.add("EX106", spot, "merge keys (`<<`) are not read", "write the keys out")
        elif name.kind is not Kind.TEXT:
            message = f"YAML takes the key {quote(name.text)} for {name.kind.value}"
            self._findings.add("EX107", spot, message, "put it in quotes")
        if name.text in frame.fields:
            frame.drops_value = True
            first = frame.fields[name.text].line
            message = f"the key {quote(name.text)} was given before, on line {first}"
            self._findings.add("EX102", spot, message, "keep one of the two")

    def _refuse_name(self, line: int) -> None:
        self._drop_name(line)
        hint = "write `key: value`; an entry with brackets, such as `[2001:db8::1]:443`, needs quotes around it"
        self._findings.add("EX107", Broken(self._stack[-1].place, line), "a key must be text", hint)

    def _drop_name(self, line: int) -> None:
        """Let a key that is none be followed by a value that is dropped."""
        frame = self._stack[-1]
        frame.name, frame.name_line, frame.drops_value = "?", line, True

    def _remember(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _repeat(self, anchor: str, place: Place, line: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            message = f"the alias {quote('*' + anchor)} names no complete anchor before it"
            self._findings.add("EX101", Broken(place, line), message, _STAR_HINT)
            return Scalar(place, line, "", Kind.TAGGED)
        return self._copy(node, place, line, len(self._stack))

    def _copy(self, node: Node, place: Place, line: int, depth: int) -> Node:
        """Repeat an anchored node at another place; the lines inside stay those of the text."""
        self._aliased += 1
        self._values += 1
        # One text may be long, and whoever reads the values looks at it each time.
        self._aliased_length += len(node.text) if isinstance(node, Scalar) else 0
        is_long = self._aliased_length > self._limits.length
        is_many = self._aliased > MAX_ALIASED or self._values > self._limits.values
        if is_long or is_many or depth > MAX_DEPTH:
            raise _TooBigError(line, "aliases repeat too much of this document", "write the values out, or use fewer")
        match node:
            case Scalar():
                return Scalar(place, line, node.text, node.kind)
            case Items():
                items = (
                    self._copy(item, Step(place, index), item.line, depth + 1) for index, item in enumerate(node.items)
                )
                return Items(place, line, tuple(items))
            case Fields():
                fields = {
                    name: self._copy(value, Step(place, name), value.line, depth + 1)
                    for name, value in node.fields.items()
                }
                return Fields(place, line, fields)

    def _report_yaml(self, error: yaml.YAMLError) -> Broken:
        """Say what the YAML library found, in one line and with the usual cause."""
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it can't be read"
        broken = Broken("", mark.line + 1 if mark is not None else 1)
        self._findings.add("EX101", broken, f"this is not YAML: {problem}", _yaml_hint(error, str(problem)))
        return broken


_SPLIT = "split it into several policies; networks can often be joined"
_STAR_HINT = "a value that starts with `*` needs quotes around it"


def _yaml_hint(error: yaml.YAMLError, problem: str) -> str:
    if "alias" in str(getattr(error, "context", "")):
        return _STAR_HINT
    if "cannot start any token" in problem:
        return "indent with spaces, not tabs, and quote values that start with `@`, `%` or a back quote"
    return "check the indentation around this line, and quote values that hold `[`, `{`, `#` or `: `"


def _line_of(event: yaml.Event) -> int:
    assert event.start_mark is not None, "the library marks every event that it reads"
    return event.start_mark.line + 1


def _kind_of(event: yaml.ScalarEvent) -> Kind:
    if event.tag is not None:
        return Kind.TEXT if event.tag in _TEXT_TAGS else Kind.TAGGED
    if not event.implicit[0]:
        return Kind.TEXT
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(event.value[:1], ()):
        if pattern.match(event.value):
            return _KINDS.get(tag, Kind.TEXT)
    return Kind.TEXT
