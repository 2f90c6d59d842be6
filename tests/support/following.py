"""A reflector that runs beside a test, impatient, with everything that it told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xds.kubernetes.connection import connect
from xds.kubernetes.reflector import Collection, ObjectKey, Patience, Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from tests.support.api_server import ApiServerEmulation
    from xds.kubernetes.connection import ApiServer

PODS = Collection("/api/v1/pods")
IMPATIENT = Patience(page=3, answer=0.4, silence=0.4, denied=0.05, first=0.02, longest=0.1)
DEADLINE = 10.0


def pod(name: str, namespace: str = "a", **labels: str) -> dict[str, Any]:
    """Return a pod that runs."""
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {}, "status": {"phase": "Running"}}


def labels_of(item: Mapping[str, Any]) -> str | None:
    """Reduce to the label `v`, "" if there is none; `skip` is of no interest, `odd` of no known shape."""
    value = str((item["metadata"].get("labels") or {}).get("v", ""))
    if value == "odd":
        raise ValueError(value)
    return None if value == "skip" else value


@dataclass
class Following:
    """What runs: `told` is every call of `changed`."""

    reflector: Reflector[str]
    told: list[Mapping[ObjectKey, str | None]] = field(default_factory=list)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds. Raises TimeoutError."""
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
                await asyncio.sleep(0.01)

    @property
    def names(self) -> dict[str, str]:
        """The items by name, of whatever namespace."""
        return {name: value for (_, name), value in self.reflector.items.items()}


@asynccontextmanager
async def following(
    api: ApiServer,
    collection: Collection = PODS,
    reduce: Callable[[Mapping[str, Any]], str | None] = labels_of,
    patience: Patience = IMPATIENT,
    *,
    waits: bool = True,
) -> AsyncIterator[Following]:
    """Run a reflector; `waits`: until it has read everything, and watches."""
    told: list[Mapping[ObjectKey, str | None]] = []
    reflector = Reflector(api, collection, reduce, told.append, patience=patience)
    found = Following(reflector, told)
    task = asyncio.create_task(reflector.run())
    try:
        if waits:
            await found.until(lambda: reflector.is_synced and reflector.watches)
        yield found
        assert not task.done() or task.exception() is None, "run never ends by itself"
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def connection(kubeconfig: Path | None, context: str = "") -> AsyncIterator[ApiServer]:
    """Connect, and end all connections afterwards."""
    api = await connect(kubeconfig, context)
    try:
        yield api
    finally:
        await api.close()


@asynccontextmanager
async def connected(server: ApiServerEmulation, directory: Path) -> AsyncIterator[ApiServer]:
    """Connect to a server as a kubeconfig says."""
    async with connection(server.write_kubeconfig(directory)) as api:
        yield api
