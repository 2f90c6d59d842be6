"""What a request to an API server names and selects, and how a watch tells of a change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.support.api_store import RESOURCES, Change, Object, Resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web


@dataclass(frozen=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str
    name: str = ""
    subresource: str = ""


class Renderer:
    """Events as one watch is told of them."""

    def __init__(self, request: web.BaseRequest, target: Target) -> None:
        self._matches = selector(request.query)
        self._is_partial = is_partial_wanted(request)
        self._target = target

    def change(self, change: Change) -> Object | None:
        """Return the event of a change, None if it is none for this watch."""
        namespace, resource = self._target.namespace, self._target.resource
        if change.resource != resource or namespace not in {"", change.last["metadata"].get("namespace", "")}:
            return None
        was = change.before is not None and self._matches(change.before)
        is_now = change.after is not None and self._matches(change.after)
        if not (was or is_now):
            return None
        kind = ("MODIFIED" if was else "ADDED") if is_now else "DELETED"
        item = change.last
        if not is_now and change.before is not None:
            version = change.last["metadata"]["resourceVersion"]
            item = {**change.before, "metadata": {**change.before["metadata"], "resourceVersion": version}}
        return self.event(kind, item)

    def event(self, kind: str, item: Object) -> Object:
        return {"type": kind, "object": render_partial(item) if self._is_partial else item}

    def bookmark(self, version: str, annotations: dict[str, str] | None = None) -> Object:
        metadata: Object = {"resourceVersion": version} | ({"annotations": annotations} if annotations else {})
        rest = {"spec": {"containers": None}, "status": {}} if self._target.resource.plural == "pods" else {}
        item = {**render_head(self._target.resource), "metadata": metadata, **rest}
        return self.event("BOOKMARK", item)


def parse_path(path: str) -> Target | None:
    """Return what a path names; None: nothing that is stored."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    match parts:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in RESOURCES:
        namespace, rest = rest[1], rest[2:]
    resource = RESOURCES.get((group, version, rest[0])) if rest else None
    if resource is None or len(rest) > 3:
        return None
    return Target(resource, namespace, *rest[1:])


def selector(query: Any) -> Callable[[Object], bool]:  # noqa: ANN401  # a multidict of aiohttp
    """Return what `labelSelector` and `fieldSelector` ask for; of fields, metadata and a few others are known."""
    labels, fields = _terms(query.get("labelSelector", "")), _terms(query.get("fieldSelector", ""))

    def matches(item: Object) -> bool:
        given = item["metadata"].get("labels") or {}
        return all(test(given.get(name)) for name, test in labels) and all(
            test(_field(item, name)) for name, test in fields
        )

    return matches


def _terms(text: str) -> list[tuple[str, Callable[[str | None], bool]]]:
    return [_term(term.strip()) for term in text.split(",") if term.strip()]


def _term(term: str) -> tuple[str, Callable[[str | None], bool]]:
    name, sign, value = re.split("(!=|==?)", term, maxsplit=1) if "=" in term else (term, "", "")
    if sign:
        return name.strip(), lambda given: (given == value.strip()) is (sign != "!=")
    if term.startswith("!"):
        return term[1:], lambda given: given is None
    return term, lambda given: given is not None


def _field(item: Object, name: str) -> str:
    value: Any = item
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def is_partial_wanted(request: web.BaseRequest) -> bool:
    return "as=PartialObjectMetadata" in request.headers.get("Accept", "")


def render_partial(item: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}


def render_head(resource: Resource) -> Object:
    return {"kind": resource.kind, "apiVersion": resource.api_version}
