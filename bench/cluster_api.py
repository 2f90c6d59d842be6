"""
The API server of `cluster`: an emulated one with as many pods as wanted, each as large as one that was recorded.

Orders come as lines of JSON on standard input: `{"change": N, "seconds": S, "relevant": bool}` changes N pods a second,
their status or their labels; the answer says how many changed and what that took of the CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fanout_load import node_id
from fanout_orders import say

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import HOME, namespace, policy

if TYPE_CHECKING:
    from tests.support.api_store import Object

_RECORDED = Path(__file__).resolve().parent.parent / "tests" / "data" / "kubernetes-1.36" / "pods-list-page-1.json"
_POLICY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: own}}
spec:
  {selector}
  proxies: {{corp: {{endpoints: [{{url: "http://192.0.2.{host}:3128"}}]}}}}
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""
_TIER = "selector: {podLabels: {matchLabels: {tier: batch}}}"


def build_objects(pods: int, namespaces: int, policies: int) -> list[Object]:
    """Build the cluster: one policy for all, one for pods of a tier, and one each for the first namespaces."""
    recorded = json.loads(_RECORDED.read_text(encoding="utf-8"))["body"]["items"][0]
    found = [namespace(HOME), *(namespace(f"ns{number:04d}") for number in range(namespaces))]
    found.append(policy(HOME, "all", _POLICY.format(host=1, selector="priority: 0")))
    found.append(policy(HOME, "tier", _POLICY.format(host=2, selector=_TIER).replace("own", "tier")))
    texts = (_POLICY.format(host=number + 3, selector="priority: 0") for number in range(policies - 2))
    found += [policy(f"ns{number:04d}", "own", text) for number, text in enumerate(texts)]
    for number in range(pods):
        name, _, of = node_id(number, namespaces).decode().rpartition(".")
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(recorded)}
        pod["metadata"] |= {"name": name, "namespace": of, "labels": {"app": f"app-{number // 10}", "tier": "web"}}
        for field in ("uid", "resourceVersion"):
            pod["metadata"].pop(field)
        found.append(pod)
    return found


async def _change(server: ApiServerEmulation, pods: list[Object], order: dict[str, int]) -> dict[str, float]:
    """Change pods evenly; of labels, back and forth."""
    loop, began, cpu, done = asyncio.get_running_loop(), time.monotonic(), time.process_time(), 0
    total = order["change"] * order["seconds"]
    while done < total:
        due = min(total, int((time.monotonic() - began) * order["change"]) + 1)
        for number in range(done, due):
            pod = pods[number % len(pods)]
            if order["relevant"]:
                labels = pod["metadata"]["labels"]
                labels["tier"] = "batch" if labels["tier"] == "web" else "web"
            else:
                pod["status"]["podIP"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            server.put(copy.deepcopy(pod))
        done = due
        await loop.run_in_executor(None, time.sleep, 0.005)
    return {"changed": done, "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}


async def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pods", "namespaces", "policies"):
        parser.add_argument(name, type=int)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    objects = build_objects(options.pods, options.namespaces, options.policies)
    pods = [item for item in objects if item["kind"] == "Pod"]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with ApiServerEmulation() as server:
        for item in objects:
            server.put(copy.deepcopy(item))
        server.write_kubeconfig(options.directory)
        say({"port": server.port})
        while line := await reader.readline():
            say(await _change(server, pods, json.loads(line)))


if __name__ == "__main__":
    asyncio.run(main())
