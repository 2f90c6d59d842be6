"""
What an API server stores, and how it changes: objects, one resource version for all, and a history that ends somewhere.

Pure: no network. Shapes and texts are those that a real server (1.36) answered with; `tests/data/kubernetes-1.36` has
them, and a test compares. Only what this project uses is here: patches merge mappings, lists are replaced whole.
"""

from __future__ import annotations

import copy
import json
import random
import uuid
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""
Matches = Callable[[Object], bool]

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True)
class Resource:
    """One kind of object, as discovery tells of it."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


_AUTHENTICATION, _WEBHOOKS = "authentication.k8s.io", "admissionregistration.k8s.io"
RESOURCES = {
    (resource.group, resource.version, resource.plural): resource
    for resource in (
        Resource("pods", "Pod"),
        Resource("namespaces", "Namespace", is_namespaced=False),
        Resource("nodes", "Node", is_namespaced=False),
        Resource("configmaps", "ConfigMap"),
        Resource("secrets", "Secret"),
        Resource("services", "Service"),
        Resource("serviceaccounts", "ServiceAccount"),
        Resource("events", "Event"),
        Resource("leases", "Lease", "coordination.k8s.io"),
        Resource("servicecidrs", "ServiceCIDR", "networking.k8s.io", is_namespaced=False),
        Resource("endpointslices", "EndpointSlice", "discovery.k8s.io"),
        Resource("deployments", "Deployment", "apps"),
        Resource("tokenreviews", "TokenReview", _AUTHENTICATION, is_namespaced=False),
        Resource("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", _WEBHOOKS, is_namespaced=False),
        Resource("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", _WEBHOOKS, is_namespaced=False),
    )
}
KINDS = {(resource.api_version, resource.kind): resource for resource in RESOURCES.values()}


class Refused(Exception):  # noqa: N818  # it is an answer
    """A request that is answered with a Status object."""

    def __init__(self, code: int, reason: str, message: str, **rest: Any) -> None:  # noqa: ANN401  # fields of Status
        super().__init__(message)
        self.code = code
        self.retry_after: float | None = rest.pop("retry_after", None)
        metadata = rest.pop("metadata", {})
        head = {"kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure", "message": message}
        self.status = {**head, "reason": reason, **rest, "code": code}


def not_found(plural: str, name: str) -> Refused:
    return Refused(404, "NotFound", f'{plural} "{name}" not found', details={"name": name, "kind": plural})


@dataclass(frozen=True)
class Change:
    """One step of the history; `before` is None for a new object, `after` for a deleted one's end."""

    version: int
    resource: Resource
    before: Object | None
    after: Object | None
    last: Object
    """The object as it was told of: with the version of this change."""


@dataclass
class Store:
    """Everything that is stored. `told` hears of each change."""

    told: Callable[[Change], None] = lambda _: None
    version: int = 1
    oldest: int = 1
    history: list[Change] = field(default_factory=list)
    objects: dict[Resource, dict[Key, Object]] = field(default_factory=dict)

    # --- reading

    def get(self, resource: Resource, key: Key) -> Object:
        found = self.objects.get(resource, {}).get(key)
        if found is None:
            raise not_found(resource.plural, key[1])
        return found

    def list(
        self, resource: Resource, namespace: str, matches: Matches, query: Mapping[str, str]
    ) -> tuple[list[Object], dict[str, Any]]:
        """Return a page, and the metadata of the list."""
        asked, limit = query.get("resourceVersion", ""), int(query.get("limit") or 0)
        if asked.isdecimal() and int(asked) > self.version:
            raise self._too_large(asked)
        version, after = self.version, ("", "")
        if token := query.get("continue"):
            version, after = self._read_token(token, namespace)
        found = [(key, item) for key, item in sorted(self._as_of(resource, version).items()) if key > after]
        page = [(key, item) for key, item in found if namespace in {"", key[0]} and matches(item)]
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(page) > limit:
            page, rest = page[:limit], page[limit:]
            last = page[-1][0]
            start = f"/{last[1]}\0" if namespace or not resource.is_namespaced else f"{last[0]}/{last[1]}\0"
            metadata["continue"] = _token(version, start)
            if not (query.get("labelSelector") or query.get("fieldSelector")):
                metadata["remainingItemCount"] = len(rest)
        return [item for _, item in page], metadata

    def since(self, version: int) -> Iterable[Change]:
        """Return what happened after a version. Raises Refused: that long ago is forgotten."""
        if version < self.oldest:
            raise Refused(410, "Expired", f"too old resource version: {version} ({self.version})")
        return [change for change in self.history if change.version > version]

    # --- writing

    def create(self, resource: Resource, namespace: str, given: Object, *, manager: str) -> Object:
        """Store a new object, with what a server adds to it."""
        return self._create(resource, namespace, given, manager, is_whole=False)

    def put(self, resource: Resource, namespace: str, given: Object) -> Object:
        """Store an object as it is given, status and all, in one change."""
        before = self.objects.get(resource, {}).get((namespace, given["metadata"]["name"]))
        if before is None:
            return self._create(resource, namespace, given, "test", is_whole=True)
        item = copy.deepcopy(given)
        if "status" in before:
            item.setdefault("status", before["status"])
        return self._update(resource, before, item)

    def replace(self, resource: Resource, key: Key, given: Object, *, subresource: str = "") -> Object:
        before = self.get(resource, key)
        asked = given.get("metadata", {}).get("resourceVersion")
        if not asked and resource.plural == "leases":
            message = f'leases.{resource.group} "{key[1]}" is invalid: metadata.resourceVersion: Invalid value: 0:'
            raise Refused(422, "Invalid", f"{message} must be specified for an update")
        self._check_version(resource, before, asked)
        item = copy.deepcopy(given)
        if subresource:
            item = {**copy.deepcopy(before), subresource: item.get(subresource, {})}
        elif "status" in before:
            item["status"] = before["status"]
        return self._update(resource, before, item)

    def merge(self, resource: Resource, key: Key, patch: Object, *, subresource: str = "") -> Object:
        before = self.get(resource, key)
        self._check_version(resource, before, patch.get("metadata", {}).get("resourceVersion"))
        patch = {subresource: patch.get(subresource, {})} if subresource else patch
        return self._update(resource, before, _merged(before, patch))

    def apply(self, resource: Resource, key: Key, given: Object, *, manager: str, force: bool) -> Object:
        """Server-side apply: what this manager applied before and does not now is gone, unless another owns it too."""
        before = self.objects.get(resource, {}).get(key)
        if before is None:
            return self.create(resource, key[0], given, manager=manager)
        own = {name: value for name, value in given.items() if name not in {"kind", "apiVersion"}}
        own["metadata"] = {k: v for k, v in given.get("metadata", {}).items() if k in {"annotations", "labels"}}
        entry = managed(manager, "Apply", resource, own)
        entries = before["metadata"].get("managedFields", [])
        old = [e for e in entries if (e["manager"], e["operation"]) == (manager, "Apply")]
        others = [e for e in entries if e not in old]
        held = [_paths(e["fieldsV1"]) for e in others]
        taken = {path for path in _paths(entry["fieldsV1"]) if any(path in paths for paths in held)}
        differing = {path for path in taken if _at(before, path) != _at(given, path)}
        if differing and not force:
            message = f"Apply failed with {len(differing)} conflict: conflict with {others[0]['manager']!r}"
            raise Refused(409, "Conflict", message)
        item = _merged(before, own)
        for path in {p for e in old for p in _paths(e["fieldsV1"])} - _paths(entry["fieldsV1"]):
            if not any(path in paths for paths in held):
                _remove(item, path)
        if old and old[0]["fieldsV1"] == entry["fieldsV1"]:
            entry["time"] = old[0]["time"]
        item["metadata"]["managedFields"] = [entry, *others]
        return self._update(resource, before, item, keeps_fields=True)

    def delete(self, resource: Resource, key: Key) -> Object:
        before = self.get(resource, key)
        if resource.plural == "pods":
            marked = copy.deepcopy(before)
            marked["metadata"] |= {"deletionTimestamp": _now(), "deletionGracePeriodSeconds": 0}
            marked["metadata"]["generation"] = marked["metadata"].get("generation", 1) + 1
            before = self._change(resource, before, marked)
        return self._change(resource, before, None)

    def compact(self) -> None:
        """Forget the history until now."""
        self.oldest = self.version
        self.history.clear()

    # --- inside

    def _create(self, resource: Resource, namespace: str, given: Object, manager: str, *, is_whole: bool) -> Object:
        item = copy.deepcopy(given)
        metadata = item.setdefault("metadata", {})
        if not metadata.get("name"):
            metadata["name"] = metadata.get("generateName", "") + "".join(random.choices(_LETTERS, k=5))  # noqa: S311  # hides nothing
        if resource.is_namespaced:
            metadata["namespace"] = namespace or metadata.get("namespace") or "default"
        name = metadata["name"]
        if (metadata.get("namespace", ""), name) in self.objects.get(resource, {}):
            details = {"name": name, "kind": resource.plural}
            raise Refused(409, "AlreadyExists", f'{resource.plural} "{name}" already exists', details=details)
        own = {k: v for k, v in given.items() if k not in {"kind", "apiVersion", "status"}}
        added = {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": _now(),
            "managedFields": [managed(manager, "Update", resource, own)],
        }
        metadata |= {name: value for name, value in added.items() if not is_whole or name not in metadata}
        item = {"kind": resource.kind, "apiVersion": resource.api_version} | item
        _fill_in(resource, item)
        if is_whole and "status" in given:
            item["status"] = copy.deepcopy(given["status"])
        return self._change(resource, None, item)

    def _check_version(self, resource: Resource, item: Object, asked: str | None) -> None:
        if asked and asked != item["metadata"]["resourceVersion"]:
            name, group = item["metadata"]["name"], f".{resource.group}" if resource.group else ""
            raise Refused(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {resource.plural}{group} "{name}": the object has been modified;'
                f" please apply your changes to the latest version and try again",
                details={
                    "name": name,
                    **({"group": resource.group} if resource.group else {}),
                    "kind": resource.plural,
                },
            )

    def _update(self, resource: Resource, before: Object, item: Object, *, keeps_fields: bool = False) -> Object:
        kept = ("name", "namespace", "uid", "creationTimestamp", "resourceVersion", "generation", "managedFields")
        metadata = item.setdefault("metadata", {})
        for name in kept[:-1] if keeps_fields else kept:
            metadata.pop(name, None)
            if name in before["metadata"]:
                metadata[name] = before["metadata"][name]
        item |= {"kind": resource.kind, "apiVersion": resource.api_version}
        if item == before:
            return before
        if "generation" in metadata and item.get("spec") != before.get("spec"):
            metadata["generation"] += 1
        return self._change(resource, before, item)

    def _change(self, resource: Resource, before: Object | None, item: Object | None) -> Object:
        self.version += 1
        last = copy.deepcopy(item if item is not None else before)
        assert last is not None
        last["metadata"]["resourceVersion"] = str(self.version)
        metadata = last["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        held = self.objects.setdefault(resource, {})
        if item is None:
            del held[key]
        else:
            held[key] = last
        change = Change(self.version, resource, before, None if item is None else last, last)
        self.history.append(change)
        self.told(change)
        return last

    def _as_of(self, resource: Resource, version: int) -> dict[Key, Object]:
        found = dict(self.objects.get(resource, {}))
        for change in reversed(self.history):
            if change.version <= version:
                break
            if change.resource == resource:
                key = (change.last["metadata"].get("namespace", ""), change.last["metadata"]["name"])
                if change.before is None:
                    found.pop(key)
                else:
                    found[key] = change.before
        return found

    def _read_token(self, token: str, namespace: str) -> tuple[int, Key]:
        try:
            held = json.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            version, start = int(held["rv"]), str(held["start"]).removesuffix("\0")
        except (ValueError, KeyError, TypeError) as error:
            message = f"invalid continue token: continue key is not valid: {error}"
            raise Refused(400, "BadRequest", message) from error
        if version < self.oldest:
            fresh = {"continue": _token(self.version, f"{start}\0")}
            raise Refused(
                410,
                "Expired",
                "The provided continue parameter is too old to display a consistent list result. You can start a new"
                " list without the continue parameter, or use the continue token in this response to retrieve the"
                " remainder of the results.",
                metadata=fresh,
            )
        head, _, name = start.rpartition("/")
        return version, (head or namespace, name)

    def _too_large(self, asked: str) -> Refused:
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        return Refused(
            504,
            "Timeout",
            f"Timeout: Too large resource version: {asked}, current: {self.version}",
            details={"causes": [cause], "retryAfterSeconds": 1},
            retry_after=1,
        )


def _fill_in(resource: Resource, item: Object) -> None:
    """Add what a real server adds to a new object, as far as somebody looks at it."""
    metadata = item["metadata"]
    match resource.plural:
        case "pods":
            metadata.setdefault("generation", 1)
            item.setdefault("spec", {}).setdefault("serviceAccountName", "default")
            item["spec"].setdefault("serviceAccount", item["spec"]["serviceAccountName"])
            item["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        case "namespaces":
            metadata["labels"] = {"kubernetes.io/metadata.name": metadata["name"], **metadata.get("labels", {})}
            item |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        case "events":
            empty: Object = {"source": {}, "firstTimestamp": None, "lastTimestamp": None, "eventTime": None}
            fields = {"reportingComponent": "", "reportingInstance": ""}
            item |= {name: value for name, value in (empty | fields).items() if name not in item}
        case "secrets":
            item.setdefault("type", "Opaque")
            plain = item.pop("stringData", {})
            encoded = {name: b64encode(text.encode()).decode() for name, text in plain.items()}
            if encoded or "data" in item:
                item["data"] = {**item.get("data", {}), **encoded}
        case "services":
            item.setdefault("status", {"loadBalancer": {}})
        case _:
            pass


def _merged(base: Object, patch: Mapping[str, Any]) -> Object:
    """RFC 7396."""
    result = copy.deepcopy(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            old = result.get(name)
            result[name] = _merged(old if isinstance(old, dict) else {}, value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def managed(manager: str, operation: str, resource: Resource, own: Object) -> Object:
    """Return the entry of `managedFields` for what a manager wrote."""
    named = {"name", "namespace", "uid", "resourceVersion"}
    own = {**own, "metadata": {name: v for name, v in own.get("metadata", {}).items() if name not in named}}
    return {
        "manager": manager,
        "operation": operation,
        "apiVersion": resource.api_version,
        "time": _now(),
        "fieldsType": "FieldsV1",
        "fieldsV1": _fields({name: value for name, value in own.items() if value}, marks=operation == "Update"),
    }


def _fields(value: Mapping[str, Any], *, marks: bool, depth: int = 0) -> Object:
    fields: Object = {}
    for name, inner in value.items():
        if inner is None:
            continue
        deeper = (
            _fields(inner, marks=marks, depth=depth + 1) if isinstance(inner, dict) and name != "involvedObject" else {}
        )
        is_map = name in {"labels", "annotations", "data"}
        fields[f"f:{name}"] = {".": {}, **deeper} if marks and is_map else deeper
    return fields


def _paths(fields: Object, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, inner in fields.items():
        if name == ".":
            continue
        path = (*above, name.removeprefix("f:"))
        found |= _paths(inner, path) or {path}
    return found


def _at(item: Any, path: tuple[str, ...]) -> Any:  # noqa: ANN401  # any JSON
    for name in path:
        item = item.get(name) if isinstance(item, dict) else None
    return item


def _remove(item: Object, path: tuple[str, ...]) -> None:
    above = _at(item, path[:-1])
    if isinstance(above, dict):
        above.pop(path[-1], None)
        if not above and len(path) > 1:
            _remove(item, path[:-1])


def _token(version: int, start: str) -> str:
    held = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start}, separators=(",", ":"))
    return urlsafe_b64encode(held.encode()).decode().rstrip("=")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
