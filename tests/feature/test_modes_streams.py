"""Pods in explicit mode, over real gRPC: what they are told, what a change of mode costs, and what is said of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.feature.ads_peer import DELTA, NOW, SOTW, Peer, Served
from tests.support.policies import compile_good, policy
from tests.unit.protocol.values import CDS, LDS
from xds.admin.csds import ClientStatus
from xds.cache import SnapshotCache, World
from xds.clients import OWN_METADATA, Clients
from xds.facts import Facts
from xds.gen import discovery_pb2 as pb
from xds.gen.status_pb2 import ClientStatusRequest
from xds.names import DIRECT_BY_NAME_CLUSTER, EXPLICIT_LISTENER, OUTBOUND_LISTENER, NodeId
from xds.policy.model import Mode, Workload
from xds.server.ads import AdsServer
from xds.workloads import Pod, Workloads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds.policy.model import Policy

BOTH = pytest.mark.parametrize("variant", [SOTW, DELTA])
NODE = NodeId("web-0.shop")
CAPTURED = Pod(Workload(pod="web-0", namespace="shop"), "uid-1")
EXPLICIT = replace(CAPTURED, workload=replace(CAPTURED.workload, mode=Mode.EXPLICIT))
WITH_PORT = replace(policy(), explicit_port=15002)


@asynccontextmanager
async def serving(served: Policy, pod: Pod | None = None) -> AsyncIterator[tuple[Served, Workloads]]:
    """Serve one policy; with a pod, as in a cluster that tells of it."""
    cache, clients, workloads = SnapshotCache(), Clients(), Workloads()
    publish(cache, served)
    if pod is not None:
        workloads.update({NODE: pod})
    server = AdsServer(cache, clients, clock=lambda: NOW, workloads=None if pod is None else workloads)
    port = await server.start("127.0.0.1:0")
    try:
        yield Served(server, cache, clients, f"127.0.0.1:{port}"), workloads
    finally:
        await server.stop(0)


def publish(cache: SnapshotCache, served: Policy) -> None:
    compiled = compile_good(served, Facts())
    cache.publish(World((served,), {(served.namespace, served.name): compiled}, compiled))


async def hear(peer: Peer) -> tuple[str, set[str], set[str]]:
    """Hear one response and acknowledge it; return its type, and what is there and gone by it."""
    body = await peer.call.read()
    assert isinstance(body, bytes)
    if peer.variant == SOTW:
        state = pb.DiscoveryResponse.FromString(body)
        names = {name_of(pb.Resource.FromString(item).resource) for item in state.resources}
        told, gone = names, set[str]()
        kind, nonce = state.type_url, state.nonce
    else:
        change = pb.DeltaDiscoveryResponse.FromString(body)
        told, gone = {pb.Resource.FromString(item).name for item in change.resources}, set(change.removed_resources)
        kind, nonce = change.type_url, change.nonce
    await peer.ask(kind, node=None, nonce=nonce)
    return kind, told, gone


def name_of(body: bytes) -> str:
    """Return field 1 of a listener or a cluster: its name."""
    assert body[0] == 0x0A
    return body[2 : 2 + body[1]].decode()


@BOTH
@pytest.mark.parametrize("mode", [Mode.TRANSPARENT, Mode.EXPLICIT])
async def test_outside_a_cluster_the_node_says_in_which_mode_it_is(variant: str, mode: Mode) -> None:
    who = pb.Node(id=NODE)
    who.metadata.update({"mode": mode.value})
    kind = pb.DiscoveryRequest if variant == SOTW else pb.DeltaDiscoveryRequest
    async with serving(WITH_PORT) as (served, _), served.connect(variant) as peer:
        await peer.send(kind(node=who, type_url=LDS.type_url).SerializeToString())
        _, told, _ = await hear(peer)

    assert EXPLICIT_LISTENER in told
    assert (OUTBOUND_LISTENER in told) is (mode is Mode.TRANSPARENT)


@BOTH
async def test_in_a_cluster_the_pod_counts_and_not_what_its_envoy_claims(variant: str) -> None:
    who = pb.Node(id=NODE)
    who.metadata.update({"mode": "transparent"})
    kind = pb.DiscoveryRequest if variant == SOTW else pb.DeltaDiscoveryRequest
    async with serving(WITH_PORT, EXPLICIT) as (served, _), served.connect(variant) as peer:
        await peer.send(kind(node=who, type_url=LDS.type_url).SerializeToString())
        _, told, _ = await hear(peer)

    assert OUTBOUND_LISTENER not in told


@BOTH
async def test_a_pod_that_changes_its_mode_is_told_of_listeners_only(variant: str) -> None:
    async with serving(WITH_PORT, CAPTURED) as (served, workloads), served.connect(variant) as peer:
        await peer.ask(CDS)
        _, clusters, _ = await hear(peer)
        await peer.ask(LDS, node=None)
        _, before, _ = await hear(peer)
        workloads.update({NODE: EXPLICIT})
        kind, left, gone = await hear(peer)
        workloads.update({NODE: CAPTURED})
        again, back, _ = await hear(peer)

    assert DIRECT_BY_NAME_CLUSTER in clusters
    assert {EXPLICIT_LISTENER, OUTBOUND_LISTENER} <= before
    assert kind == again == LDS.type_url
    if variant == DELTA:
        assert (left, gone, back) == (set(), {OUTBOUND_LISTENER}, {OUTBOUND_LISTENER})
    else:
        assert (left, back) == (before - {OUTBOUND_LISTENER}, before)


@BOTH
async def test_a_policy_without_a_port_leaves_such_a_pod_without_a_listener_and_that_is_said_once(variant: str) -> None:
    with capture_logs() as logs:
        async with serving(policy(), EXPLICIT) as (served, _), served.connect(variant) as peer:
            await peer.ask(CDS)
            await hear(peer)
            await peer.ask(LDS, node=None)
            _, told, _ = await hear(peer)
            status = await ClientStatus(served.clients, served.cache).describe(ClientStatusRequest())
            publish(served.cache, WITH_PORT)
            await hear(peer)
            _, later, _ = await hear(peer)

    assert not {EXPLICIT_LISTENER, OUTBOUND_LISTENER} & told
    assert EXPLICIT_LISTENER in later
    (line,) = [line for line in logs if "has no port" in line["event"]]
    assert (line["policy"], line["node"], line["log_level"]) == ("test", NODE, "warning")
    metadata = status.config[0].node.metadata.fields
    assert metadata["mode"].string_value == "explicit"
    assert metadata[OWN_METADATA].struct_value.fields["lacks"].string_value == "explicit.port"


async def test_a_pod_that_is_captured_or_has_a_port_lacks_nothing() -> None:
    for pod in (CAPTURED, EXPLICIT):
        async with serving(WITH_PORT, pod) as (served, _), served.connect(DELTA) as peer:
            await peer.ask(LDS)
            await hear(peer)
            status = await ClientStatus(served.clients, served.cache).describe(ClientStatusRequest())
        metadata = status.config[0].node.metadata.fields
        assert ("mode" in metadata) is (pod is EXPLICIT)
        assert "lacks" not in metadata[OWN_METADATA].struct_value.fields
