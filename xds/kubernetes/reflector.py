"""
One collection of the API server, kept up to date: a list in pages, then a watch that goes on from there.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes is what this follows, and
client-go's Reflector where that leaves a choice. Each object is reduced as it arrives, so that no page of full objects
outlives the next. What is done when something fails:

- no answer, a broken connection, 429, 5xx: wait, then watch on from where it was;
- silence: a watch that says nothing, not even that it has nothing to say (a bookmark, about every minute), is given up
  and taken up again; if the server is one that sends bookmarks and sent none, the list is read anew;
- 410, a resource version of the future (504, or one that goes back: a restored backup), anything malformed, an event
  of an unknown type, any other refusal: wait, then read the list anew;
- 403 and 404: as above, seldom; a collection that is optional counts as read.

Invariant: nothing vanishes because the server is away or wrong. An object is gone when a complete list lacks it or
an event says so, and `changed` hears of it then; it never hears of a value that equals the one before.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from dataclasses import dataclass
from logging import ERROR, WARNING
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from xds.kubernetes.backoff import Backoff
from xds.kubernetes.connection import MALFORMED, METADATA_EVENTS, METADATA_LIST, SILENT, ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds.kubernetes.connection import ApiServer

T = TypeVar("T")

ObjectKey = tuple[str, str]
"""Namespace and name; the namespace of an object that is in none is empty."""

_OK = 200
_REFUSED = 400
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_NOT_FOUND = 404
_GONE = 410
_TOO_MANY = 429
_BROKEN = 500
_TOO_LARGE = "ResourceVersionTooLarge"
_DIGITS = 20
_SHORT = "ShortWatch"
_SHORT_WATCH = 1.0
"""Seconds. A watch that ends sooner and without an event is a failure, or nothing would slow the next one down."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Collection:
    """
    What to list and watch: `path` as in `/api/v1/pods` or `/api/v1/namespaces/a/secrets`, and selectors.

    `is_optional`: a server that does not have it, or does not allow it, is a server where it is empty.
    `is_metadata_only`: of each object only the metadata is wanted.
    """

    path: str
    label_selector: str = ""
    field_selector: str = ""
    is_optional: bool = False
    is_metadata_only: bool = False

    @property
    def resource(self) -> str:
        """The resource as RBAC names it, with its API group: `pods`, `leases.coordination.k8s.io`."""
        parts = self.path.strip("/").split("/")
        return f"{parts[-1]}.{parts[1]}" if parts[0] == "apis" and len(parts) > 1 else parts[-1]

    @property
    def namespace(self) -> str:
        """The namespace that it is confined to; empty: none."""
        parts = self.path.strip("/").split("/")
        return parts[parts.index("namespaces") + 1] if "namespaces" in parts[:-1] else ""

    def query(self) -> dict[str, str]:
        """Return what selects it, in every request."""
        selectors = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in selectors.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a reflector waits for what, in seconds, and how many objects a page of a list has."""

    page: int = 500
    answer: float = 30.0
    """For one page."""
    whole_list: float = 300.0
    """For a list that could not be read in pages."""
    watch: tuple[int, int] = (300, 600)
    """After which the server ends a watch; at random between the two, so that they do not end together."""
    silence: float = 150.0
    """Servers send a bookmark about every minute, so two are missing by then; a broken connection shows as nothing."""
    denied: float = 60.0
    """Before the next try where somebody has to change something first (403, 404)."""
    first: float = 0.5
    """Before the next try after one failure; each further one doubles it."""
    longest: float = 30.0


class Reflector(Generic[T]):
    """
    The objects of a collection, reduced, as of the last word of the server.

    `reduce` returns what to keep of an object, None if it is of no interest; ValueError leaves that object as it was
    before. `changed` is called once per list and per event, after `items` changed, with what differs; None: gone.
    """

    def __init__(
        self,
        api: ApiServer,
        collection: Collection,
        reduce: Callable[[Mapping[str, object]], T | None],
        changed: Callable[[Mapping[ObjectKey, T | None]], None],
        *,
        patience: Patience | None = None,
    ) -> None:
        self.collection = collection
        self.synced = asyncio.Event()
        """Set once everything was read for the first time."""
        self.problem: str | None = None
        """What keeps it from being up to date, and what helps; None: nothing."""
        self.lists = 0
        self.watches = 0
        self.events = 0
        self.errors = 0
        self.last_contact: float | None = None
        """When the server last said something, on the loop's clock; None: never."""
        self._items: dict[ObjectKey, T] = {}
        self.items: Mapping[ObjectKey, T] = MappingProxyType(self._items)
        self._api = api
        self._reduce = reduce
        self._changed = changed
        self._patience = patience or Patience()
        self._backoff = Backoff(self._patience.first, self._patience.longest)
        self._version: str | None = None
        self._verb = "list"
        self._sends_bookmarks = False
        self._objects = 0
        self._odd: set[ObjectKey] = set()
        self._logged: set[tuple[int | None, str]] = set()

    @property
    def is_synced(self) -> bool:
        """Whether everything was read at least once."""
        return self.synced.is_set()

    async def run(self) -> None:
        """Keep `items` up to date until cancelled."""
        while True:
            try:
                version = self._version
                if version is None:
                    version = await self._read_list()
                await self._read_watch(version)
            except ApiError as error:
                await asyncio.sleep(self._note_failure(error))

    async def _read_list(self) -> str:
        self._verb = "list"
        self.lists += 1
        try:
            found, version = await self._read_pages({"limit": str(self._patience.page)})
        except ApiError as error:
            # The history that the pages were read from is gone. Whole, a list needs none.
            if error.status != _GONE:
                raise
            found, version = await self._read_pages({})
        changes: dict[ObjectKey, T | None] = {key: None for key in self._items if key not in found}
        changes |= {key: value for key, value in found.items() if self._items.get(key) is not value}
        self._odd &= found.keys()
        self._version = version
        self._apply(changes)
        self.last_contact = asyncio.get_running_loop().time()
        self.synced.set()
        return version

    async def _read_pages(self, query: dict[str, str]) -> tuple[dict[ObjectKey, T], str]:
        found: dict[ObjectKey, T] = {}
        query |= self.collection.query()
        while True:
            metadata = await self._read_page(query, found)
            if not metadata.get("continue"):
                return found, _version(metadata)
            if query.get("continue") == str(metadata["continue"]):
                raise _malformed("the same page without end")
            query["continue"] = str(metadata["continue"])

    async def _read_page(self, query: dict[str, str], found: dict[ObjectKey, T]) -> Mapping[str, object]:
        """Add what a page has to `found`; its objects are gone before the next page is asked for."""
        accept = METADATA_LIST if self.collection.is_metadata_only else "application/json"
        patience = self._patience.answer if "limit" in query else self._patience.whole_list
        page = await self._api.request("GET", self.collection.path, query=query, accept=accept, timeout=patience)
        metadata, items = page.get("metadata"), page.get("items") or ()
        if not isinstance(metadata, dict) or not isinstance(items, list | tuple):
            raise _malformed("a list without items")
        for item in items:
            key, value = self._judge(item)
            if value is not None:
                found[key] = value
        return metadata

    async def _read_watch(self, version: str) -> None:
        self._verb = "watch"
        self.watches += 1
        loop = asyncio.get_running_loop()
        start, events, objects = loop.time(), self.events, self._objects
        low, high = self._patience.watch
        query = {
            **self.collection.query(),
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(low, high)),  # noqa: S311  # spreads load, hides nothing
        }
        accept = METADATA_EVENTS if self.collection.is_metadata_only else "application/json"
        stream = self._api.watch(
            self.collection.path, query, silence=self._patience.silence, accept=accept, opened=self._note_contact
        )
        try:
            async with aclosing(stream) as told:
                async for event in told:
                    self._take(event)
        except ApiError as error:
            if error.reason == SILENT and self._sends_bookmarks and self.events == events:
                self._version = None
            # What costs a list stays slow until all was well for a while.
            was_useful = self._objects > objects and _is_passing(error) and self._version is not None
            if was_useful or loop.time() - start > self._patience.longest:
                self._backoff.reset()
            raise
        if self._objects == objects and loop.time() - start < _SHORT_WATCH:
            raise ApiError(None, _SHORT, "The API server ends watches at once.")
        self._backoff.reset()

    def _take(self, event: Mapping[str, object]) -> None:
        kind, item = event.get("type"), event.get("object")
        if not isinstance(item, dict):
            raise _malformed("an event without an object")
        if kind == "ERROR":
            self._version = None
            code = item.get("code")
            raise ApiError.from_status(item, code if isinstance(code, int) else _BROKEN)
        if not isinstance(kind, str) or kind not in {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}:
            raise _malformed("an event of an unknown type")
        metadata = item.get("metadata")
        version = _version(metadata if isinstance(metadata, dict) else {})
        if self._version is not None and _is_older(version, self._version):
            raise _malformed("a resource version that goes back")
        if kind == "BOOKMARK":
            self._sends_bookmarks = True
        elif kind == "DELETED":
            key = _key(item)
            self._odd.discard(key)
            self._apply({key: None} if key in self._items else {})
        else:
            key, value = self._judge(item)
            if value is not self._items.get(key):
                self._apply({key: value})
        self._version = version
        self.events += 1
        self._objects += kind != "BOOKMARK"
        self._note_contact()

    def _judge(self, item: object) -> tuple[ObjectKey, T | None]:
        """Return what to keep of an object: the very value that is kept already, if it equals that."""
        if not isinstance(item, dict):
            raise _malformed("an object that is none")
        key = _key(item)
        kept = self._items.get(key)
        try:
            value = self._reduce(item)
        except ValueError:
            if key not in self._odd:
                _log.warning("object is not of the expected shape", path=self.collection.path, object="/".join(key))
            self._odd.add(key)
            return key, kept
        self._odd.discard(key)
        return key, kept if value == kept else value

    def _apply(self, changes: Mapping[ObjectKey, T | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self._items.pop(key, None)
            else:
                self._items[key] = value
        if changes:
            self._changed(changes)

    def _note_contact(self) -> None:
        self.last_contact = asyncio.get_running_loop().time()
        if self.problem is not None:
            self.problem = None
            self._logged.clear()
            _log.info("collection is read again", path=self.collection.path)

    def _note_failure(self, error: ApiError) -> float:
        """Return for how many seconds to leave the server alone."""
        self.errors += 1
        if not _is_passing(error):
            self._version = None
        wait = self._backoff.next(random.random(), retry_after=error.retry_after)  # noqa: S311  # as above
        is_denied = error.status in {_FORBIDDEN, _NOT_FOUND}
        if is_denied and self.collection.is_optional:
            self.synced.set()
        # These are part of the course of things: what is known is right, or will be with the next request.
        if error.status != _GONE and error.reason not in {SILENT, _SHORT}:
            self.problem = self._describe(error)
            self._log_once(error, self.problem)
        return max(wait, self._patience.denied) if is_denied else wait

    def _log_once(self, error: ApiError, problem: str) -> None:
        """Log what keeps the collection from being read: each kind of failure once until it is read again."""
        kind = (error.status, error.reason)
        if kind in self._logged:
            return
        self._logged.add(kind)
        # Nobody needs to be woken by what may be missing; what passes by itself is no error, either.
        is_error = error.status in {_UNAUTHORIZED, _FORBIDDEN} and not self.collection.is_optional
        _log.log(
            ERROR if is_error else WARNING,
            "collection can't be read",
            path=self.collection.path,
            verb=self._verb,
            resource=self.collection.resource,
            status=error.status,
            reason=error.reason,
            problem=problem,
        )

    def _describe(self, error: ApiError) -> str:
        resource, namespace = self.collection.resource, self.collection.namespace
        match error.status:
            case 403:
                role = f"a Role of the namespace {namespace}" if namespace else "a ClusterRole"
                return (
                    f"may not {self._verb} {resource}: allow `list` and `watch` of {resource} in {role} and bind it to"
                    f" this service account ({error.message})"
                )
            case 404:
                return f"the API server has no {resource}: enable that API ({error.message})"
            case 401:
                return f"the API server does not accept the credentials: renew them ({error.message})"
            case _:
                return f"can't {self._verb} {resource}: {error.message}"


def _is_passing(error: ApiError) -> bool:
    """Whether the watch can go on from where it was."""
    if _TOO_LARGE in error.causes or "Too large resource version" in error.message or error.reason == MALFORMED:
        return False
    return error.status is None or error.status in {_UNAUTHORIZED, _TOO_MANY} or error.status >= _BROKEN


def _key(item: Mapping[str, object]) -> ObjectKey:
    metadata = item.get("metadata")
    namespace, name = (metadata.get("namespace", ""), metadata.get("name")) if isinstance(metadata, dict) else ("", "")
    if not (isinstance(name, str) and name and isinstance(namespace, str)):
        raise _malformed("an object without a name")
    return namespace, name


def _version(metadata: Mapping[str, object]) -> str:
    version = metadata.get("resourceVersion")
    if not (isinstance(version, str) and version):
        raise _malformed("no resource version")
    return version


def _is_older(version: str, than: str) -> bool:
    # They are decimal numbers that can be compared (KEP-5504); from a server where they are not, nothing is concluded.
    if not (version.isdecimal() and than.isdecimal() and len(version) <= _DIGITS >= len(than)):
        return False
    return int(version) < int(than)


def _malformed(what: str) -> ApiError:
    return ApiError(_OK, MALFORMED, f"The API server sends {what}.")
