"""What thousands of pods cost in memory, while they are read and afterwards."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xds.kubernetes.connection import ApiServer
from xds.kubernetes.objects import PodObject, reduce_pod
from xds.kubernetes.reflector import Collection, Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

DATA = Path(__file__).parents[2] / "data" / "kubernetes-1.36"
PODS, PAGE = 3_000, 500


class Pages(ApiServer):
    """Lists pods as a server does, each page decoded from its own text; a watch of it never says anything."""

    def __init__(self) -> None:
        page = json.loads((DATA / "pods-list-page-1.json").read_text(encoding="utf-8"))["body"]
        pod = page["items"][0]
        pod["metadata"] |= {"name": "NAME", "namespace": "NAMESPACE", "uid": "UID"}
        pod["metadata"]["labels"]["pod-template-hash"] = "HASH"
        self._pod = json.dumps(pod)
        self.size = len(self._pod)

    async def request(  # as the real one
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **_: object
    ) -> dict[str, Any]:
        assert query is not None
        assert (method, path) == ("GET", "/api/v1/pods")
        first = int(query.get("continue", "0"))
        last = first + int(query["limit"])
        items = ",".join(map(self._render, range(first, last)))
        metadata = {"resourceVersion": "1"} | ({"continue": str(last)} if last < PODS else {})
        found: dict[str, Any] = json.loads(f'{{"metadata":{json.dumps(metadata)},"items":[{items}]}}')
        return found

    async def watch(self, *_: object, **__: object) -> AsyncGenerator[dict[str, object]]:  # as above
        await asyncio.Event().wait()
        yield {}

    def _render(self, number: int) -> str:
        text = self._pod.replace("NAMESPACE", f"namespace-{number % 200}").replace("HASH", f"hash-{number % 1000}")
        return text.replace("NAME", f"workload-{number % 1000}-{number:05}").replace("UID", f"uid-{number:032}")


async def test_a_pod_costs_less_than_a_kilobyte_and_full_objects_do_not_pile_up() -> None:
    api = Pages()
    reflector: Reflector[PodObject] = Reflector(api, Collection("/api/v1/pods"), reduce_pod, lambda _: None)
    gc.collect()
    tracemalloc.start()
    try:
        task = asyncio.create_task(reflector.run())
        async with asyncio.timeout(120):
            await reflector.synced.wait()
        _, highest = tracemalloc.get_traced_memory()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    task.cancel()
    await asyncio.wait([task])
    assert len(reflector.items) == PODS
    per_pod, page = kept / PODS, PAGE * api.size
    assert per_pod < 1024, f"{per_pod:.0f} bytes"
    assert highest - kept < 9 * page, "the text of one page and its objects; of all they would be six times that"
