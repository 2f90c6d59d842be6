"""Objects of a cluster as an operator would write them, and a control plane in the test's process that follows them."""

from __future__ import annotations

import time
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.control_plane import SETTINGS, Running, running
from xds.app import build_control_plane
from xds.cluster import Cluster
from xds.kubernetes.connection import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.support.api_server import ApiServerEmulation
    from tests.support.api_store import Object
    from xds.app import ControlPlane
    from xds.settings import Settings

HOME = "egress-system"
CLUSTER_SETTINGS = replace(SETTINGS, kubernetes=True, namespace=HOME, token_source="off")


def namespace(name: str, labels: Mapping[str, str] | None = None, **annotations: str) -> Object:
    """Return a Namespace."""
    metadata = {"name": name, "labels": {"kubernetes.io/metadata.name": name, **(labels or {})}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {**metadata, "annotations": _annotations(annotations)}}


def pod(
    of: str, name: str, labels: Mapping[str, str] | None = None, *, account: str = "default", **annotations: str
) -> Object:
    """Return a running Pod of the namespace `of`, with a sidecar if it is `injected`; annotations of `egress-xds/`."""
    metadata = {"name": name, "namespace": of, "labels": dict(labels or {}), "annotations": _annotations(annotations)}
    names = ("app", "egress-envoy") if annotations.get("injected") == "true" else ("app",)
    spec = {"serviceAccountName": account, "containers": [{"name": name, "image": name} for name in names]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Running"}}


def policy(of: str, name: str, text: str, key: str = "policy.yaml") -> Object:
    """Return a ConfigMap with one policy document."""
    metadata = {"name": name, "namespace": of, "labels": {"egress-xds/policy": "true"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {key: text}}


def secret(of: str, name: str, **entries: str) -> Object:
    """Return a Secret; `_` in a key stands for a dot."""
    data = {key.replace("_", "."): b64encode(value.encode()).decode() for key, value in entries.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": of}, "data": data}


def _annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    return {f"egress-xds/{name}": value for name, value in annotations.items()}


@asynccontextmanager
async def following(
    server: ApiServerEmulation, directory: Path, settings: Settings = CLUSTER_SETTINGS
) -> AsyncIterator[Running]:
    """Run a control plane that follows the cluster behind `server` until the block ends."""
    async with running(await build(server, directory, settings)) as started:
        yield started


async def build(server: ApiServerEmulation, directory: Path, settings: Settings) -> ControlPlane:
    """Build a control plane that follows the cluster behind `server`."""
    cluster = Cluster(await connect(server.write_kubeconfig(directory)), settings)
    return build_control_plane(cluster.inputs, settings, clock=time.time, cluster=cluster)
