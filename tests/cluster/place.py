"""
The place of one test in a cluster: namespaces of its own, what is made in them, and a control plane that follows it.

Objects come and go through the API server, as an operator's do, by server-side apply. A pod's phase is written through
its status and no scheduler knows it, so that nothing here needs a node. Invariant: what is made carries `LABEL`, with
the run as its value, and is noted before it is asked for, so that whatever becomes of a test, it can be removed.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.cluster import CLUSTER_SETTINGS, namespace, pod
from tests.support.control_plane import PATIENCE, Running
from xds.app import build_control_plane, run_control_plane
from xds.cluster import Cluster
from xds.flags import HostPort
from xds.kubernetes.connection import ApiError, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from tests.support.api_store import Object
    from xds.kubernetes.connection import ApiServer
    from xds.settings import Settings

LABEL = "egress-xds/test"
MANAGER = "egress-xds-test"
_WEBHOOKS = {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", *_WEBHOOKS}
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
NOT_FOUND, CONFLICT = 404, 409


@dataclass(frozen=True)
class Run:
    """One run of the suite; `name` is the value of `LABEL`."""

    name: str
    kubeconfig: Path
    is_emulation: bool


@dataclass
class Place:
    """`home` is the control plane's namespace, `shop` that of an application; `token` sets names apart."""

    api: ApiServer
    run: Run
    token: str
    home: str
    shop: str
    made: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """Those of a control plane that lives here."""
        return replace(CLUSTER_SETTINGS, namespace=self.home)

    def node(self, name: str) -> str:
        """Return the node id of a pod in the application's namespace."""
        return f"{name}.{self.shop}"

    def need_real_server(self, what: str) -> None:
        """Skip the test if the API server is only an emulation, which does not have `what`."""
        if self.run.is_emulation:
            pytest.skip(f"the emulation has no {what}")

    async def ask(self, method: str, path: str, body: object = None, **query: str) -> Object:
        """Ask as an administrator and return the answer. Raises ApiError."""
        kind = APPLY if "fieldManager" in query else MERGE if method == "PATCH" else "application/json"
        found: Object = await self.api.request(method, path, query=query, body=body, content_type=kind, timeout=30)
        return found

    async def apply(self, item: Object, **query: str) -> Object:
        """Make an object, or make it what is given; a status is written through the status. Raises ApiError."""
        item = deepcopy(item)
        status = item.pop("status", None)
        item["metadata"].setdefault("labels", {})[LABEL] = self.run.name
        path = path_of(item)
        if path not in self.made and "dryRun" not in query:
            self.made.append(path)
        found = await self.ask("PATCH", path, item, fieldManager=MANAGER, force="true", **query)
        return found if status is None else await self.ask("PATCH", f"{path}/status", {"status": status})

    async def run_pod(self, name: str, labels: Mapping[str, str] | None = None, *, phase: str = "Running") -> Object:
        """Make a pod of the application that runs, as far as anybody can tell; or change its labels or phase."""
        item = pod(self.shop, name, labels, account="web")
        item["spec"]["schedulerName"] = MANAGER
        return await self.apply({**item, "status": {"phase": phase}})

    async def remove(self, kind: str, of: str, name: str) -> None:
        """Delete an object of the core group, by its kind and namespace. Raises ApiError."""
        metadata = {"namespace": of, "name": name}
        await self.ask("DELETE", path_of({"apiVersion": "v1", "kind": kind, "metadata": metadata}))

    async def metadata(self, of: str, config_map: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return the annotations and the labels of a ConfigMap."""
        found = (await self.ask("GET", f"/api/v1/namespaces/{of}/configmaps/{config_map}"))["metadata"]
        return found.get("annotations", {}), found.get("labels", {})

    async def clear(self) -> None:
        """Delete what was made, the newest first."""
        for path in reversed(self.made):
            await delete(self.api, path)

    async def request_token(self, of: str, account: str, audience: str = "", bound_to: Object | None = None) -> str:
        """Return a token of a service account, of the usual audience unless one is given, bound to a pod if one is."""
        spec: Object = {"audiences": [audience] if audience else [], "expirationSeconds": 3600}
        if bound_to is not None:
            metadata = bound_to["metadata"]
            spec["boundObjectRef"] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        found = await self.ask("POST", f"/api/v1/namespaces/{of}/serviceaccounts/{account}/token", body)
        return str(found["status"]["token"])

    def write_kubeconfig(self, directory: Path, token: str) -> Path:
        """Write a kubeconfig of the same API server for whoever has `token`, and return its path."""
        given = yaml.safe_load(self.run.kubeconfig.read_text(encoding="utf-8"))
        chosen = _named(given["contexts"], given["current-context"])["context"]["cluster"]
        cluster = _named(given["clusters"], chosen)
        if authority := cluster["cluster"].get("certificate-authority"):
            cluster["cluster"]["certificate-authority"] = str(self.run.kubeconfig.parent / authority)
        context = {"name": "own", "context": {"cluster": chosen, "user": "own", "namespace": self.home}}
        users = [{"name": "own", "user": {"token": token}}]
        path = directory / "kubeconfig-of-a-token"
        head = {"apiVersion": "v1", "kind": "Config", "current-context": "own"}
        path.write_text(json.dumps({**head, "clusters": [cluster], "users": users, "contexts": [context]}))
        return path


@asynccontextmanager
async def open_place(run: Run) -> AsyncIterator[Place]:
    """Make the namespaces of a test, and remove everything that was made afterwards."""
    token = token_hex(4)
    async with connected(run.kubeconfig) as api:
        place = Place(api, run, token, home=f"egress-xds-home-{token}", shop=f"egress-xds-shop-{token}")
        try:
            # The control plane's is as strict as the manifests say; that of an application as the cluster likes it.
            await place.apply(namespace(place.home, {"pod-security.kubernetes.io/enforce": "restricted"}))
            await place.apply(namespace(place.shop, {"pod-security.kubernetes.io/enforce": "privileged"}))
            account = {"name": "web", "namespace": place.shop}
            await place.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
            yield place
        finally:
            await place.clear()


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[ApiServer]:
    """Connect to the API server of a kubeconfig."""
    api = await connect(kubeconfig)
    try:
        yield api
    finally:
        await api.close()


@asynccontextmanager
async def following(kubeconfig: Path, settings: Settings) -> AsyncIterator[Running]:
    """Run a control plane in this process until the block ends; it listens by the time that it begins."""
    cluster = Cluster(await connect(kubeconfig), settings)
    parts = build_control_plane(cluster.inputs, settings, clock=time.time, cluster=cluster)
    stop, addresses = asyncio.Event(), asyncio.Queue[HostPort]()
    task = asyncio.create_task(run_control_plane(parts, stop, addresses.put_nowait))
    try:
        async with asyncio.timeout(PATIENCE):
            address = await addresses.get()
        yield Running(parts, str(address), stop, task)
    finally:
        stop.set()
        await asyncio.wait([task])


async def until(condition: Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> None:
    """Wait until `condition` holds, which asks the API server. Raises TimeoutError."""
    async with asyncio.timeout(patience):
        while not await condition():  # noqa: ASYNC110  # what is waited for happens elsewhere
            await asyncio.sleep(0.1)


def path_of(item: Object) -> str:
    """Return the path of an object; kinds whose plural is odd are not known here."""
    version, kind, metadata = item["apiVersion"], item["kind"], item["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    scope = "" if kind in CLUSTER_WIDE else f"/namespaces/{metadata['namespace']}"
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    return f"{root}{scope}/{plural.lower()}/{metadata['name']}"


async def delete(api: ApiServer, path: str) -> None:
    """Delete an object that may be gone, or about to go, already. Raises ApiError."""
    try:
        await api.request("DELETE", path, timeout=30)
    except ApiError as error:
        if error.status not in {NOT_FOUND, CONFLICT}:
            raise


def _named(items: list[Object], name: str) -> Object:
    return next(item for item in items if item["name"] == name)
