"""Ports of pods, forwarded through the API server: bytes arrive as they are, and what keeps them from it is said."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING

import pytest
from aiohttp import WSMessage, WSMsgType

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import HOME, pod
from tests.support.control_plane import PATIENCE, wait_until
from xds.errors import UnreachableError
from xds.kubernetes import forward as forwarding
from xds.kubernetes.connection import connect
from xds.kubernetes.control_planes import ControlPlanes
from xds.kubernetes.forward import Forward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds.kubernetes.connection import ApiServer

POD, PORT = "egress-xds-0", 18001
REPLICA = {"app.kubernetes.io/name": "egress-xds"}


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """Run a server that says what it hears, and ends when it hears the end."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while piece := await reader.read(2**16):
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port
    for writer in writers:
        writer.transport.abort()  # what has not ended yet is no warning of a later test
    await asyncio.sleep(0)


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
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_unix_connection(address)
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

    with pytest.raises(FileNotFoundError):
        await exchange(address, b"x")
    assert not Path(address).parent.exists()


async def test_nobody_but_the_user_can_speak_with_his_rights(api: ApiServer) -> None:
    forward = Forward(api, HOME, POD, PORT)
    directory = Path(await forward.open()).parent.stat()
    await forward.close()

    assert (S_IMODE(directory.st_mode), directory.st_uid) == (0o700, os.getuid())


async def test_a_directory_where_no_socket_can_be_made_is_named(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    with pytest.raises(UnreachableError, match=r"no socket can be made in .*x .AF_UNIX path too long.*TMPDIR"):
        await Forward(api, HOME, POD, PORT).open()

    assert list(long.iterdir()) == []


async def test_nothing_is_left_behind_by_whoever_is_interrupted(api: ApiServer) -> None:
    found: list[str] = []

    async def look() -> None:
        async with ControlPlanes(api, HOME, PORT) as replicas:
            found.extend((await replicas.find()).values())
            await asyncio.Event().wait()

    looking = asyncio.create_task(look())
    await wait_until(lambda: bool(found))
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking

    assert [Path(path).parent.exists() for path in found] == [False]


async def test_more_connections_than_somebody_needs_are_ended(api: ApiServer) -> None:
    forward = Forward(api, HOME, POD, PORT)
    address = await forward.open()
    async with asyncio.timeout(PATIENCE):
        held = [await asyncio.open_unix_connection(address) for _ in range(8)]
        for reader, writer in held:
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await exchange(address, b"x")
        held.pop()[1].close()
        await wait_until_answered(address)
    for _, writer in held:
        writer.close()
    await forward.close()


async def wait_until_answered(address: str) -> None:
    """Try again until there is room; the end of a connection is noticed some moments later."""
    while True:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            assert await exchange(address, b"y") == b"y"
            return


async def test_who_takes_nothing_of_what_is_said_is_left(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "_MAX_STALL", 0.2)
    forward = Forward(api, HOME, POD, PORT)
    _, writer = await asyncio.open_unix_connection(await forward.open())

    writer.write(b"x" * 64_000_000)

    await wait_until(writer.transport.is_closing)
    await forward.close()


async def test_what_a_pod_says_is_cut_and_told_without_credentials_and_what_a_terminal_would_obey() -> None:
    said = f"no: Bearer s3cr3t-canary \x1b[2J\nwarning: http://me:s3cr3t-canary@proxy {'x' * 10_000}"

    class Api:
        async def open_socket(self, *_: object) -> Socket:
            return Socket([b"\x01\x00\x00", b"\x01" + said.encode()])

    forward = Forward(Api(), HOME, POD, PORT)  # type: ignore[arg-type]  # as much of one as is used
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await exchange(await forward.open(), b"x")

    await wait_until(lambda: bool(forward.problem))
    await forward.close()
    assert forward.problem.isprintable()
    assert len(forward.problem) < 500
    assert "canary" not in forward.problem


class Socket:
    """A web socket that says what it was given."""

    closed = False

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages

    async def __aiter__(self) -> AsyncIterator[WSMessage]:
        for message in self._messages:
            yield WSMessage(WSMsgType.BINARY, message, "")

    async def send_bytes(self, data: bytes) -> None:
        """Hear it."""

    async def close(self) -> None:
        """End."""


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
        with pytest.raises(FileNotFoundError):
            await exchange(first[POD], b"x")


async def test_one_replica_that_there_is_no_way_to_hides_no_other(cluster: ApiServerEmulation, api: ApiServer) -> None:
    cluster.put(pod(HOME, "egress-xds-1", REPLICA))
    async with ControlPlanes(api, HOME, PORT) as replicas:
        assert list(await replicas.find()) == [POD]
        assert "egress-xds-1 is not there any more" in replicas.problems["egress-xds-1"]


async def test_a_namespace_without_replicas_is_named_with_the_remedy(api: ApiServer) -> None:
    async with ControlPlanes(api, "default", PORT) as replicas:
        with pytest.raises(UnreachableError, match=r"no pod .* in the namespace default .* --namespace"):
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
