"""
The statements of FindProxyForURL, followed on all their paths at once, become rows.

Every path is followed with what is known of variables on it; where two paths part, the rows of both are joined by the
condition. Invariants: a statement that is not understood is told, and hedged against whatever it might return; a
result that names no usable proxy is a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.errors import SourceError
from xds.importers.pac_conditions import FALSE, TRUE, Condition, decide
from xds.importers.pac_regions import Rows, Verdict, Way, always, hedge
from xds.importers.pac_syntax import (
    ENTRY,
    alternative_of,
    always_returns,
    assigned_in,
    changed_in,
    declared_in,
    has_jumps,
    line_of,
    part,
    returns_of,
    show,
    statements_of,
    text_of,
)
from xds.importers.pac_values import OPAQUE, Environment, Evaluator, Items, Symbol, Value
from xds.importers.proxy_urls import read_url

if TYPE_CHECKING:
    from tree_sitter import Node

    from xds.importers.imported import Changes
    from xds.importers.pac_budget import Budget
    from xds.importers.pac_syntax import Program

_MOST_STEPS = 20_000
_COPIED = 8
"""Variables, or statements, that are copied while two regions are compared."""
_SCHEMES = {"PROXY": "http", "HTTP": "http", "HTTPS": "https"}
_SILENT = ("alert", "console.log")
_DENY = Verdict(Way.DENY)
_NO_DIRECT = "connections are refused while no proxy answers"


@dataclass(frozen=True, slots=True)
class _Binding:
    """Stands among statements for `name = value`, as unrolled loops need it."""

    name: str
    value: Value


_Statements = tuple["Node | _Binding", ...]
_Key = tuple[tuple[object, ...], frozenset[tuple[str, object]]]


def _identify(value: Value) -> object:
    """Return what stands for `value` in a key: itself if it is small, for it may hold one list a thousand times."""
    return value if isinstance(value, str | int | Symbol) else (id(value),)


def compile_program(program: Program, scheme: str, changes: Changes, budget: Budget) -> Rows[Verdict]:
    """
    Return what becomes of URLs of `scheme`.

    Raises SourceError if there are too many paths, or rows, to follow, or if `budget` is spent.
    """
    try:
        return _Compiler(program, scheme, changes, budget).run()
    except RecursionError as error:
        raise SourceError(f"{changes.source} is nested too deeply; import what matters of it") from error


class _Compiler:
    def __init__(self, program: Program, scheme: str, changes: Changes, budget: Budget) -> None:
        self._program = program
        self._changes = changes
        self._budget = budget
        self._evaluator = Evaluator(scheme, program.functions, changes, budget)
        self._evaluator.own_names = declared_in(program.functions[ENTRY])
        self._steps = 0
        self._known_rows: dict[_Key, tuple[_Statements, Environment, Rows[Verdict]]] = {}

    def run(self) -> Rows[Verdict]:
        entry = self._program.functions[ENTRY]
        # A variable outside of the function keeps what an earlier call left there.
        known = self._globals() | dict.fromkeys(changed_in(entry), OPAQUE)
        self._evaluator.outside = known
        arguments = dict(zip(entry.parameters, (Symbol.URL, Symbol.HOST), strict=False))
        return self._walk(entry.body, self._forget(known | arguments))

    def _forget(self, known: Environment) -> Environment:
        """Return what is known but for names that can't be followed."""
        return known | dict.fromkeys(self._program.fickle, OPAQUE)

    def _globals(self) -> Environment:
        known: Environment = {}
        for node in self._program.statements:
            self._budget.spend(1 + len(known) // _COPIED)
            bound = self._bind(node, known)
            if bound is None:
                known |= dict.fromkeys(assigned_in(node), OPAQUE)
            else:
                known = bound
        return self._forget(known)

    def _walk(self, statements: _Statements, known: Environment) -> Rows[Verdict]:
        self._budget.spend(1 + len(known) + len(statements) // _COPIED)
        key = (
            tuple((item.name, _identify(item.value)) if isinstance(item, _Binding) else item.id for item in statements),
            frozenset((name, _identify(value)) for name, value in known.items()),
        )
        if key not in self._known_rows:
            # What is known by its identity has to stay.
            self._known_rows[key] = (statements, known, self._follow(statements, known))
        return self._known_rows[key][-1]

    def _follow(self, statements: _Statements, known: Environment) -> Rows[Verdict]:
        parted: list[tuple[Condition, Rows[Verdict]]] = []
        rows = None
        while rows is None:
            self._count(len(statements) + len(known))
            if not statements:
                rows = self._end()
                break
            node, rest = statements[0], statements[1:]
            if isinstance(node, _Binding):
                statements, known = rest, self._forget({**known, node.name: node.value})
            elif node.type == "return_statement":
                rows = self._return(node, known)
            elif node.type == "statement_block":
                statements = (*statements_of(node), *rest)
            elif node.type == "if_statement":
                statements = self._part(node, rest, known, parted)
            elif (turned := self._choose_value(node, known)) is not None:
                condition, then, otherwise = turned
                parted.append((condition, self._walk((then, *rest), known)))
                statements = (otherwise, *rest)
            elif (bound := self._bind(node, known)) is not None:
                statements, known = rest, self._forget(bound)
            elif (unrolled := self._unroll(node, known)) is not None:
                statements = (*unrolled, *rest)
            else:
                rows = self._skip(node, rest, known)
        for condition, then_rows in reversed(parted):
            rows = decide(condition, then_rows, rows, self._budget)
        return rows

    def _count(self, copied: int) -> None:
        self._steps += 1
        self._budget.spend(1 + copied // _COPIED)
        if self._steps > _MOST_STEPS:
            raise SourceError(f"{self._changes.source} has too many paths to follow; import what matters of it")

    def _part(
        self, node: Node, rest: _Statements, known: Environment, parted: list[tuple[Condition, Rows[Verdict]]]
    ) -> _Statements:
        """Note where an `if` leads if it holds, and return what follows if it does not."""
        condition = self._evaluator.condition(part(node, "condition"), known)
        consequence, alternative = part(node, "consequence"), alternative_of(node)
        then: _Statements = (consequence,) if always_returns(consequence) else (consequence, *rest)
        otherwise = rest if alternative is None else (alternative, *rest)
        if condition == TRUE:
            return then
        if condition != FALSE:
            parted.append((condition, self._walk(then, known)))
        return otherwise

    # ------------------------------------------------------------------------------------- variables

    def _assignment(self, node: Node) -> tuple[str, Node] | None:
        """Return name and value of a statement that sets one variable."""
        if node.type in ("variable_declaration", "lexical_declaration"):
            parts = statements_of(node)
            value = parts[0].child_by_field_name("value") if len(parts) == 1 else None
            return None if value is None else (text_of(part(parts[0], "name")), value)
        if node.type == "expression_statement":
            inner = statements_of(node)[0]
            if inner.type == "assignment_expression":
                return text_of(part(inner, "left")), part(inner, "right")
        return None

    def _choose_value(self, node: Node, known: Environment) -> tuple[Condition, _Binding, _Binding] | None:
        """Return what `name = condition ? one : other` may set."""
        found = self._assignment(node)
        if found is None or found[1].type != "ternary_expression":
            return None
        name, value = found
        condition = self._evaluator.condition(part(value, "condition"), known)
        then, otherwise = (self._evaluator.value(part(value, key), known) for key in ("consequence", "alternative"))
        return condition, _Binding(name, then), _Binding(name, otherwise)

    def _bind(self, node: Node, known: Environment) -> Environment | None:
        """Return what is known after a statement that sets variables, or only talks; None: it is another."""
        if node.type in ("variable_declaration", "lexical_declaration"):
            found = dict(known)
            for item in statements_of(node):
                value = item.child_by_field_name("value")
                found[text_of(part(item, "name"))] = "" if value is None else self._evaluator.value(value, found)
            return found
        if node.type != "expression_statement":
            return None
        inner = statements_of(node)[0]
        if inner.type == "assignment_expression":
            return {**known, text_of(part(inner, "left")): self._evaluator.value(part(inner, "right"), known)}
        if inner.type == "augmented_assignment_expression":
            name = text_of(part(inner, "left"))
            old, new = known.get(name), self._evaluator.value(part(inner, "right"), known)
            if text_of(part(inner, "operator")) != "+=" or not isinstance(old, str) or not isinstance(new, str):
                return {**known, name: OPAQUE}
            self._budget.check_text(len(old) + len(new))
            return {**known, name: f"{old}{new}"}
        if inner.type == "string" or (inner.type == "call_expression" and text_of(part(inner, "function")) in _SILENT):
            return known
        return None

    def _unroll(self, node: Node, known: Environment) -> _Statements | None:
        """Return the rounds of a loop over a list that is known; None: it is something else."""
        body = node.child_by_field_name("body")
        if body is None or has_jumps(body):
            return None
        if node.type == "for_in_statement":
            name = text_of(part(node, "left"))
            items = self._evaluator.value(part(node, "right"), known)
            is_of = text_of(part(node, "operator")) == "of"
        elif node.type == "for_statement":
            counted = self._read_count(node, known)
            if counted is None:
                return None
            (name, items), is_of = counted, False
        else:
            return None
        if not isinstance(items, Items):
            return None
        rounds: list[Node | _Binding] = []
        for index, value in enumerate(items.values):
            rounds += [_Binding(name, value if is_of else index), body]
        return tuple(rounds)

    def _read_count(self, node: Node, known: Environment) -> tuple[str, Value] | None:
        """Return variable and list of `for (i = 0; i < list.length; i++)`."""
        start = self._assignment(part(node, "initializer"))
        condition, step = node.child_by_field_name("condition"), node.child_by_field_name("increment")
        if start is None or condition is None or step is None or self._evaluator.value(start[1], known) != 0:
            return None
        while condition.type in ("expression_statement", "parenthesized_expression"):
            condition = statements_of(condition)[0]
        if condition.type != "binary_expression" or step.type != "update_expression":
            return None
        name, limit = start[0], part(condition, "right")
        is_plain = (
            text_of(part(condition, "left")) == name
            and text_of(part(condition, "operator")) == "<"
            and text_of(step) in (f"{name}++", f"++{name}")
            and limit.type == "member_expression"
            and text_of(part(limit, "property")) == "length"
        )
        return (name, self._evaluator.value(part(limit, "object"), known)) if is_plain else None

    # ------------------------------------------------------------------------------------- results

    def _end(self) -> Rows[Verdict]:
        message = "a path through the function ends without a result, which browsers disagree about: it is refused"
        self._changes.lost(ENTRY, message, "return a result on every path")
        return always(_DENY)

    def _skip(self, node: Node, rest: _Statements, known: Environment) -> Rows[Verdict]:
        """Return what is safe whatever a statement does that is not understood."""
        message = f"{show(node)} is not understood"
        hint = "where it might decide between direct and a proxy, the proxy is taken; between proxies, what follows"
        self._changes.lost(ENTRY, message, hint, line_of(node))
        forgotten = {**known, **dict.fromkeys(assigned_in(node), OPAQUE)}
        rows = self._walk(rest, forgotten)
        for found in returns_of(node):
            rows = hedge(self._return(found, forgotten), rows, self._budget)
        return rows

    def _return(self, node: Node, known: Environment) -> Rows[Verdict]:
        values = statements_of(node)
        return self._result(values[0], known) if values else always(self._read("", node))

    def _result(self, node: Node, known: Environment) -> Rows[Verdict]:
        while node.type == "parenthesized_expression":
            node = statements_of(node)[0]
        if node.type == "ternary_expression":
            condition = self._evaluator.condition(part(node, "condition"), known)
            then, otherwise = (self._result(part(node, key), known) for key in ("consequence", "alternative"))
            return decide(condition, then, otherwise, self._budget)
        value = self._evaluator.value(node, known)
        if isinstance(value, str):
            return always(self._read(value, node))
        message = f"the result {show(node)} is not known: it is refused"
        self._changes.lost(ENTRY, message, "write the rule by hand", line_of(node))
        return always(_DENY)

    def _read(self, text: str, node: Node) -> Verdict:
        """Return what a result says: `DIRECT`, or proxies in their order."""
        self._budget.spend(len(text))
        entries = [words for item in text.split(";") if (words := item.split())]
        line = line_of(node)
        if not entries or entries[0][0].upper() == "DIRECT":
            if len(entries) > 1:
                message = "what follows DIRECT is left out: a direct connection that fails is not tried through a proxy"
                self._changes.changed(ENTRY, message, "nothing to do", line)
            return Verdict(Way.DIRECT)
        proxies: dict[str, None] = {}
        for words in entries:
            if words[0].upper() == "DIRECT":
                message = f"DIRECT after proxies is left out: {_NO_DIRECT}"
                hint = "give the proxy a second endpoint; nothing becomes direct by itself"
                self._changes.changed(ENTRY, message, hint, line)
                break
            url = self._read_proxy(words, line)
            if url is not None:
                proxies[url] = None
        if proxies:
            return Verdict(Way.TUNNEL, tuple(proxies))
        self._changes.lost(ENTRY, "the result names no HTTP proxy: it is refused", "write the rule by hand", line)
        return _DENY

    def _read_proxy(self, words: list[str], line: int) -> str | None:
        kind = words[0].upper()
        if kind not in _SCHEMES or len(words) < len(("PROXY", "host:port")):
            shown = kind if kind.startswith("SOCKS") else "this"
            message = f"{shown} is no HTTP proxy, which a policy could name: it is left out"
            self._changes.lost(ENTRY, message, "give the port where the company's proxy takes CONNECT", line)
            return None
        found = read_url(f"{_SCHEMES[kind]}://{words[1]}", ENTRY, self._changes, line)
        if found is None:
            return None
        if found.has_login:
            message = "a login stands before the proxy's host, which browsers do not send: it is left out"
            self._changes.lost(ENTRY, message, "add `auth` to the proxy if it wants one", line)
        return found.url
