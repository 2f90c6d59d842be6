"""
Keys that the policy language has words for and that this version does not serve.

None is ever ignored: each is an error that names the key and what to do meanwhile. The list below is
the whole of it; serving one means deleting its line and adding the field to its shape. Nothing here
may decide what a key that is served means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.yaml_lines import Fields, Items, Node, Scalar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.policy.findings import Findings

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A key (or one `value` of it) that is not served; `*` in `path` is any key or list item."""

    path: tuple[str, ...]
    remedy: str
    value: str | None = None


_NO_LOGIN_HERE = "write the long form, whose proxies have `auth`"

UNAVAILABLE = (
    Unavailable(("spec", "proxies", "*", "onProxyFailure"), "remove it; when the proxy fails, connections are refused"),
    Unavailable(("spec", "rules", "*", "onProxyFailure"), "remove it; when the proxy fails, connections are refused"),
    Unavailable(("spec", "default", "onProxyFailure"), "remove it; when the proxy fails, connections are refused"),
    Unavailable(("httpAuth",), _NO_LOGIN_HERE),
    Unavailable(("proxyAuth",), _NO_LOGIN_HERE),
)


def report_unavailable(root: Node, findings: Findings) -> frozenset[Path]:
    """Report every such key below `root` and return where they are."""
    found: set[Path] = set()
    for entry in UNAVAILABLE:
        for path, node in _matches(root, entry.path, ()):
            if entry.value is None:
                what = f"the key {quote(entry.path[-1])}"
            elif isinstance(node, Scalar) and node.text == entry.value:
                what = f"{quote(entry.value)} for the key {quote(entry.path[-1])}"
            else:
                continue
            findings.add("EX110", node, f"{what} is not available in this version", entry.remedy)
            found.add(path)
    return frozenset(found)


def _matches(node: Node, pattern: tuple[str, ...], path: Path) -> Iterator[tuple[Path, Node]]:
    if not pattern:
        yield path, node
        return
    for part, below in _children(node):
        if pattern[0] in ("*", part):
            yield from _matches(below, pattern[1:], (*path, part))


def _children(node: Node) -> Iterator[tuple[str | int, Node]]:
    if isinstance(node, Fields):
        yield from node.fields.items()
    elif isinstance(node, Items):
        yield from enumerate(node.items)
