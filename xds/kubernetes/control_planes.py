"""
The replicas of the control plane in a cluster, for whoever asks them from outside, and the pods that have a sidecar.

Needs no more than to list pods in the control plane's namespace, and to forward ports of them. Whether the pods of
the whole cluster may be listed is a question of its own. Nothing here knows what replicas are asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from xds.errors import UnreachableError
from xds.kubernetes.asking import FORBIDDEN, UNAUTHORIZED
from xds.kubernetes.connection import METADATA_LIST, ApiError
from xds.kubernetes.forward import Forward
from xds.kubernetes.objects import INJECTED_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from xds.kubernetes.connection import ApiServer

LABEL = "app.kubernetes.io/name=egress-xds"
"""Selects the pods of the control plane."""

_RUNNING = "status.phase=Running"
_PAGE = "500"
_TIMEOUT = 30.0


class ControlPlanes:
    """The replicas in the namespace `home`, each reachable at a unix socket of this machine; a context manager."""

    def __init__(self, api: ApiServer, home: str, port: int) -> None:
        self._api = api
        self._home, self._port = home, port
        self._forwards: dict[str, Forward] = {}
        self._addresses: dict[str, str] = {}
        self.problems: Mapping[str, str] = {}
        """Which replicas there is no way to, and why; as of the last `find`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in tuple(self._forwards):
            await self._drop(name)

    async def find(self) -> Mapping[str, str]:
        """Return the path of a socket to each replica by its pod's name. Raises UnreachableError if there is none."""
        try:
            names = {name async for name, _ in self._pods(f"/api/v1/namespaces/{quote(self._home)}/pods", LABEL)}
        except ApiError as error:
            raise _explain(error, f"pods of the namespace {self._home}", f"-n {self._home}") from error
        if not names:
            raise UnreachableError(
                f"no pod that runs in the namespace {self._home} has the label {LABEL} of the control plane; see "
                f"`kubectl get pods -n {self._home} -l {LABEL}`, or give another namespace with --namespace"
            )
        for gone in self._forwards.keys() - names:
            await self._drop(gone)
        new = sorted(names - self._forwards.keys())
        problems = await asyncio.gather(*map(self._open, new))
        self.problems = {name: problem for name, problem in zip(new, problems, strict=True) if problem}
        return dict(self._addresses)

    async def _open(self, name: str) -> str:
        """Open the way to a replica; return why there is none."""
        forward = Forward(self._api, self._home, name, self._port)
        try:
            self._addresses[name] = await forward.open()
        except UnreachableError as error:
            return str(error)
        self._forwards[name] = forward
        return ""

    def problem_of(self, name: str) -> str:
        """Return what went wrong last on the way to a replica; empty: nothing did."""
        forward = self._forwards.get(name)
        return "" if forward is None else forward.problem

    async def expected(self) -> frozenset[str]:
        """Return the node ids of all pods that run and have a sidecar. Raises UnreachableError."""
        try:
            return frozenset(
                [
                    f"{name}.{metadata.get('namespace')}"
                    async for name, metadata in self._pods("/api/v1/pods")
                    if _is_injected(metadata)
                ]
            )
        except ApiError as error:
            raise _explain(error, "pods of all namespaces", "-A") from error

    async def _pods(self, path: str, labels: str = "") -> AsyncIterator[tuple[str, Mapping[str, object]]]:
        """Yield name and metadata of the pods that run and are not being deleted. Raises ApiError."""
        query = {"limit": _PAGE, "fieldSelector": _RUNNING} | ({"labelSelector": labels} if labels else {})
        while True:
            page = await self._api.request("GET", path, query=query, accept=METADATA_LIST, timeout=_TIMEOUT)
            items, head = page.get("items"), page.get("metadata")
            for item in items if isinstance(items, list) else ():
                metadata = item.get("metadata") if isinstance(item, dict) else None
                if isinstance(metadata, dict) and "deletionTimestamp" not in metadata:
                    yield str(metadata.get("name", "")), metadata
            more = head.get("continue") if isinstance(head, dict) else None
            if not isinstance(more, str) or not more:
                return
            query["continue"] = more

    async def _drop(self, name: str) -> None:
        self._addresses.pop(name, None)
        await self._forwards.pop(name).close()


def _is_injected(metadata: Mapping[str, object]) -> bool:
    annotations = metadata.get("annotations")
    return isinstance(annotations, dict) and annotations.get(INJECTED_ANNOTATION) == "true"


def _explain(error: ApiError, what: str, where: str) -> UnreachableError:
    if error.status in (FORBIDDEN, UNAUTHORIZED):
        return UnreachableError(f"{what} can't be listed: {error.message}; see: kubectl auth can-i list pods {where}")
    return UnreachableError(f"{what} can't be listed: {error.message}; see: kubectl get pods {where}")
