"""Every response names the replica that sent it, and no version depends on that name."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.feature.ads_peer import METHODS, SOTW, request, world
from tests.support.control_plane import METHOD, PATIENCE, SETTINGS, running_control_plane
from tests.unit.protocol.values import CDS, LDS, resource
from xds.cache import SnapshotCache
from xds.clients import Clients
from xds.errors import SettingsError
from xds.gen import discovery_pb2 as pb
from xds.server.ads import AdsServer
from xds.settings import read_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.feature.ads_peer import Call

POLICY = "httpProxy: http://192.0.2.1:3128\nhttpsProxy: http://192.0.2.1:3128\n"


async def ask(address: str, method: str, body: bytes) -> bytes:
    """Send one request and return the response."""
    async with asyncio.timeout(PATIENCE), grpc.aio.insecure_channel(address) as channel:
        call: Call = channel.stream_stream(method)()
        await call.write(body)
        answer = await call.read()
        call.cancel()
    assert isinstance(answer, bytes)
    return answer


async def ask_replica(identifier: str, variant: str) -> bytes:
    """Ask a server of this name for its clusters."""
    cache = SnapshotCache()
    cache.publish(world(resource(CDS, "a"), resource(LDS, "l")))
    server = AdsServer(cache, Clients(), clock=lambda: 0.0, identifier=identifier)
    port = await server.start("127.0.0.1:0")
    try:
        return await ask(f"127.0.0.1:{port}", METHODS[variant], request(variant, CDS.type_url))
    finally:
        await server.stop(0)


@pytest.mark.parametrize("variant", sorted(METHODS))
async def test_replicas_tell_the_same_but_for_their_names(variant: str) -> None:
    kind = pb.DiscoveryResponse if variant == SOTW else pb.DeltaDiscoveryResponse
    told = [kind.FromString(await ask_replica(name, variant)) for name in ("replica-0", "replica-1")]

    assert [item.control_plane.identifier for item in told] == ["replica-0", "replica-1"]
    for item in told:
        item.ClearField("control_plane")
    assert told[0] == told[1]


@pytest.mark.parametrize(("given", "shown"), [("replica-7", "replica-7"), ("", socket.gethostname())])
async def test_the_setting_names_the_replica_and_the_host_does_otherwise(
    tmp_path: Path, given: str, shown: str
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    async with running_control_plane(tmp_path, replace(SETTINGS, identifier=given)) as running:
        body = pb.DeltaDiscoveryRequest(node=pb.Node(id="web-0.shop"), type_url=CDS.type_url).SerializeToString()
        answer = pb.DeltaDiscoveryResponse.FromString(await ask(running.address, METHOD, body))

    assert answer.control_plane.identifier == shown


@pytest.mark.parametrize("text", ["a" * 254, "zwei\nZeilen", "ä"])
def test_a_name_that_no_log_can_show_on_a_line_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--identifier"):
        read_settings({"identifier": text}, {})
