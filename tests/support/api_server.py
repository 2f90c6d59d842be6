"""
An API server on a loopback port, for tests: truthful about what this project asks, and failing when told to.

In a test's own loop::

    async with ApiServerEmulation() as server:
        server.put(pod("a", "checkout-0"))                       # without HTTP; creates or replaces
        api = await connect(server.write_kubeconfig(tmp_path))   # or plain HTTP against server.url
        server.compact()                                         # old resource versions are answered with 410
        await server.go_away(); …; await server.come_back()      # connections are refused, the store stays
        server.faults.silent = True                              # requests are taken and never answered
        server.refuse(429, retry_after=1, times=2)               # and so on: `Faults`, `forbid`, `tokens`

As a process, with the same switches through `POST /emulation`::

    with emulation_process(tmp_path, *objects) as process:  # `process.url`, `process.kubeconfig`
        process.tell(compact=True)  # away=2.5 (seconds), silent=True, tokens=[…], …

`python -m tests.support.api_server --port 0 --address-file F [objects.yaml…]` is that process: F gets the URL, and
`F.kubeconfig` a kubeconfig; many objects are read faster from `.json`, as a list. Objects are created, changed and
deleted by plain HTTP as with a real server; namespaces need not exist. `server.requests` tells what was asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml
from aiohttp import web

from tests.support.api_admission import admit, is_asked
from tests.support.api_port_forward import PORT_FORWARD, forward_port
from tests.support.api_requests import (
    Renderer,
    Target,
    is_partial_wanted,
    parse_path,
    render_head,
    render_partial,
    selector,
)
from tests.support.api_store import KINDS, Change, Object, Refused, Resource, Store, managed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

_END, _BREAK = object(), object()
_VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.2", "platform": "linux/amd64"}
_ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass
class Faults:
    """What goes wrong, until it is set back."""

    silent: bool = False
    """Requests are taken and never answered."""
    silent_watches: bool = False
    """Watches begin and then never send a byte."""
    bookmark_interval: float = 60.0
    """Seconds."""
    longest_watch: float = 3600.0
    """Seconds after which a watch ends, whatever it asked for."""
    absent: set[str] = field(default_factory=set)
    """Resources (plural) that this server does not have."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Verb and resource, as `("list", "pods")`; `*` is every verb."""
    forbidden_everywhere: set[tuple[str, str]] = field(default_factory=set)
    """The same, but only for requests about all namespaces at once."""
    user: str = "system:serviceaccount:egress-system:egress-xds"
    """Who is refused, in the texts of 403."""
    tokens: set[str] | None = None
    """The bearer tokens that are accepted; None: nobody is asked for one."""


@dataclass(frozen=True)
class Seen:
    """One request that came in."""

    verb: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(eq=False)
class _Watcher:
    resource: Resource
    queue: asyncio.Queue[object] = field(default_factory=asyncio.Queue)


class ApiServerEmulation:
    """The server; a context manager that listens while it is entered."""

    def __init__(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.store = Store(told=self._tell)
        self.faults = Faults()
        self.reviews: dict[str, Object] = {}
        """Bearer token → the `status` of its TokenReview, as recorded; a token that is not here is invalid."""
        self.jwks: Object = {"keys": []}
        self.listening: dict[tuple[str, str, int], int] = {}
        """Namespace, name and port of a pod → the loopback port where that is, for those who forward ports."""
        self.requests: list[Seen] = []
        self.port = port
        self._tls = tls
        self._refusals: list[tuple[int, float | None, int | None]] = []
        self._watchers: set[_Watcher] = set()
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def is_watched(self) -> bool:
        """Whether a watch runs."""
        return bool(self._watchers)

    async def __aenter__(self) -> Self:
        await self.come_back()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.go_away()

    # --- what a test arranges

    def put(self, item: Object) -> Object:
        """Store an object as it is given, status and all; it replaces what is there."""
        resource = KINDS[item.get("apiVersion", "v1"), item["kind"]]
        namespace = item["metadata"].get("namespace", "default") if resource.is_namespaced else ""
        return self.store.put(resource, namespace, item)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, by its kind (`Pod`, `ConfigMap`, …)."""
        resource = next(resource for resource in KINDS.values() if resource.kind == kind)
        self.store.delete(resource, (namespace, name))

    def compact(self) -> None:
        """Forget the history: older resource versions and pages get 410. Watches that run go on."""
        self.store.compact()

    def rewind(self, version: int) -> None:
        """Let the resource version be an older one, as after a restore from backup; objects stay, watches break."""
        self.store.version = self.store.oldest = version
        self.store.history.clear()
        self.break_watches()

    def expire_watches(self) -> None:
        """End all watches in good order."""
        self._send_all(_END)

    def break_watches(self) -> None:
        """Reset the connections of all watches."""
        self._send_all(_BREAK)

    def inject(self, data: bytes) -> None:
        """Send these bytes to all watches."""
        self._send_all(data)

    def refuse(self, status: int, *, retry_after: float | None = None, times: int | None = 1) -> None:
        """Answer the next requests with this status; `times` None: until `relent`."""
        self._refusals.append((status, retry_after, times))

    def relent(self) -> None:
        """Refuse no more."""
        self._refusals.clear()

    def forbid(self, verb: str, resource: str) -> None:
        """Answer 403 to `list`, `watch`, `get`, … of a resource; `*` is every verb."""
        self.faults.forbidden.add((verb, resource))

    async def go_away(self) -> None:
        """Break all connections and refuse new ones; what is stored stays."""
        self.break_watches()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            server = runner.server
            for connection in server.connections if server else ():
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def come_back(self) -> None:
        """Listen, on the same port as before."""
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def write_kubeconfig(self, directory: Path, *, token: str = "", namespace: str = "") -> Path:
        """Write a kubeconfig and return its path."""
        path = directory / "kubeconfig"
        path.write_text(render_kubeconfig(self.url, token=token, namespace=namespace), encoding="utf-8")
        return path

    def count(self, verb: str, resource: str = "") -> int:
        """Return how many requests of a verb (`list`, `watch`, `get`, …) there were, of one resource or all."""
        return sum(seen.verb == verb and (not resource or f"/{resource}" in seen.path) for seen in self.requests)

    # --- requests

    def _send_all(self, what: object) -> None:
        for watcher in self._watchers:
            watcher.queue.put_nowait(what)

    def _tell(self, change: Change) -> None:
        for watcher in self._watchers:
            if watcher.resource == change.resource:
                watcher.queue.put_nowait(change)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/emulation":
            return await self._control(request)
        target = parse_path(request.path)
        verb = _verb(request, target)
        self.requests.append(Seen(verb, request.path, dict(request.query), dict(request.headers)))
        try:
            await self._fail(request, verb, target)
            if target is None:
                return self._answer_other(request)
            if target.subresource == PORT_FORWARD:
                return await forward_port(request, target, self.listening)
            if verb == "watch":
                return await self._watch(request, target)
            body = await request.read()
            item, is_dry_run = _read(body) if body else {}, "dryRun" in request.query
            if is_asked(self.store, verb, target, request.content_type):
                item = await admit(self.store, target, item, is_dry_run=is_dry_run)
                if is_dry_run:
                    return _respond(item, 201)
            code, answer = self._answer(request, verb, target, item)
            return _respond(answer, code)
        except Refused as refused:
            wait = {} if refused.retry_after is None else {"Retry-After": f"{refused.retry_after:g}"}
            return _respond(refused.status, refused.code, wait)

    async def _fail(self, request: web.BaseRequest, verb: str, target: Target | None) -> None:
        faults = self.faults
        while faults.silent:  # noqa: ASYNC110  # tests set it as they set the other faults
            await asyncio.sleep(0.02)
        if self._refusals:
            status, wait, times = self._refusals.pop(0)
            if times is None or times > 1:
                self._refusals.insert(0, (status, wait, None if times is None else times - 1))
            rest: Object = {} if wait is None else {"details": {"retryAfterSeconds": int(wait)}}
            raise Refused(status, *_REFUSALS.get(status, ("InternalError", "Internal error")), retry_after=wait, **rest)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if faults.tokens is not None and (scheme.lower() != "bearer" or token not in faults.tokens):
            raise Refused(401, "Unauthorized", "Unauthorized")
        if target is None:
            return
        plural, group = target.resource.plural, target.resource.group
        if target.subresource == PORT_FORWARD:
            plural = f"{plural}/{PORT_FORWARD}"
        if plural in faults.absent:
            raise Refused(404, "NotFound", "the server could not find the requested resource", details={})
        forbidden = faults.forbidden | (set() if target.namespace else faults.forbidden_everywhere)
        if forbidden & {(verb, plural), ("*", plural)}:
            named = f' "{target.name}"' if target.name else ""
            scope = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
            details = ({"name": target.name} if target.name else {}) | ({"group": group} if group else {})
            raise Refused(
                403,
                "Forbidden",
                f'{plural}{"." if group else ""}{group}{named} is forbidden: User "{faults.user}" cannot'
                f' {verb} resource "{plural}" in API group "{group}" {scope}',
                details={**details, "kind": plural},
            )

    def _answer(self, request: web.BaseRequest, verb: str, target: Target, body: Object) -> tuple[int, Object]:
        resource, namespace, query = target.resource, target.namespace, request.query
        key = (namespace, target.name)
        manager = query.get("fieldManager") or request.headers.get("User-Agent", "").partition("/")[0] or "unknown"
        match verb:
            case "list":
                items, metadata = self.store.list(resource, namespace, selector(query), query)
                return 200, _list(resource, items, metadata, is_partial=is_partial_wanted(request))
            case "get":
                item = self.store.get(resource, key)
                return 200, render_partial(item) if is_partial_wanted(request) else item
            case "create" if resource.plural == "tokenreviews":
                metadata = {"managedFields": [managed(manager, "Update", resource, {"spec": body["spec"]})]}
                review = {"metadata": metadata, "spec": body["spec"], "status": self._review(body)}
                return 201, {**render_head(resource), **review}
            case "create":
                return 201, self.store.create(resource, namespace, body, manager=manager)
            case "update":
                return 200, self.store.replace(resource, key, body, subresource=target.subresource)
            case "patch":
                return self._patch(request, target, body, manager)
            case "delete":
                gone = self.store.delete(resource, key)
                if resource.plural in {"pods", "namespaces"}:
                    return 200, gone
                details = {"name": target.name, "kind": resource.plural, "uid": gone["metadata"]["uid"]}
                status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
                return 200, status
            case _:
                raise Refused(
                    405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
                )

    def _patch(self, request: web.BaseRequest, target: Target, body: Object, manager: str) -> tuple[int, Object]:
        key = (target.namespace, target.name)
        match request.content_type:
            case "application/apply-patch+yaml":
                force = request.query.get("force") == "true"
                is_new = key not in self.store.objects.get(target.resource, {})
                item = self.store.apply(target.resource, key, body, manager=manager, force=force)
                return 201 if is_new else 200, item
            case "application/merge-patch+json" | "application/strategic-merge-patch+json":
                return 200, self.store.merge(target.resource, key, body, subresource=target.subresource)
            case other:
                raise Refused(
                    415, "UnsupportedMediaType", f"the body of the request was in an unknown format - {other}"
                )

    def _review(self, body: Object) -> Object:
        spec = body["spec"]
        status = self.reviews.get(spec.get("token", ""))
        if status is None:
            return {"user": {}, "error": "invalid bearer token"}
        own, asked = status.get("audiences", []), spec.get("audiences") or []
        if asked and status.get("authenticated") and not set(own) & set(asked):
            texts = [json.dumps(audiences) for audiences in (own, asked)]
            error = f"[invalid bearer token, token audiences {texts[0]} is invalid for the target audiences {texts[1]}]"
            return {"user": {}, "error": error}
        return status

    def _answer_other(self, request: web.BaseRequest) -> web.Response:
        match request.path:
            case "/version":
                return _respond(_VERSION)
            case "/healthz" | "/livez" | "/readyz":
                return web.Response(text="ok")
            case "/openid/v1/jwks":
                return _respond(self.jwks)
            case "/.well-known/openid-configuration":
                return _respond({"issuer": _ISSUER, "jwks_uri": f"{self.url}/openid/v1/jwks"})
            case _:
                raise Refused(404, "NotFound", "the server could not find the requested resource", details={})

    # --- watches

    async def _watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        watcher = _Watcher(target.resource)
        self._watchers.add(watcher)
        try:
            events = self._first_events(request, target)
            await response.prepare(request)
            if self.faults.silent_watches:
                await asyncio.Event().wait()
            for event in events:
                await _write(response, event)
            if not (events and events[-1]["type"] == "ERROR"):
                await self._follow(request, response, watcher, target)
        except ConnectionError:
            pass
        finally:
            self._watchers.discard(watcher)
        return response

    def _first_events(self, request: web.BaseRequest, target: Target) -> list[Object]:
        asked, render = request.query.get("resourceVersion", ""), Renderer(request, target)
        if asked in {"", "0"}:
            items, metadata = self.store.list(target.resource, target.namespace, selector(request.query), {})
            events = [render.event("ADDED", item) for item in items]
            if request.query.get("sendInitialEvents") == "true":
                events.append(render.bookmark(metadata["resourceVersion"], {"k8s.io/initial-events-end": "true"}))
            return events
        if not asked.isdecimal():
            message = f'resourceVersion: Invalid value: "{asked}": strconv.ParseUint: parsing "{asked}": invalid syntax'
            raise Refused(400, "BadRequest", message)
        try:
            return list(filter(None, map(render.change, self.store.since(int(asked)))))
        except Refused as refused:
            return [{"type": "ERROR", "object": refused.status}]

    async def _follow(
        self, request: web.BaseRequest, response: web.StreamResponse, watcher: _Watcher, target: Target
    ) -> None:
        loop, render, faults = asyncio.get_running_loop(), Renderer(request, target), self.faults
        end = loop.time() + min(float(request.query.get("timeoutSeconds") or 1800), faults.longest_watch)
        has_bookmarks = request.query.get("allowWatchBookmarks") in {"true", "1"}
        asked = request.query.get("resourceVersion", "")
        start = int(asked) if asked.isdecimal() else 0
        due = loop.time() + faults.bookmark_interval
        while True:
            wait = min(end, due) - loop.time() if has_bookmarks else end - loop.time()
            try:
                async with asyncio.timeout(wait):
                    what = await watcher.queue.get()
            except TimeoutError:
                # As a real server: one that follows from a version of the future gets nothing at all.
                if has_bookmarks and self.store.version >= start:
                    await _write(response, render.bookmark(str(self.store.version)))
                due = loop.time() + faults.bookmark_interval
                if loop.time() >= end:
                    return
                continue
            if what is _END:
                return
            if what is _BREAK:
                if request.transport is not None:
                    request.transport.abort()
                return
            if isinstance(what, bytes):
                await response.write(what)
            elif isinstance(what, Change) and what.version > start and (event := render.change(what)) is not None:
                await _write(response, event)

    # --- the process

    async def _control(self, request: web.BaseRequest) -> web.Response:
        for name, value in (await request.json()).items():
            match name:
                case "compact" | "expire_watches" | "break_watches" | "relent":
                    getattr(self, name)()
                case "rewind":
                    self.rewind(int(value))
                case "refuse":
                    self.refuse(**value)
                case "away":
                    asyncio.get_running_loop().call_soon(self._leave_for, float(value))
                case "jwks" | "reviews":
                    setattr(self, name, value)
                case "tokens" | "absent" | "forbidden" if value is not None:
                    setattr(self.faults, name, {tuple(v) if isinstance(v, list) else v for v in value})
                case _:
                    assert hasattr(self.faults, name), name
                    setattr(self.faults, name, value)
        return _respond({})

    def _leave_for(self, seconds: float) -> None:
        async def leave() -> None:
            await self.go_away()
            await asyncio.sleep(seconds)
            await self.come_back()

        self._leaving = asyncio.create_task(leave())


_REFUSALS = {
    410: ("Expired", "The resourceVersion for the provided watch is too old."),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "request did not complete within the allotted timeout"),
}


def _read(body: bytes) -> Object:
    try:
        found: Object = json.loads(body)
    except ValueError:
        found = yaml.safe_load(body)
    return found


def _read_objects(file: Path) -> list[Object]:
    text = file.read_text(encoding="utf-8")
    found = json.loads(text) if file.suffix == ".json" else yaml.safe_load_all(text)
    return [item for item in found if item]


def _verb(request: web.BaseRequest, target: Target | None) -> str:
    if target is None:
        return "get"
    if request.method == "GET":
        is_watch = request.query.get("watch") in {"1", "true"}
        return "watch" if is_watch else "get" if target.name else "list"
    verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    return verbs.get(request.method, request.method)


def _list(resource: Resource, items: list[Object], metadata: Object, *, is_partial: bool) -> Object:
    if is_partial:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        return {**head, "metadata": metadata, "items": list(map(render_partial, items))}
    bare = [{name: value for name, value in item.items() if name not in {"kind", "apiVersion"}} for item in items]
    return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata, "items": bare}


def _respond(body: Object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, headers=headers, content_type="application/json", body=json.dumps(body, separators=(",", ":"))
    )


async def _write(response: web.StreamResponse, event: Object) -> None:
    await response.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")


def render_kubeconfig(url: str, *, token: str = "", namespace: str = "") -> str:
    """Return a kubeconfig of one context, as JSON, which is YAML."""
    context = {"cluster": "emulation", "user": "tester"} | ({"namespace": namespace} if namespace else {})
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "emulation",
            "clusters": [{"name": "emulation", "cluster": {"server": url}}],
            "users": [{"name": "tester", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "emulation", "context": context}],
        }
    )


@dataclass(frozen=True)
class EmulationProcess:
    """A running process of this module."""

    url: str
    kubeconfig: Path
    pid: int

    def tell(self, **switches: object) -> None:
        """Set fields of `Faults`, or do `compact`, `relent`, … (True), `away` (seconds), `refuse` (a mapping)."""
        self.request("POST", "/emulation", switches)

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Object:
        """Ask, and return the decoded answer; raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(  # noqa: S310  # a loopback address
            self.url + path, data, {"Content-Type": content_type}, method=method
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310  # as above
            found: Object = json.loads(answer.read())
            return found


@contextmanager
def emulation_process(directory: Path, *objects: Object) -> Iterator[EmulationProcess]:
    """Run the emulation as a process of its own, with these objects in it."""
    manifest, address = directory / "objects.json", directory / "api-address"
    manifest.write_text(json.dumps(objects), encoding="utf-8")
    command = [sys.executable, "-m", "tests.support.api_server", "--address-file", str(address), str(manifest)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root) as process:
        try:
            deadline = time.monotonic() + 20
            while not address.exists():
                assert process.poll() is None, "the emulation ended"
                assert time.monotonic() < deadline, "the emulation does not listen"
                time.sleep(0.02)
            yield EmulationProcess(address.read_text(encoding="utf-8"), Path(f"{address}.kubeconfig"), process.pid)
        finally:
            process.terminate()


async def _serve(arguments: argparse.Namespace, objects: list[Object]) -> None:
    async with ApiServerEmulation(port=arguments.port) as server:
        for item in objects:
            server.put(item)
        _tell_address(arguments.address_file, server.url)
        await asyncio.Event().wait()


def _tell_address(file: Path, url: str) -> None:
    Path(f"{file}.kubeconfig").write_text(render_kubeconfig(url), encoding="utf-8")
    partial = Path(f"{file}.partial")
    partial.write_text(url, encoding="utf-8")
    partial.rename(file)


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--address-file", type=Path, required=True)
    parser.add_argument("objects", nargs="*", type=Path)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments, [item for file in arguments.objects for item in _read_objects(file)]))


if __name__ == "__main__":
    main()
