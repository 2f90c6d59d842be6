"""
JSON and YAML of others, decoded within the bounds that policies have.

Nothing here knows a kind of source. Invariant: whatever the text, the work is a fixed multiple of it: merge keys, which
multiply, are refused, and aliases are counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.errors import SourceError
from xds.policy.findings import Findings
from xds.policy.yaml_lines import Broken, Fields, Items, Kind, Limits, Scalar, read_yaml

if TYPE_CHECKING:
    from xds.policy.yaml_lines import Node

_LIMITS = Limits(values=200_000)
"""Far above what a cluster's objects have that are imported at once."""

_NOT_YAML = "EX101"
_AMBIGUOUS = ("EX102", "EX106")
"""Keys that stand there twice, and merge keys."""

_MOST_FINDINGS = 1000
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,14}")
"""Numbers that YAML 1.1, YAML 1.2 and JSON read alike."""
_TRUE = ("true", "yes", "on", "y")


def decode(text: str, source: str) -> list[object]:
    """
    Return the documents that are not empty, as plain data.

    Raises SourceError if the text is neither JSON nor YAML, if a key is not read, or if there is too much of it.
    """
    findings = Findings(source, _MOST_FINDINGS)
    found: list[object] = []
    for document in read_yaml(text, findings, _LIMITS):
        if isinstance(document, Broken):
            problem = findings.since(0)[-1]
            place = f"{source}:{problem.where.line}"
            if problem.code == _NOT_YAML:
                raise SourceError(f"{place} is neither JSON nor YAML; correct it, or name its kind: xds import --help")
            raise SourceError(f"{place} has too much: {problem.message}; import what matters of it")
        found.append(_plain(document))
    for item in findings.since(0):
        if item.code in _AMBIGUOUS:
            raise SourceError(f"{item.where}: {item.message}; {item.hint}")
    return found


def _plain(node: Node) -> object:
    match node:
        case Fields():
            return {key: _plain(value) for key, value in node.fields.items()}
        case Items():
            return [_plain(item) for item in node.items]
        case Scalar(kind=Kind.NULL):
            return None
        case Scalar(kind=Kind.BOOLEAN):
            return node.text.lower() in _TRUE
        case Scalar(kind=Kind.INTEGER) if _DECIMAL.fullmatch(node.text):
            return int(node.text)
        case _:
            return node.text
