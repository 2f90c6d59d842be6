"""
JavaScript as a tree: the one module that knows the parser (tree-sitter, with its grammar of JavaScript).

Nothing is ever executed. Invariant: a text that is no JavaScript, or has no FindProxyForURL, is a SourceError that
says where.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from tree_sitter import Node

ENTRY = "FindProxyForURL"
_MISSING = "reading PAC files needs the parser of an extra: pip install 'egress-xds[pac]'"
_SKIPPED = ("comment", "empty_statement", "html_comment")
_SHOWN = 70
_LOOKED_AT = 8 * _SHOWN
_MOST_LENGTH = 1024 * 1024
"""Characters of a file, as for browsers."""
_MOST_NODES = 120_000
_MUTATORS = ("push", "pop", "shift", "unshift", "splice", "sort", "reverse", "fill", "copyWithin")
_VALUES = ("function_expression", "arrow_function")
_FUNCTIONS = ("function_declaration", "function_expression", "arrow_function", "method_definition")


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the file: what its arguments are called, and its statements."""

    name: str
    parameters: tuple[str, ...]
    body: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A file: its statements outside of functions, and its functions by name."""

    statements: tuple[Node, ...]
    functions: Mapping[str, Function]
    fickle: frozenset[str]
    """Names whose values can't be followed."""


def parse_program(text: str, source: str) -> Program:
    """
    Return the file as a tree.

    Raises SourceError if the parser is not installed, or if this is no PAC file.
    """
    try:
        import tree_sitter  # noqa: PLC0415  # an extra
        import tree_sitter_javascript  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise SourceError(_MISSING) from error
    if len(text) > _MOST_LENGTH:
        raise SourceError(f"{source} has too much text, more than {_MOST_LENGTH >> 10} KiB; import what matters of it")
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_javascript.language()))
    root = parser.parse(text.encode()).root_node
    if root.descendant_count > _MOST_NODES:
        raise SourceError(f"{source} has too many words, more than {_MOST_NODES // 2}; import what matters of it")
    if root.has_error:
        line = next((line_of(node) for node in _walk(root) if node.is_error or node.is_missing), 1)
        raise SourceError(f"{source}:{line} is no JavaScript; correct it, or give the file that browsers get")
    functions = {}
    statements = []
    for node in statements_of(root):
        function = _read_function(node)
        if function is None:
            statements.append(node)
        else:
            functions[function.name] = function
    if ENTRY not in functions:
        raise SourceError(f"{source} has no function {ENTRY}; give a PAC file")
    return Program(tuple(statements), functions, _find_fickle(root, functions))


def _read_function(node: Node) -> Function | None:
    name, function = node.child_by_field_name("name"), node
    if node.type in ("variable_declaration", "lexical_declaration") and node.named_child_count == 1:
        declarator = node.named_children[0]
        value = declarator.child_by_field_name("value")
        if value is None or value.type not in _VALUES:
            return None
        name, function = declarator.child_by_field_name("name"), value
    elif node.type != "function_declaration":
        return None
    body = function.child_by_field_name("body")
    parameters = function.child_by_field_name("parameters")
    if name is None or body is None or parameters is None or body.type != "statement_block":
        return None
    names = tuple(text_of(item) for item in parameters.named_children if item.type == "identifier")
    return Function(text_of(name), names, statements_of(body))


def statements_of(node: Node) -> tuple[Node, ...]:
    """Return the statements, or other parts, in `node`, without comments."""
    return tuple(child for child in node.named_children if child.type not in _SKIPPED)


def part(node: Node, field: str) -> Node:
    """Return the part of `node` that the grammar says there is."""
    found = node.child_by_field_name(field)
    assert found is not None, "the grammar has this part"
    return found


def arguments_of(call: Node) -> tuple[Node, ...]:
    """Return the arguments of a call."""
    return statements_of(part(call, "arguments"))


def text_of(node: Node) -> str:
    """Return the text of `node`."""
    return (node.text or b"").decode()


def show(node: Node) -> str:
    """Return the text of `node` in one short line."""
    text = " ".join(text_of(node)[:_LOOKED_AT].split())
    return f"`{text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'}`"


def line_of(node: Node) -> int:
    """Return the line on which `node` begins, counted from 1."""
    return node.start_point[0] + 1


def string_of(node: Node) -> str | None:
    """Return the value of a string literal; None if it has escapes that are not JSON's, or parts to compute."""
    found = ""
    for child in node.named_children:
        if child.type == "string_fragment":
            found += text_of(child)
        elif child.type == "escape_sequence":
            text = text_of(child)
            try:
                found += json.loads(f'"{text}"') if text not in ("\\'", "\\`") else text[1]
            except ValueError:
                return None
        else:
            return None
    return found


def returns_of(node: Node) -> Iterator[Node]:
    """Return every `return` below `node` that is not in a function of its own."""
    for found in _walk(node, _FUNCTIONS):
        if found.type == "return_statement":
            yield found


def assigned_in(node: Node) -> set[str]:
    """Return the names that something below `node` may change."""
    return {name for found in _walk(node) for name in (*_changed_by(found), *_declared_by(found))}


def declared_in(function: Function) -> frozenset[str]:
    """Return the names that are a function's own."""
    names = {name for node in function.body for found in _walk(node, _FUNCTIONS) for name in _declared_by(found)}
    return frozenset((*names, *function.parameters))


def changed_in(function: Function) -> frozenset[str]:
    """Return the names that a function changes without having declared them."""
    names = {name for node in function.body for found in _walk(node) for name in _changed_by(found)}
    return frozenset(names - declared_in(function))


def _declared_by(node: Node) -> tuple[str, ...]:
    if node.type == "variable_declarator":
        return (text_of(part(node, "name")),)
    return (text_of(part(node, "left")),) if node.type == "for_in_statement" else ()


def _changed_by(node: Node) -> tuple[str, ...]:
    """Return the name that a node itself changes."""
    if node.type in ("assignment_expression", "augmented_assignment_expression"):
        return (_base_of(part(node, "left")),)
    return (_base_of(part(node, "argument")),) if node.type == "update_expression" else ()


def _base_of(node: Node) -> str:
    """Return `list` of `list[0]` and of `list.length`."""
    while node.type in ("member_expression", "subscript_expression"):
        node = part(node, "object")
    return text_of(node)


def _find_fickle(root: Node, functions: Mapping[str, Function]) -> frozenset[str]:
    """Return names whose values can't be followed: what statements of their own in FindProxyForURL do not set."""
    names = {name for function in functions.values() if function.name != ENTRY for name in changed_in(function)}
    for node, parent, is_nested in _walk_with_parents(root):
        if node.type == "call_expression" and part(node, "function").type == "member_expression":
            method = part(node, "function")
            if text_of(part(method, "property")) in _MUTATORS:
                names.add(_base_of(part(method, "object")))
        for name in _changed_by(node):
            target = node.child_by_field_name("left") or node.child_by_field_name("argument")
            is_step = node.type == "update_expression"
            allowed = ("expression_statement", "for_statement") if is_step else ("expression_statement",)
            is_part = target is not None and target.type != "identifier"
            if is_part or is_nested or parent not in allowed:
                names.add(name)
    return frozenset(names)


def _walk_with_parents(root: Node) -> Iterator[tuple[Node, str, bool]]:
    """Yield every node with the type of what it stands in, and whether that is in a function inside of another."""
    pending = [(root, "", 0)]
    while pending:
        node, parent, functions = pending.pop()
        yield node, parent, functions > 1
        functions += node.type in _FUNCTIONS
        pending += [(child, node.type, functions) for child in reversed(node.children)]


def always_returns(node: Node) -> bool:
    """Whether `node` ends the function on every path."""
    if node.type == "return_statement":
        return True
    if node.type == "statement_block":
        return any(always_returns(child) for child in statements_of(node))
    if node.type == "if_statement":
        other = node.child_by_field_name("alternative")
        return other is not None and always_returns(part(node, "consequence")) and always_returns(_unwrap(other))
    return False


def _unwrap(node: Node) -> Node:
    """Return the statement in an `else`."""
    return statements_of(node)[0] if node.type == "else_clause" else node


def alternative_of(node: Node) -> Node | None:
    """Return the statement after `else`, if there is one."""
    found = node.child_by_field_name("alternative")
    return None if found is None else _unwrap(found)


def _walk(root: Node, skipped: Collection[str] = ()) -> Iterator[Node]:
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending += [child for child in reversed(node.children) if child.type not in skipped]


def has_jumps(node: Node) -> bool:
    """Whether a loop's body may leave its round early, other than by `return`."""
    return any(found.type in ("break_statement", "continue_statement") for found in _walk(node, _FUNCTIONS))
