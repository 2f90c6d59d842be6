"""What `dump` computes from a directory is what a server of that directory serves, byte by byte."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.any_pb2 import Any as ProtoAny
from structlog.testing import capture_logs

from tests.support.control_plane import METHOD, PATIENCE, SETTINGS, running_control_plane
from xds.cli.expected import Choice, Who, compile_expected
from xds.cli.resources import Filter, render_resources, show_compiled
from xds.cli.world import choose_place
from xds.client import Identity, fetch_resources, find_references
from xds.errors import UnreachableError
from xds.facts import Facts
from xds.gen.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node
from xds.gen.discovery_pb2 import Resource as WireResource
from xds.judge import Judge
from xds.names import NodeId
from xds.policy.model import Policy, Workload
from xds.policy.selection import select_policy
from xds.resources import ResourceType
from xds.sources.directory import read_documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    Sent = tuple[str, bytes]

SHOP = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: shop}
spec:
  selector: {namespaces: [shop], podLabels: {matchLabels: {app: web}}}
  proxies: {corp: {endpoints: [{url: "http://192.0.2.1:3128"}]}}
  rules: [{name: internal, to: {domains: [.corp.example], cidrs: [10.0.0.0/8]}, action: direct}]
  default: {action: tunnel, proxy: corp}
"""
DEFAULT = "httpProxy: http://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\n"


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "shop.yaml").write_text(SHOP)
    (tmp_path / "default.yaml").write_text(DEFAULT)
    return tmp_path


WEB = Identity(node_id=NodeId("web-0.shop"), labels=(("app", "web"),), service_account="web")


@pytest.mark.parametrize(
    ("identity", "policy"),
    [
        pytest.param(WEB, "shop", id="a pod that a policy selects by its labels"),
        pytest.param(Identity(node_id=NodeId("db-0.shop")), "default", id="a pod of the cluster-wide policy"),
    ],
)
async def test_served_bytes_are_the_compiled_bytes(policies: Path, identity: Identity, policy: str) -> None:
    judge = Judge()
    world = judge.judge(judge.parse(read_documents(policies)), Facts()).world
    pod, _, namespace = identity.node_id.rpartition(".")
    selected = select_policy(world.candidates, Workload(pod=pod, namespace=namespace, labels=identity.labels))
    assert isinstance(selected, Policy)
    assert selected.name == policy

    async with running_control_plane(policies) as running:
        fetched = (await fetch_resources(running.address, identity, within=10)).resources

    compiled = [item for kind in ResourceType for item in world.snapshots[None, policy].of(kind).values()]
    assert {kind for item in fetched if (kind := item.kind) is ResourceType.ROUTE}
    assert [(item.kind, item.name, item.version, item.any_body) for item in fetched] == [
        (item.kind, item.name, item.version, item.any_body) for item in compiled
    ]


async def test_before_redaction_an_offline_dump_is_the_bytes_that_an_envoy_reads(
    policies: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (login := tmp_path_factory.mktemp("login") / "login").write_text("me:canary")
    login.chmod(0o600)
    with_login = SHOP.replace("]}}", f"], auth: {{basic: {{file: {login}}}}}}}}}", 1)
    (policies / "shop.yaml").write_text(with_login)
    expected = await compile_expected(
        choose_place((policies,), replace(SETTINGS, resolve_timeout=0.1)),
        Choice(who=Who(node_id=WEB.node_id, labels=WEB.labels, service_account=WEB.service_account)),
    )
    offline = {(item.kind, item.name): (item.kind.type_url, item.body) for item in expected.resources}

    async with running_control_plane(policies) as running:
        online = await read_stream(running.address, offline)

    assert {kind for kind, _ in offline} == set(ResourceType) - {ResourceType.ENDPOINT}
    assert expected.remark == "policy in force: shop"
    assert online == offline
    assert any(b"canary" in body or b64encode(b"me:canary") in body for _, body in offline.values())
    assert "canary" not in render_resources(show_compiled(expected.resources, Filter()), "json")


async def read_stream(address: str, names: Iterable[tuple[ResourceType, str]]) -> dict[tuple[ResourceType, str], Sent]:
    """Read resources as an Envoy does, with Google's protobuf: type URLs and bodies."""
    node = Node(id=WEB.node_id)
    node.metadata.update({"labels": dict(WEB.labels), "serviceAccount": WEB.service_account})
    found: dict[tuple[ResourceType, str], Sent] = {}
    async with asyncio.timeout(PATIENCE), grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            METHOD,
            request_serializer=DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )()
        for kind in ResourceType:
            wanted = () if kind.allows_wildcard else [name for known, name in names if known is kind]
            if wanted or kind.allows_wildcard:
                request = DeltaDiscoveryRequest(node=node, type_url=kind.type_url, resource_names_subscribe=wanted)
                await call.write(request)
        wanted_names = set(names)
        while not wanted_names <= found.keys():
            response = await call.read()
            assert isinstance(response, DeltaDiscoveryResponse)
            kind = next(item for item in ResourceType if item.type_url == response.type_url)
            for wire in map(WireResource.FromString, response.resources):
                content = ProtoAny.FromString(wire.resource)
                found[kind, wire.name] = (content.type_url, content.value)
        call.cancel()
    return found


async def test_a_pod_that_is_told_nothing_is_explained(policies: Path) -> None:
    (policies / "a.yaml").write_text("httpProxy: [")
    async with running_control_plane(policies) as running:
        with pytest.raises(UnreachableError, match=r"says nothing to web-0.shop.*xds validate"):
            await fetch_resources(running.address, WEB, within=0.3)


async def test_a_node_that_the_server_refuses_is_explained(policies: Path) -> None:
    async with running_control_plane(policies) as running:
        with pytest.raises(UnreachableError, match=r"node id must be <pod>.<namespace>.*--node"):
            await fetch_resources(running.address, Identity(node_id=NodeId("nobody")), within=10)


async def test_an_address_where_nobody_listens_is_explained(policies: Path) -> None:
    async with running_control_plane(policies, SETTINGS) as running:
        address = running.address

    with pytest.raises(UnreachableError, match="can't be reached"):
        await fetch_resources(address, WEB, within=10)


def test_references_are_found_wherever_they_stand() -> None:
    rendered = {
        "filters": [{"typed_config": {"rds": {"route_config_name": "r", "config_source": {}}}}],
        "transport_socket": {"sds": [{"name": "s", "sds_config": {"ads": {}}}]},
        "clusters": [
            {"name": "c", "eds_cluster_config": {"eds_config": {}}},
            {"name": "d", "eds_cluster_config": {"service_name": "e"}},
        ],
    }

    assert find_references(rendered) == {
        (ResourceType.ROUTE, "r"),
        (ResourceType.SECRET, "s"),
        (ResourceType.ENDPOINT, "c"),
        (ResourceType.ENDPOINT, "e"),
    }
