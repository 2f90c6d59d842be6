"""
An API server of a few objects in memory, for tests in virtual time: what it keeps, how long it takes, when it fails.

It knows creation, replacement, merge patches, server-side apply of metadata and deletion, with resource versions and
uids, as a real one answers. What travels over HTTP is tried elsewhere.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING

from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Object = dict[str, object]

MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


class SmallApi:
    """See the module. `objects` are by path; `requests` are all that arrived."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.requests: list[tuple[str, str, object]] = []
        self.before: Callable[[], float] = lambda: 0.0
        """Seconds until a request arrives."""
        self.after: Callable[[], float] = lambda: 0.0
        """Seconds until its answer does."""
        self.refuse: Callable[[str, str], ApiError | None] = lambda _method, _path: None
        """What to answer instead of doing what is asked."""
        self._versions = 100
        self._applied: dict[tuple[str, str], set[tuple[str, str]]] = {}

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 10.0,  # noqa: ASYNC109  # as the real one
    ) -> dict[str, object]:
        del accept
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(self.before())
                answer = self._answer(method, path, dict(query or {}), copy.deepcopy(body), content_type)
                await asyncio.sleep(self.after())
        except TimeoutError:
            raise ApiError(None, "Silent", "nothing was answered in time") from None
        if isinstance(answer, ApiError):
            raise answer
        return copy.deepcopy(answer)

    def put(self, path: str, **parts: object) -> Object:
        """Keep an object as it is given."""
        metadata = parts.pop("metadata", {})
        assert isinstance(metadata, dict)
        return self._keep(path, {"metadata": {"name": path.rsplit("/", 1)[1], **metadata}, **parts})

    def metadata(self, path: str) -> dict[str, object]:
        found = self.objects[path]["metadata"]
        assert isinstance(found, dict)
        return found

    def annotations(self, path: str) -> dict[str, str]:
        found = self.metadata(path).get("annotations", {})
        assert isinstance(found, dict)
        return found

    def writes(self, method: str, part: str) -> list[object]:
        """Return the bodies of the requests of `method` whose path has `part` in it."""
        return [body for used, path, body in self.requests if used == method and part in path]

    def _answer(
        self, method: str, path: str, query: Mapping[str, str], body: object, content_type: str
    ) -> Object | ApiError:
        self.requests.append((method, path, copy.deepcopy(body)))
        if (refusal := self.refuse(method, path)) is not None:
            return refusal
        found = self.objects.get(path)
        if method == "POST":
            return self._create(path, body)
        if method == "GET" and found is None and path.rsplit("/", 1)[1] in {"leases", "events", "configmaps"}:
            return self._list(path, query.get("labelSelector", ""))
        if found is None:
            return self._absent(body, content_type)
        if method == "PUT":
            return self._replace(path, body)
        if method == "PATCH":
            return self._patch(path, body, content_type, query.get("fieldManager", ""))
        if method == "DELETE":
            del self.objects[path]
        return found

    def _absent(self, body: object, content_type: str) -> ApiError:
        if content_type == APPLY and _metadata(body).get("uid"):
            return ApiError(409, "Conflict", "uid mismatch: and no existing object was found")
        return ApiError(404, "NotFound", "not found")

    def _list(self, path: str, selector: str) -> Object:
        label, _, value = selector.partition("=")
        items = [
            found
            for key, found in self.objects.items()
            if key.rsplit("/", 1)[0] == path and (not label or _texts(_metadata(found), "labels").get(label) == value)
        ]
        return {"items": items}

    def _create(self, path: str, body: object) -> Object | ApiError:
        assert isinstance(body, dict)
        key = f"{path}/{_metadata(body)['name']}"
        if key in self.objects:
            return ApiError(409, "AlreadyExists", "already exists")
        return self._keep(key, body)

    def _replace(self, path: str, body: object) -> Object | ApiError:
        assert isinstance(body, dict)
        if _metadata(body).get("resourceVersion") != self.metadata(path)["resourceVersion"]:
            return ApiError(409, "Conflict", "the object has been modified")
        return self._keep(path, body)

    def _patch(self, path: str, body: object, content_type: str, manager: str) -> Object | ApiError:
        assert isinstance(body, dict)
        changed = copy.deepcopy(self.objects[path])
        if content_type == MERGE:
            _merge(changed, body)
            return self._keep(path, changed)
        assert content_type == APPLY
        uid = _metadata(body).get("uid")
        if uid is not None and uid != self.metadata(path)["uid"]:
            return ApiError(422, "Invalid", "metadata.uid: field is immutable")
        owned = self._applied.get((path, manager), set())
        now = {(kind, name) for kind in ("annotations", "labels") for name in _texts(_metadata(body), kind)}
        for kind, name in owned - now:
            _texts(_metadata(changed), kind).pop(name, None)
        for kind, name in now:
            _metadata(changed).setdefault(kind, {})
            _texts(_metadata(changed), kind)[name] = _texts(_metadata(body), kind)[name]
        self._applied[path, manager] = now
        return self.objects[path] if changed == self.objects[path] else self._keep(path, changed)

    def _keep(self, path: str, found: Object) -> Object:
        self._versions += 1
        metadata = _metadata(found)
        metadata.setdefault("uid", f"uid-{self._versions}")
        metadata["resourceVersion"] = str(self._versions)
        self.objects[path] = found
        return found


def _metadata(found: object) -> Object:
    assert isinstance(found, dict)
    metadata = found.setdefault("metadata", {})
    assert isinstance(metadata, dict)
    return metadata


def _texts(metadata: Mapping[str, object], kind: str) -> dict[str, str]:
    found = metadata.get(kind, {})
    assert isinstance(found, dict)
    return found


def _merge(into: Object, patch: Object) -> None:
    """RFC 7396."""
    for key, value in patch.items():
        inner = into.get(key)
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict) and isinstance(inner, dict):
            _merge(inner, value)
        else:
            into[key] = value
