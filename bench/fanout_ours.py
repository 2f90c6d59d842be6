"""
What `fanout` measures: the AdsServer of `xds serve`, with its logging, its registry and all its checks.

Only the compiler is left out: worlds are made here, of resources as large as small clusters. With `--policies`, each is
in force in a namespace of its own, and a push changes the first.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING

from fanout_orders import obey

from xds.cache import SnapshotCache, World
from xds.cli.logs import configure_logging
from xds.clients import Clients
from xds.diagnostics import Where
from xds.names import Nonce, Version
from xds.policy.model import Default, Direct, Policy
from xds.protocol.stream import Response
from xds.protocol.wire import encode_delta, encode_sotw
from xds.resources import Resource, ResourceType, build_resource
from xds.server.ads import AdsServer
from xds.server.collection import relax_collection
from xds.settings import Settings
from xds.snapshot import build_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.snapshot import Snapshot

_BODY = 120
"""Bytes of a resource, about as many as a small cluster has."""


class _Blob:
    """A message that is already serialised."""

    def __init__(self, *words: object) -> None:
        self._body = "/".join(map(str, words)).encode().ljust(_BODY, b".")

    def __bytes__(self) -> bytes:
        return self._body


def build_clusters(count: int, owner: int = 0) -> list[Resource]:
    """Build clusters that stay as they are."""
    names = (f"cluster-{number:04d}" for number in range(count))
    return [build_resource(ResourceType.CLUSTER, name, _Blob(name, owner)) for name in names]


def change(clusters: list[Resource], number: int) -> Snapshot:
    """Build the snapshot of `clusters` whose first differs with `number`, and of a listener."""
    first = build_resource(ResourceType.CLUSTER, clusters[0].name, _Blob(clusters[0].name, "change", number))
    listener = build_resource(ResourceType.LISTENER, "egress", _Blob("egress"))
    return build_snapshot([first, *clusters[1:], listener])


def floor_answers(variant: str, resources: int) -> list[bytes]:
    """Return what the floor is to say: clusters and listeners, and the push: SotW all clusters, delta the changed."""
    before, after = change(clusters := build_clusters(resources), 0), change(clusters, 1)
    pushed = tuple(after.of(ResourceType.CLUSTER).values())
    return [
        _encode(variant, ResourceType.CLUSTER, before.of(ResourceType.CLUSTER).values(), "1"),
        _encode(variant, ResourceType.LISTENER, before.of(ResourceType.LISTENER).values(), "2"),
        _encode(variant, ResourceType.CLUSTER, pushed if variant == "sotw" else pushed[:1], "3"),
    ]


def _encode(variant: str, kind: ResourceType, resources: Iterable[Resource], nonce: str) -> bytes:
    response = Response(kind, Nonce(nonce), Version("0123456789abcdef"), tuple(resources))
    return encode_sotw(response) if variant == "sotw" else encode_delta(response)


class Ours:
    """The AdsServer, and the worlds that it is given."""

    def __init__(self, resources: int, policies: int) -> None:
        self._cache = SnapshotCache()
        self._server = AdsServer(self._cache, Clients(), clock=time.time)
        self._clusters = build_clusters(resources)
        default = Default(action=Direct(), http_action=Direct())
        self._policies = tuple(
            Policy(name="only", namespace=f"ns{number:04d}", default=default, where=Where("bench"))
            for number in range(policies)
        )
        self._snapshots = {
            (policy.namespace, policy.name): change(build_clusters(resources, owner), 0)
            for owner, policy in enumerate(self._policies)
        }
        self._changes = 0
        self.prepare()
        self.push()

    async def start(self) -> int:
        """Listen on a free port of loopback and return it."""
        return await self._server.start("127.0.0.1:0")

    def prepare(self) -> None:
        """Make the next world, off the clock."""
        self._changes += 1
        changed = change(self._clusters, self._changes)
        snapshots = {**self._snapshots, ("ns0000", "only"): changed} if self._policies else {}
        self._world = World(candidates=self._policies, snapshots=snapshots, refuse_all=changed)

    def push(self) -> None:
        """Give the next world to everybody."""
        self._cache.publish(self._world)


async def main() -> None:
    """Serve what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("resources", type=int)
    parser.add_argument("--policies", type=int, default=0)
    options = parser.parse_args()
    configure_logging(Settings())
    ours = Ours(options.resources, options.policies)
    relax_collection()
    await obey(ours)


if __name__ == "__main__":
    asyncio.run(main())
