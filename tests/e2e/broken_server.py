"""
A control plane that serves good resources, then a listener that Envoy must refuse, then a good one again.

It is the project's own server on the project's own resources; only the listener between is damaged. It writes one
JSON line per change of what Envoy has acknowledged, and moves on when a line arrives on the file given.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from pathlib import Path

from xds import names
from xds.cache import SnapshotCache, World
from xds.clients import Client, Clients
from xds.compile import compile_snapshot
from xds.compile.refuse import REFUSE_ALL
from xds.facts import Facts
from xds.policy.parse import Document, parse_document
from xds.resources import Resource, ResourceType, build_resource
from xds.server.ads import AdsServer
from xds.snapshot import Snapshot, build_snapshot


class Damaged:
    """A listener message that Envoy can read and must refuse: it has no address and no filter chains."""

    def __bytes__(self) -> bytes:
        """Only the name, field 1."""
        name = names.OUTBOUND_LISTENER.encode()
        return bytes([0x0A, len(name)]) + name


def _damage(snapshot: Snapshot) -> Snapshot:
    resources = [item for kind in ResourceType for item in snapshot.of(kind).values()]
    return build_snapshot(_damage_one(item) for item in resources)


def _damage_one(resource: Resource) -> Resource:
    if resource.kind is not ResourceType.LISTENER:
        return resource
    return dataclasses.replace(build_resource(resource.kind, resource.name, Damaged()), references=resource.references)


def _listener_status(client: Client) -> dict[str, object]:
    status = client.types.get(ResourceType.LISTENER)
    if status is None:
        return {}
    nack = "" if status.nack is None else status.nack.text
    return {"acked": status.acked, "nack": nack, "is_rejected": status.is_rejected}


async def main(directory: Path, host_port: str) -> None:
    """Serve; the file `step` in `directory` says which of `good`, `damaged` and `other` is in force."""
    cache, clients = SnapshotCache(), Clients()
    await AdsServer(cache, clients, clock=time.monotonic).start(host_port)
    refuse = compile_snapshot(REFUSE_ALL, Facts()).snapshot
    assert refuse is not None
    last = ("", "")
    while True:
        step = (directory / "step").read_text(encoding="ascii")
        if step != last[0]:
            policy = "damaged" if step == "damaged" else step
            source = "good" if policy == "damaged" else policy
            parsed = parse_document(Document(source, (directory / f"{source}.yaml").read_text(encoding="utf-8")))
            snapshot = compile_snapshot(parsed.policies[0], Facts()).snapshot
            assert snapshot is not None
            served = _damage(snapshot) if step == "damaged" else snapshot
            key = (parsed.policies[0].namespace, parsed.policies[0].name)
            cache.publish(World(parsed.policies, {key: served}, refuse))
        status = json.dumps([_listener_status(client) for client in clients.connected()])
        if (step, status) != last:
            sys.stdout.write(f"{step} {status}\n")
            sys.stdout.flush()
        last = (step, status)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
