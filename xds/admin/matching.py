"""
Node matchers of a client status request: which clients it asks about.

Source: envoy/type/matcher/v3 (node, struct, value, string). Patterns that can't be honoured are an error, never
"matches nothing" or "matches all". Regular expressions are among them: Envoy's are RE2's, which is linear in time,
and a pattern that takes Python for ever would stop the server for everybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.struct_pb2 import Struct, Value

    from xds.gen.discovery_pb2 import Node
    from xds.gen.status_pb2 import (
        DoubleMatcher,
        NodeMatcher,
        StringMatcher,
        StructMatcher,
        ValueMatcher,
    )

_MAX_DEPTH = 16
"""How deep value matchers may be nested."""


class MatcherError(ValueError):
    """A matcher that can't be honoured. The message is meant for who asked."""


def matches_any(matchers: Iterable[NodeMatcher], node: Node) -> bool:
    """
    Tell whether one of `matchers` matches; without any, every node does ("The match follows OR semantics").

    Raises MatcherError.
    """
    results = [_matches(matcher, node) for matcher in matchers]
    return any(results) or not results


def _matches(matcher: NodeMatcher, node: Node) -> bool:
    is_id = not matcher.HasField("node_id") or _matches_string(matcher.node_id, node.id)
    # Each is evaluated, so that a matcher is refused for every node or for none.
    return all([is_id, *(_matches_struct(item, node.metadata) for item in matcher.node_metadatas)])


def _matches_struct(matcher: StructMatcher, struct: Struct) -> bool:
    if not matcher.path or not matcher.HasField("value"):
        raise MatcherError("a metadata matcher needs a path and a value")
    value: Value | None = None
    for index, segment in enumerate(matcher.path):
        fields = struct.fields if index == 0 else value.struct_value.fields if value is not None else {}
        value = fields.get(segment.key)
    return _matches_value(matcher.value, value, _MAX_DEPTH)


def _matches_value(matcher: ValueMatcher, value: Value | None, depth: int) -> bool:
    if depth == 0:
        raise MatcherError(f"value matchers may be nested {_MAX_DEPTH} deep")
    match matcher.WhichOneof("match_pattern"):
        case "list_match":
            is_list = value is not None and value.WhichOneof("kind") == "list_value"
            items = value.list_value.values if value is not None and is_list else ()
            results = [_matches_value(matcher.list_match.one_of, item, depth - 1) for item in items]
            return any(results)
        case "or_match":
            results = [_matches_value(item, value, depth - 1) for item in matcher.or_match.value_matchers]
            return any(results)
        case _:
            return _matches_scalar(matcher, value)


def _matches_scalar(matcher: ValueMatcher, value: Value | None) -> bool:
    kind = None if value is None else value.WhichOneof("kind")
    match matcher.WhichOneof("match_pattern"):
        case "null_match":
            return kind == "null_value"
        case "double_match":
            number = value.number_value if value is not None and kind == "number_value" else None
            return _matches_double(matcher.double_match, number)
        case "string_match":
            text = value.string_value if value is not None and kind == "string_value" else None
            return _matches_string(matcher.string_match, text)
        case "bool_match":
            return value is not None and kind == "bool_value" and value.bool_value == matcher.bool_match
        case "present_match":
            return (kind is not None) == matcher.present_match
        case _:
            raise MatcherError("a value matcher without a pattern that is served")


def _matches_double(matcher: DoubleMatcher, number: float | None) -> bool:
    match matcher.WhichOneof("match_pattern"):
        case "exact":
            return number == matcher.exact
        case "range":
            return number is not None and matcher.range.start <= number < matcher.range.end
        case _:
            raise MatcherError("a number matcher without a pattern")


def _matches_string(matcher: StringMatcher, text: str | None) -> bool:
    kind = matcher.WhichOneof("match_pattern")
    if kind is None or kind == "safe_regex":
        raise MatcherError("text is matched by exact, prefix, suffix or contains; regular expressions are not served")
    pattern = str(getattr(matcher, kind))
    if text is None:
        return False
    if matcher.ignore_case:
        pattern, text = pattern.lower(), text.lower()
    match kind:
        case "exact":
            return text == pattern
        case "prefix":
            return text.startswith(pattern)
        case "suffix":
            return text.endswith(pattern)
        case _:
            return pattern in text
