"""
Expressions of a PAC file, evaluated as far as they are known without a URL at hand.

What depends on the connection becomes a `Condition`; what depends on anything else (the time, the machine's own
address, a path) is `OPAQUE`. Nothing is executed: a call is either one of the functions of PAC files that are known
here, or opaque. Invariant: whatever makes a condition unknown is told with its line.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from xds.importers import pac_matching as matching
from xds.importers.pac_budget import EVALUATION
from xds.importers.pac_conditions import (
    FALSE,
    TRUE,
    Both,
    Condition,
    Either,
    Not,
    Unknown,
    Within,
    both,
    either,
    negate,
    size,
)
from xds.importers.pac_syntax import arguments_of, line_of, part, show, statements_of, string_of, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tree_sitter import Node

    from xds.importers.imported import Changes
    from xds.importers.pac_budget import Budget
    from xds.importers.pac_syntax import Function


class Symbol(Enum):
    """What is only known when there is a connection."""

    HOST = "the host"
    URL = "the URL"
    ADDRESS = "an address of the host"
    OPAQUE = "anything"


@dataclass(frozen=True, slots=True)
class Front:
    """The first characters of the URL."""

    length: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where `text` stands in the host or in the URL; in a list, where the host stands."""

    of: Symbol
    text: str = ""
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    values: tuple[Value, ...]


_CONDITIONS = (Within, Unknown, Not, Both, Either)
Value = str | int | Items | Symbol | Front | Position | Condition
Environment = dict[str, Value]

OPAQUE = Symbol.OPAQUE

_MOST_NESTED = 20
_MOST_DIGITS = 15
_MOST_NUMBER = 10**_MOST_DIGITS
"""Below what a number of JavaScript holds exactly."""
_SHORTEST_URL = len("http://a/")
_EQUAL = ("==", "===")
_UNEQUAL = ("!=", "!==")
_IN_LIST = {(">", -1), (">=", 0), ("!=", -1), ("!==", -1)}
_NOT_IN_LIST = {("<", 0), ("==", -1), ("===", -1)}
_SAME_TEXT = ("toLowerCase", "toString", "trim", "valueOf", "toLocaleLowerCase")


class Evaluator:
    """Evaluates expressions for URLs of one scheme, and tells what can't be known."""

    def __init__(self, scheme: str, functions: Mapping[str, Function], changes: Changes, budget: Budget) -> None:
        self._scheme = scheme
        self._functions = functions
        self._changes = changes
        self._budget = budget
        self._depth = 0
        self.outside: Environment = {}
        """What is known of variables outside of the function."""
        self.own_names: frozenset[str] = frozenset()
        """The function's own variables, which no other function sees."""

    def condition(self, node: Node, known: Environment) -> Condition:
        """Return when `node` is true; what is unknown is told."""
        found = self._truth(self.value(node, known))
        if isinstance(found, Unknown) and not found.is_told:
            self._tell_unknown(node)
            return Unknown(is_told=True)
        return found

    def value(self, node: Node, known: Environment) -> Value:
        """Return what `node` amounts to."""
        # Its text is looked at, too.
        self._budget.spend(EVALUATION + ((node.end_byte - node.start_byte) >> 10))
        match node.type:
            case "string" | "template_string":
                self._budget.check_text(node.end_byte - node.start_byte)
                found = string_of(node)
                return OPAQUE if found is None else found
            case "number":
                text = text_of(node)
                return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else OPAQUE
            case "true" | "false":
                return TRUE if node.type == "true" else FALSE
            case "null" | "undefined":
                return ""
            case "identifier":
                return known.get(text_of(node), OPAQUE)
            case "parenthesized_expression":
                return self.value(statements_of(node)[0], known)
            case "array":
                return Items(tuple(self.value(item, known) for item in statements_of(node)))
            case _:
                return self._computed(node, known)

    def _computed(self, node: Node, known: Environment) -> Value:
        match node.type:
            case "unary_expression":
                return self._unary(node, known)
            case "binary_expression":
                return self._binary(node, known)
            case "call_expression":
                return self._call(node, known)
            case "member_expression":
                return self._member(node, known)
            case "subscript_expression":
                return self._element(node, known)
            case _:
                return OPAQUE

    def _truth(self, value: Value) -> Condition:
        match value:
            case str() | int():
                return TRUE if value else FALSE
            case Symbol.HOST | Symbol.URL | Items():
                return TRUE
            case Within() | Unknown() | Not() | Both() | Either():
                return value
            case _:
                return Unknown()

    def _tell_unknown(self, node: Node) -> None:
        message = f"{show(node)} can't be said in rules, or is not known from a connection"
        hint = "where it would decide between direct and a proxy, the proxy is taken; between proxies, the last one"
        self._changes.lost("FindProxyForURL", message, hint, line_of(node))

    def _tell_once(self, what: str, node: Node, hint: str) -> None:
        """Tell of a change in meaning, on the first line where it is met."""
        self._budget.spend(1 + (len(self._changes.found) >> 3))
        if all(change.message != what for change in self._changes.found):
            self._changes.changed("FindProxyForURL", what, hint, line_of(node))

    # ------------------------------------------------------------------------------------- operators

    def _unary(self, node: Node, known: Environment) -> Value:
        operator, argument = text_of(part(node, "operator")), part(node, "argument")
        if operator == "!":
            return negate(self.condition(argument, known))
        value = self.value(argument, known)
        return -value if operator == "-" and isinstance(value, int) else OPAQUE

    def _binary(self, node: Node, known: Environment) -> Value:
        operator = text_of(part(node, "operator"))
        if operator == "||":
            parts = [self.condition(item, known) for item in _chain(node, "||")]
            self._budget.spend(sum(map(size, parts)))
            return either(parts)
        left, right = part(node, "left"), part(node, "right")
        if operator == "&&":
            first = self.condition(left, known)
            second = FALSE if first == FALSE else self.condition(right, known)
            self._budget.spend(size(first) * size(second))
            return both(first, second)
        one, other = self.value(left, known), self.value(right, known)
        if operator == "+":
            return self._join(one, other)
        return self._compare(one, operator, other)

    def _join(self, one: Value, other: Value) -> Value:
        if isinstance(one, int) and isinstance(other, int):
            return one + other if abs(one + other) <= _MOST_NUMBER else OPAQUE
        if isinstance(one, str | int) and isinstance(other, str | int):
            self._budget.check_text(len(str(one)) + len(str(other)))
            return f"{one}{other}"
        return OPAQUE

    def _compare(self, one: Value, operator: str, other: Value) -> Value:
        if isinstance(other, Symbol | Front | Position) and operator in (*_EQUAL, *_UNEQUAL):
            one, other = other, one
        if isinstance(one, Position) and isinstance(other, int):
            return self._at(one, operator, other)
        if operator in _UNEQUAL:
            found = self._equals(one, other)
            return found if isinstance(found, Unknown) else negate(found)
        return self._equals(one, other) if operator in _EQUAL else Unknown()

    def _equals(self, one: Value, other: Value) -> Condition:
        match one, other:
            case Symbol.HOST, str():
                return matching.match_name(other)
            case Symbol.ADDRESS, str() if other:
                return matching.match_name(other)
            case Symbol.HOST | Symbol.URL, "":
                return FALSE
            case Front(), str() if len(other) == one.length:
                return matching.match_url_start(other, self._scheme)
            case Front(), str() if len(other) > one.length or one.length <= _SHORTEST_URL:
                return FALSE
            case (str(), str()) | (int(), int()):
                return TRUE if one == other else FALSE
            case _:
                return Unknown()

    def _at(self, position: Position, operator: str, number: int) -> Condition:
        if position.of is Symbol.URL:
            found: Condition = matching.match_url_start(position.text, self._scheme)
            if number == 0 and operator in (*_EQUAL, *_UNEQUAL) and not isinstance(found, Unknown):
                return found if operator in _EQUAL else negate(found)
            return Unknown()
        if not position.texts:
            return Unknown()
        self._budget.spend(EVALUATION * len(position.texts))
        found = either([matching.match_name(text) for text in position.texts])
        if (operator, number) in _IN_LIST:
            return found
        return negate(found) if (operator, number) in _NOT_IN_LIST else Unknown()

    # ------------------------------------------------------------------------------------- members

    def _element(self, node: Node, known: Environment) -> Value:
        items, index = self.value(part(node, "object"), known), self.value(part(node, "index"), known)
        if isinstance(items, Items) and isinstance(index, int) and 0 <= index < len(items.values):
            return items.values[index]
        return OPAQUE

    def _member(self, node: Node, known: Environment) -> Value:
        value = self.value(part(node, "object"), known)
        if text_of(part(node, "property")) == "length" and isinstance(value, str | Items):
            return len(value) if isinstance(value, str) else len(value.values)
        return OPAQUE

    def _call(self, node: Node, known: Environment) -> Value:
        function = part(node, "function")
        if part(node, "arguments").type != "arguments":
            return OPAQUE
        arguments = [self.value(item, known) for item in arguments_of(node)]
        if function.type == "member_expression":
            method = text_of(part(function, "property"))
            return self._method(node, self.value(part(function, "object"), known), method, arguments)
        name = text_of(function)
        if name in self._functions:
            return self._own(self._functions[name], arguments, known)
        return self._known(node, name, arguments)

    def _own(self, function: Function, arguments: list[Value], known: Environment) -> Value:
        """Return what a function of the file gives, if it is nothing but an expression."""
        if len(function.body) != 1 or function.body[0].type != "return_statement" or self._depth >= _MOST_NESTED:
            return OPAQUE
        returned = statements_of(function.body[0])
        if not returned or len(arguments) < len(function.parameters):
            return OPAQUE
        self._budget.spend(len(known) + len(self.outside))
        self._depth += 1
        try:
            seen = {name: value for name, value in known.items() if name not in self.own_names}
            arguments_by_name = dict(zip(function.parameters, arguments, strict=False))
            return self.value(returned[0], self.outside | seen | arguments_by_name)
        finally:
            self._depth -= 1

    def _method(self, node: Node, value: Value, method: str, arguments: list[Value]) -> Value:
        if method in _SAME_TEXT:
            return value.lower() if isinstance(value, str) and "Lower" in method else value
        match value, method, arguments:
            case Symbol.URL, "substring" | "slice" | "substr", [0, int(length)] if length > 0:
                return Front(length)
            case Symbol.URL, "startsWith", [str(text)]:
                return matching.match_url_start(text, self._scheme)
            case Symbol.URL, "indexOf", [str(text)]:
                return Position(Symbol.URL, text)
            case Symbol.HOST, "endsWith", [str(text)]:
                return self._suffix(node, text)
            case Items(values), "indexOf" | "includes", [Symbol.HOST] if _are_texts(values):
                texts = tuple(item for item in values if isinstance(item, str))
                self._budget.spend(EVALUATION * len(texts))
                if method == "includes":
                    return either([matching.match_name(text) for text in texts])
                return Position(Symbol.HOST, texts=texts)
            case _:
                return OPAQUE

    # ------------------------------------------------------------------------------------- functions of PAC files

    def _known(self, node: Node, name: str, arguments: list[Value]) -> Value:
        match arguments:
            case [Symbol.HOST, str(text)]:
                return self._of_host(node, name, text)
            case [Symbol.URL, str(text)] if name == "shExpMatch":
                return self._url_glob(node, text)
            case [Symbol.HOST | Symbol.ADDRESS, str(pattern), str(mask)] if name == "isInNet":
                return matching.match_network(pattern, mask)
            case [Symbol.HOST | Symbol.ADDRESS as symbol]:
                return self._of_one(node, name, symbol)
            case [Symbol.ADDRESS, str(text)] if name == "isInNetEx":
                return matching.match_prefix(text)
            case _:
                return OPAQUE

    def _of_host(self, node: Node, name: str, text: str) -> Value:
        match name:
            case "dnsDomainIs":
                return self._suffix(node, text)
            case "localHostOrDomainIs":
                return matching.match_name(text)
            case "shExpMatch":
                return self._glob(node, text)
            case "isInNetEx":
                return matching.match_prefix(text)
            case _:
                return OPAQUE

    def _of_one(self, node: Node, name: str, symbol: Symbol) -> Value:
        match name:
            case "isPlainHostName" if symbol is Symbol.HOST:
                return self._plain(node)
            case "dnsResolve" | "dnsResolveEx":
                # Names that the machine can't resolve went to the proxy, and get here all the same: whether it could
                # (also asked by `isResolvable`, and by this being empty) is not known from a connection.
                return Symbol.ADDRESS
            case _:
                return OPAQUE

    def _plain(self, node: Node) -> Condition:
        message = "isPlainHostName: a name without a dot does not show on the wire, so that no rule follows"
        self._tell_once(
            message, node, "hosts of the cluster are known by their address; add the networks of any others"
        )
        return Unknown(is_told=True)

    def _suffix(self, node: Node, text: str) -> Condition:
        if not matching.is_at_a_dot(text):
            message = f"a domain without a leading dot also matched names that merely end alike, as not{text}"
            self._tell_once(message, node, "the policy matches the name and all below it")
        return matching.match_suffix(text)

    def _glob(self, node: Node, text: str) -> Condition:
        if matching.is_octets(text):
            message = "a pattern for addresses matched no names: names that resolve into it go the same way now, too"
            self._tell_once(message, node, "narrow it if names that resolve into it should go to the proxy")
        elif text.startswith("*") and not matching.is_at_a_dot(text) and text != "*":
            return self._suffix(node, text[1:]) if matching.match_glob(text) != Unknown() else Unknown()
        return matching.match_glob(text)

    def _url_glob(self, node: Node, text: str) -> Condition:
        found = matching.match_url(text, self._scheme)
        if found not in (Unknown(), TRUE, FALSE) and "*" in text.removesuffix("*"):
            message = "`*` in a pattern for URLs also matched paths, which the network does not show"
            self._tell_once(message, node, "the policy looks at the host and the port")
        return found


def _chain(node: Node, operator: str) -> list[Node]:
    """Return the operands of a chain of one operator; it is nested to the left, and may be long."""
    found: list[Node] = []
    while node.type == "binary_expression" and text_of(part(node, "operator")) == operator:
        found.append(part(node, "right"))
        node = part(node, "left")
    return [node, *reversed(found)]


def _are_texts(values: tuple[Value, ...]) -> bool:
    return all(isinstance(value, str) for value in values)
