"""Applies patches as RFC 6902 says, written from it and from nothing of ours; `test`, `move` and `copy` are unknown."""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]
Holder = dict[str, Any] | list[Any]


def apply_patch(document: Json, patch: list[Json]) -> Json:
    """Return the document with every operation done, in order; what can't be done is a ValueError."""
    result = copy.deepcopy(document)
    for operation in patch:
        tokens = _tokens(operation["path"])
        if not tokens:
            assert operation["op"] in {"add", "replace"}
            result = copy.deepcopy(operation["value"])
            continue
        holder: Holder = result
        for token in tokens[:-1]:
            holder = holder[_index(token, len(holder) - 1)] if isinstance(holder, list) else _member(holder, token)
        _do(operation, holder, tokens[-1])
    return result


def _do(operation: Json, holder: Holder, token: str) -> None:
    match operation["op"], holder:
        case "add", list():
            holder.insert(
                len(holder) if token == "-" else _index(token, len(holder)), copy.deepcopy(operation["value"])
            )
        case "add", dict():
            holder[token] = copy.deepcopy(operation["value"])
        case "remove", list():
            del holder[_index(token, len(holder) - 1)]
        case "remove", dict():
            _member(holder, token)
            del holder[token]
        case "replace", list():
            holder[_index(token, len(holder) - 1)] = copy.deepcopy(operation["value"])
        case "replace", dict():
            _member(holder, token)
            holder[token] = copy.deepcopy(operation["value"])
        case other:
            raise ValueError(f"{other[0]} is no operation on {type(holder).__name__}")


def _tokens(pointer: str) -> list[str]:
    """Read a JSON pointer (RFC 6901)."""
    if pointer and not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is no JSON pointer")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _member(holder: Holder, token: str) -> Holder:
    if not isinstance(holder, dict) or token not in holder:
        raise ValueError(f"there is no member {token!r}")
    found: Holder = holder[token]
    return found


def _index(token: str, largest: int) -> int:
    if not token.isdecimal() or (len(token) > 1 and token.startswith("0")) or int(token) > largest:
        raise ValueError(f"{token!r} is no index up to {largest}")
    return int(token)
