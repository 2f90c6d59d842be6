"""
The Secrets that policies name: those and no others, each watched by its name.

They are handed on as if they were files (`xds.facts.File`), under the names that policies give them:
`secret:<namespace>/<name>/<key>`; the key `login` stands for `user:password` made of `username` and `password`, as in
Secrets of type kubernetes.io/basic-auth. Nothing here judges what a Secret holds. Invariants: no content leaves this
module but as `FileContent`, and a Secret that can't be read any more is what it was.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.facts import FileContent, FileProblem
from xds.kubernetes.objects import SecretObject, reduce_secret
from xds.kubernetes.reflector import Collection, Reflector
from xds.kubernetes.signal import Signal
from xds.policy.secrets import LOGIN_KEY, read_secret_path

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from xds.facts import File
    from xds.kubernetes.connection import ApiServer
    from xds.kubernetes.reflector import ObjectKey
    from xds.policy.secrets import SecretPart

_COUNTERS = ("lists", "watches", "events", "errors")
"""What reflectors count."""
_MOST = 100
"""Secrets of one namespace that are watched at the same time."""
_PATIENCE = 1.0
"""Seconds that a Secret which is named for the first time has to arrive before policies are judged without it."""
_LOOK = 0.02
"""Seconds from one look to the next whether it can't."""


@dataclass(frozen=True, slots=True)
class _Watched:
    reflector: Reflector[SecretObject]
    tasks: tuple[asyncio.Task[None], ...]

    @property
    def is_settled(self) -> bool:
        """Whether it was read, or can't be."""
        return self.reflector.is_synced or self.reflector.problem is not None

    def cancel(self) -> None:
        """Watch it no more."""
        for task in self.tasks:
            task.cancel()


class ClusterSecrets:
    """The Secrets that were asked for last, kept an eye on. Create it inside a running loop."""

    def __init__(self, api: ApiServer, *, patience: float = _PATIENCE) -> None:
        """`patience` is in seconds."""
        self._api = api
        self._patience = patience
        self._watched: dict[ObjectKey, _Watched] = {}
        self._past = Counter[str]()
        self._changed = Signal()

    async def collect(self, paths: frozenset[str]) -> Mapping[str, File]:
        """Return what each of `paths` holds, and watch exactly the Secrets of these from now on; never raises."""
        wanted = {path: read_secret_path(path) for path in sorted(paths)}
        keys = _limit((part.namespace, part.name) for part in wanted.values() if part is not None)
        for key in self._watched.keys() - keys:
            gone = self._watched.pop(key)
            gone.cancel()
            self._past.update({name: getattr(gone.reflector, name) for name in _COUNTERS})
        for key in keys - self._watched.keys():
            self._watched[key] = self._watch(key)
        await self._wait_for(keys)
        return {path: _no_secret() if part is None else self._find(part) for path, part in wanted.items()}

    @property
    def reflectors(self) -> tuple[Reflector[SecretObject], ...]:
        """Those of all Secrets that are watched now."""
        return tuple(watched.reflector for watched in self._watched.values())

    def count(self) -> Mapping[str, int]:
        """Return how many lists, watches, events and errors there were, of all Secrets that were ever watched."""
        return {name: self._past[name] + sum(getattr(one, name) for one in self.reflectors) for name in _COUNTERS}

    async def changes(self) -> AsyncIterator[None]:
        """Yield whenever a Secret is no longer what `collect` returned; never raises."""
        while True:
            await self._changed.wait()
            yield

    async def close(self) -> None:
        """Watch nothing any more."""
        tasks = [task for watched in self._watched.values() for task in watched.tasks]
        for watched in self._watched.values():
            watched.cancel()
        self._watched.clear()
        if tasks:
            await asyncio.wait(tasks)

    def _watch(self, key: ObjectKey) -> _Watched:
        namespace, name = key
        collection = Collection(f"/api/v1/namespaces/{namespace}/secrets", field_selector=f"metadata.name={name}")
        reflector = Reflector(self._api, collection, reduce_secret, lambda _: self._changed.set())
        return _Watched(
            reflector, (asyncio.create_task(reflector.run()), asyncio.create_task(self._announce(reflector)))
        )

    async def _announce(self, reflector: Reflector[SecretObject]) -> None:
        """Tell that it was read: that there is none is news, too."""
        await reflector.synced.wait()
        self._changed.set()

    async def _wait_for(self, keys: set[ObjectKey]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while not all(self._watched[key].is_settled for key in keys) and loop.time() < deadline:  # noqa: ASYNC110  # a problem has no event
            await asyncio.sleep(_LOOK)

    def _find(self, part: SecretPart) -> File:
        key = part.namespace, part.name
        if key not in self._watched:
            return FileProblem(f"it is one of more than {_MOST} of its namespace", "name fewer; others are not read")
        reflector = self._watched[key].reflector
        secret = reflector.items.get(key)
        if secret is not None:
            return _entry(dict(secret.data), part)
        if not reflector.is_synced:
            reason = reflector.problem or "the API server has not answered yet"
            return FileProblem(f"it can't be read: {reason}", "it is read as soon as that is possible")
        return FileProblem(
            "it does not exist", f"create it: kubectl -n {part.namespace} create secret generic {part.name} …"
        )


def _limit(keys: Iterable[ObjectKey]) -> set[ObjectKey]:
    """Return the first so many Secrets of each namespace, so that no namespace has the API server asked without end."""
    by_namespace: dict[str, set[ObjectKey]] = {}
    for key in keys:
        by_namespace.setdefault(key[0], set()).add(key)
    return {key for found in by_namespace.values() for key in sorted(found)[:_MOST]}


def _entry(data: Mapping[str, str], part: SecretPart) -> File:
    is_login = part.key == LOGIN_KEY
    wanted = ("username", "password") if is_login else (part.key,)
    missing = [name for name in wanted if name not in data]
    if missing:
        hint = f"see what it has: kubectl -n {part.namespace} describe secret {part.name}"
        return FileProblem(f"it has no text under {' and '.join(map(repr, missing))}", hint)
    texts = [data[name].removesuffix("\n").removesuffix("\r") for name in wanted]
    if is_login and ":" in texts[0]:
        return FileProblem("its `username` holds a colon", "a login by name and password can't have one (RFC 7617)")
    return FileContent(":".join(texts) if is_login else data[part.key])


def _no_secret() -> FileProblem:
    return FileProblem("it is no Secret", "name a Secret with secretRef; files are not read in a cluster")
