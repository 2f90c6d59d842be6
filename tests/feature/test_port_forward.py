"""Ports of pods, forwarded through the API server: bytes arrive as they are, and what keeps them from it is said."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import HOME, pod
from tests.support.control_plane import PATIENCE, wait_until
from xds.errors import UnreachableError
from xds.kubernetes.connection import connect
from xds.kubernetes.control_planes import ControlPlanes
from xds.kubernetes.forward import Forward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xds.kubernetes.connection import ApiServer

POD, PORT = "egress-xds-0", 18001
REPLICA = {"app.kubernetes.io/name": "egress-xds"}


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Run a server that says what it hears, and ends when it hears the end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(2**16):
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


@pytest.fixture
async def cluster() -> AsyncIterator[ApiServerEmulation]:
    async with echoing() as port, ApiServerEmulation() as server:
        server.put(pod(HOME, POD, REPLICA))
        server.listening[HOME, POD, PORT] = port
        yield server


@pytest.fixture
async def api(cluster: ApiServerEmulation, tmp_path: Path) -> AsyncIterator[ApiServer]:
    found = await connect(cluster.write_kubeconfig(tmp_path))
    yield found
    await found.close()


async def exchange(address: str, data: bytes) -> bytes:
    """Say `data` at an address and return as much of the answer."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        answer = await reader.readexactly(len(data))
        writer.close()
    return answer


async def test_bytes_arrive_as_they_are_over_one_connection_after_the_other(api: ApiServer) -> None:
    forward = Forward(api, HOME, POD, PORT)
    address = await forward.open()

    for size in (1, 32 * 1024, 3_000_000):
        data = os.urandom(size)
        assert await exchange(address, data) == data

    assert forward.problem == ""
    await forward.close()


async def test_the_address_is_gone_when_the_forward_is_closed(api: ApiServer) -> None:
    forward = Forward(api, HOME, POD, PORT)
    address = await forward.open()
    await forward.close()

    with pytest.raises(ConnectionRefusedError):
        await exchange(address, b"x")


async def test_who_may_not_forward_ports_is_told_what_to_allow(cluster: ApiServerEmulation, api: ApiServer) -> None:
    cluster.forbid("*", "pods/portforward")

    with pytest.raises(UnreachableError, match="allow the verbs get and create of pods/portforward in the namespace"):
        await Forward(api, HOME, POD, PORT).open()


async def test_a_pod_that_is_gone_is_named(api: ApiServer) -> None:
    with pytest.raises(UnreachableError, match="the pod egress-system/other is not there any more"):
        await Forward(api, HOME, "other", PORT).open()


async def test_a_port_that_nobody_listens_on_is_told_in_the_words_of_the_cluster(api: ApiServer) -> None:
    forward = Forward(api, HOME, POD, 9)
    address = await forward.open()

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await exchange(address, b"x")

    await wait_until(lambda: "connection refused" in forward.problem)
    assert "port 9 of the pod egress-system/egress-xds-0" in forward.problem
    await forward.close()


async def test_credentials_that_were_refused_are_read_anew(cluster: ApiServerEmulation, tmp_path: Path) -> None:
    cluster.faults.tokens = {"new"}
    api = await connect(cluster.write_kubeconfig(tmp_path, token="old"))
    cluster.write_kubeconfig(tmp_path, token="new")
    forward = Forward(api, HOME, POD, PORT)

    assert await exchange(await forward.open(), b"hello") == b"hello"

    await forward.close()
    await api.close()


async def test_replicas_are_found_by_their_label_and_come_and_go(cluster: ApiServerEmulation, api: ApiServer) -> None:
    cluster.put(pod(HOME, "other", {"app": "web"}))
    cluster.put({**pod(HOME, "egress-xds-1", REPLICA), "status": {"phase": "Pending"}})
    async with ControlPlanes(api, HOME, PORT) as replicas:
        first = await replicas.find()
        cluster.listening[HOME, "egress-xds-1", PORT] = cluster.listening[HOME, POD, PORT]
        cluster.put(pod(HOME, "egress-xds-1", REPLICA))
        both = await replicas.find()
        cluster.remove("Pod", HOME, POD)
        last = await replicas.find()

        assert list(first) == [POD]
        assert both.keys() == {POD, "egress-xds-1"}
        assert both[POD] == first[POD]
        assert list(last) == ["egress-xds-1"]
        with pytest.raises(ConnectionRefusedError):
            await exchange(first[POD], b"x")


async def test_one_replica_that_there_is_no_way_to_hides_no_other(cluster: ApiServerEmulation, api: ApiServer) -> None:
    cluster.put(pod(HOME, "egress-xds-1", REPLICA))
    async with ControlPlanes(api, HOME, PORT) as replicas:
        assert list(await replicas.find()) == [POD]
        assert "egress-xds-1 is not there any more" in replicas.problems["egress-xds-1"]


async def test_a_namespace_without_replicas_is_named_with_the_remedy(api: ApiServer) -> None:
    async with ControlPlanes(api, "default", PORT) as replicas:
        with pytest.raises(UnreachableError, match=r"no pod of the namespace default .* --namespace"):
            await replicas.find()


async def test_who_may_not_list_pods_is_told_how_to_see_it(cluster: ApiServerEmulation, api: ApiServer) -> None:
    cluster.forbid("list", "pods")
    async with ControlPlanes(api, HOME, PORT) as replicas:
        with pytest.raises(UnreachableError, match="kubectl auth can-i list pods -n egress-system"):
            await replicas.find()
        with pytest.raises(UnreachableError, match="kubectl auth can-i list pods -A"):
            await replicas.expected()


async def test_pods_with_a_sidecar_are_those_that_run_and_were_injected(
    cluster: ApiServerEmulation, api: ApiServer
) -> None:
    for number in range(1_100):
        cluster.put(pod("shop", f"web-{number}", injected="true"))
    cluster.put(pod("shop", "plain"))
    cluster.put({**pod("shop", "done", injected="true"), "status": {"phase": "Succeeded"}})
    async with ControlPlanes(api, HOME, PORT) as replicas:
        found = await replicas.expected()

    assert found == {f"web-{number}.shop" for number in range(1_100)}
