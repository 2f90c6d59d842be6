"""What no linter counts: sizes, blind excepts, and a reason beside each suppression."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 600
LONGEST_FUNCTION = 60
BLIND_EXCEPTS = 2
"""Around compiling in the reconcile loop, and at the edge of the process."""

SUPPRESSION = re.compile(r"#\s*(?:ruff:\s*)?(?:noqa|type: ignore|pragma: no (?:cover|branch))\b(?P<rest>.*)$")
REASON = re.compile(r"^(?::\s*[A-Z0-9]+(?:,\s*[A-Z0-9]+)*|\[[a-z, -]+\])?\s*(?:-|--|—|#|:|;)\s*\w.{7,}")


def sources(*roots: str) -> list[Path]:
    """Return the Python files that people wrote below `roots`."""
    files = [path for root in roots for path in (ROOT / root).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in files if "gen" not in path.relative_to(ROOT).parts)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function of a file with its length in lines, its docstring not counted."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
            yield f"{path}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1 - docstring


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line of a file that holds a comment, from its number sign."""
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), start=1):
        if "#" in line:
            yield number, line[line.index("#") :]


@pytest.mark.parametrize("path", sources("xds"), ids=str)
def test_a_file_and_its_functions_are_short_enough_to_read(path: Path) -> None:
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())

    too_long = [name for name, length in functions(path) if length > LONGEST_FUNCTION]

    assert lines <= LONGEST_FILE
    assert too_long == []


def is_blind(node: ast.AST) -> TypeGuard[ast.ExceptHandler]:
    """Whether `node` catches everything and keeps it; cleaning up and raising again is not blind."""
    if not isinstance(node, ast.ExceptHandler) or isinstance(node.body[-1], ast.Raise):
        return False
    return node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"})


def test_a_blind_except_stands_at_two_places_at_most() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path in sources("xds")
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if is_blind(node)
    ]

    assert len(found) <= BLIND_EXCEPTS, found


def test_each_suppression_of_a_rule_says_why() -> None:
    silent = [
        f"{path}:{number}: {match.group()}"
        for path in sources("xds", "tests", "bench")
        if path.parts[:2] != ("tests", "house")
        for number, comment in comments(path)
        if (match := SUPPRESSION.search(comment)) and not REASON.match(match["rest"])
    ]

    assert silent == []
