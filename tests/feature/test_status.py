"""`xds status` against real control planes: who is connected where, what each runs, and what it refused."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from structlog.testing import capture_logs

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import CLUSTER_SETTINGS, HOME, following, namespace, pod, policy
from tests.support.command_line import GOOD, Outcome, Runner
from tests.support.control_plane import (
    METHOD,
    PATIENCE,
    SETTINGS,
    Running,
    open_stream,
    running_control_plane,
    wait_until,
)
from xds.cli.fleet_text import describe_sidecar
from xds.gen import discovery_pb2 as pb
from xds.gen import status_pb2
from xds.inspection.client_status import StatusReader, read_config
from xds.inspection.fleet import State
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Context = grpc.aio.ServicerContext[status_pb2.ClientStatusRequest, status_pb2.ClientStatusResponse]
    Handler = Callable[[status_pb2.ClientStatusRequest, Context], Awaitable[status_pb2.ClientStatusResponse]]

CANARY = "s3cr3t-canary"
LDS = ResourceType.LISTENER.type_url
PORT = 18001
REPLICA = {"app.kubernetes.io/name": "egress-xds"}


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    (path / "corp.yaml").write_text(GOOD)
    return path


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
def xds(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


async def run(xds: Runner, *arguments: object) -> Outcome:
    """Run the command beside the servers that it asks."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(xds, "status", *arguments)


@asynccontextmanager
async def replicas(policies: Path, count: int) -> AsyncIterator[list[Running]]:
    """Run replicas of one control plane."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running_control_plane(policies, replace(SETTINGS, identifier=f"egress-xds-{number}"))
            )
            for number in range(count)
        ]


def admin(running: Running) -> str:
    return f"127.0.0.1:{running.parts.administration.admin_port}"


@asynccontextmanager
async def saying(address: str, node: str, error: str | None = None) -> AsyncIterator[None]:
    """Subscribe to listeners as `node`, and refuse them, or answer nothing."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            METHOD,
            request_serializer=pb.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=pb.DeltaDiscoveryResponse.FromString,
        )()
        await call.write(pb.DeltaDiscoveryRequest(node=pb.Node(id=node), type_url=LDS))
        response = await call.read()
        assert isinstance(response, pb.DeltaDiscoveryResponse)
        if error is not None:
            await call.write(
                pb.DeltaDiscoveryRequest(
                    type_url=LDS, response_nonce=response.nonce, error_detail=pb.Status(code=13, message=error)
                )
            )
        yield
        call.cancel()


async def settle(running: Running, *, current: int, refusing: int = 0) -> None:
    """Wait until so many clients run everything, and so many refuse something."""

    def is_settled() -> bool:
        clients = running.parts.clients.connected()
        good = [
            client
            for client in clients
            if len(client.types) >= 2 and all(status.is_current for status in client.types.values())
        ]
        return len(good) == current and sum(client.is_rejecting for client in clients) == refusing

    await wait_until(is_settled)


async def test_sidecars_of_all_replicas_are_shown_with_what_each_made_of_its_policy(
    policies: Path, xds: Runner
) -> None:
    refusal = f"no such filter: http://user:{CANARY}@proxy"
    async with (
        replicas(policies, 2) as (first, second),
        open_stream(first.address, "web-0.shop"),
        open_stream(second.address, "web-1.shop"),
        saying(first.address, "bad-0.shop", refusal),
        saying(second.address, "slow-0.shop"),
    ):
        await settle(first, current=1, refusing=1)
        await settle(second, current=1)
        addresses = ["--admin", admin(first), "--admin", admin(second)]

        table = await run(xds, *addresses)
        described = json.loads((await run(xds, *addresses, "-o", "json")).out)
        wide = await run(xds, *addresses, "-o", "wide", "--problems")
        one = await run(xds, *addresses, "web-1.shop")

    rows = {line.split()[0]: line.split() for line in table.out.splitlines()[1:5]}
    assert rows["bad-0.shop"][1:4] == ["corp", "egress-xds-0", "refused"]
    assert rows["web-0.shop"][1:-1] == ["corp", "egress-xds-0", "current", "✓", "✓", "-", "-"]
    assert rows["web-1.shop"][1:-1] == ["corp", "egress-xds-1", "current", "✓", "✓", "-", "-"]
    assert rows["slow-0.shop"][1:4] == ["corp", "egress-xds-1", "pending"]
    assert "no such filter: [redacted]@proxy" in table.out
    assert "4 sidecars, 2 replicas: 2 current, 1 pending, 1 refused" in table.err
    assert table.code == 1
    assert max(map(len, table.out.splitlines())) <= 120
    assert [line.split()[0] for line in wide.out.splitlines()[1:3]] == ["bad-0.shop", "slow-0.shop"]
    assert (one.code, one.out.count("\n")) == (0, 2)
    sidecars = {sidecar["node"]: sidecar for sidecar in described["sidecars"]}
    listener = sidecars["bad-0.shop"]["types"]["listener"]
    assert listener["refused"]["version"] == listener["sent"]
    assert sidecars["web-0.shop"]["types"]["cluster"]["acknowledged"]
    assert CANARY not in table.out + table.err + wide.out + json.dumps(described)


async def test_a_replica_that_does_not_answer_hides_nobody_else(policies: Path, xds: Runner) -> None:
    async with replicas(policies, 2) as (first, second), open_stream(first.address, "web-0.shop"):
        await settle(first, current=1)
        gone = admin(second)
        second.stop.set()
        await asyncio.wait([second.task])

        table = await run(xds, "--admin", admin(first), "--admin", gone, "web-0.shop", "web-1.shop")
        described = await run(xds, "--admin", admin(first), "--admin", gone, "-o", "json")

    assert "web-0.shop" in table.out
    assert f"warning: {gone} can't be reached" in table.err
    assert "no replica that answers knows web-1.shop" in table.err
    assert table.code == described.code == 3
    assert [replica["answered"] for replica in json.loads(described.out)["replicas"]].count(True) == 1


async def test_all_is_well_if_everybody_is_current_or_nobody_is_there(policies: Path, xds: Runner) -> None:
    async with replicas(policies, 1) as (only,):
        empty = await run(xds, "--admin", admin(only))
        async with open_stream(only.address, "web-0.shop"):
            await settle(only, current=1)
            good = await run(xds, "--admin", admin(only), "--policy", "corp")
            other = await run(xds, "--admin", admin(only), "--policy", "other")

    assert (empty.code, empty.out, empty.err) == (0, "", "0 sidecars, 1 replica\n")
    assert (good.code, good.err) == (0, "1 sidecar, 1 replica: 1 current\n")
    assert (other.code, other.out) == (1, "")
    assert other.err == ("warning: no sidecar has the policy other; there are: corp\n0 sidecars, 1 replica\n")


async def test_a_node_that_no_replica_knows_is_not_invented(policies: Path, xds: Runner) -> None:
    async with replicas(policies, 1) as (only,), open_stream(only.address, "web-0.shop"):
        await settle(only, current=1)
        table = await run(xds, "--admin", admin(only), "nope.nope")
        described = await run(xds, "--admin", admin(only), "nope.nope", "-o", "json")

    assert (table.code, table.out) == (1, "")
    assert "no replica knows nope.nope; connected are: web-0.shop\n" in table.err
    moment = json.loads(described.out)
    assert (described.code, moment["sidecars"]) == (1, [])
    assert moment["notes"] == ["no replica knows nope.nope; connected are: web-0.shop"]


async def test_one_whose_policy_can_not_be_used_is_held_and_one_without_a_policy_is_refused_everything(
    policies: Path, xds: Runner
) -> None:
    (policies / "corp.yaml").write_text(
        "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: broken}\nspec:\n"
        "  selector: {namespaces: [shop]}\n  default: {action: tunnel, proxy: nobody}\n"
    )
    async with (
        replicas(policies, 1) as (only,),
        open_stream(only.address, "web-0.shop"),
        open_stream(only.address, "web-0.other") as other,
    ):
        await wait_until(lambda: len(only.parts.clients) == 2 and other.responses >= 1)
        await settle(only, current=1)
        described = json.loads((await run(xds, "--admin", admin(only), "-o", "json")).out)

    found = {each["node"]: (each["state"], each["policy"], each["inForce"]) for each in described["sidecars"]}
    assert found == {
        "web-0.shop": ("held", "broken", "held"),
        "web-0.other": ("current", None, "refuse-all"),
    }


# --- servers that are not ours


@asynccontextmanager
async def serving(handler: Handler | None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    if handler is not None:
        method = grpc.unary_unary_rpc_method_handler(
            handler,
            request_deserializer=status_pb2.ClientStatusRequest.FromString,
            response_serializer=status_pb2.ClientStatusResponse.SerializeToString,
        )
        service = "envoy.service.status.v3.ClientStatusDiscoveryService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"FetchClientStatus": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def answer_plainly(request: status_pb2.ClientStatusRequest, context: Context) -> status_pb2.ClientStatusResponse:
    """Answer as the standard has it, without anything of ours; choose no nodes."""
    if request.node_matchers:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "node matchers are not supported")
    response = status_pb2.ClientStatusResponse()
    for node, client, config in (
        ("acked", status_pb2.ACKED, status_pb2.UNKNOWN),
        ("synced", status_pb2.CLIENT_RESOURCE_UNKNOWN, status_pb2.SYNCED),
        ("stale", status_pb2.CLIENT_RESOURCE_UNKNOWN, status_pb2.STALE),
        ("asked", status_pb2.REQUESTED, status_pb2.SYNCED),
        ("nacked", status_pb2.NACKED, status_pb2.UNKNOWN),
    ):
        entry = response.config.add(node=pb.Node(id=node)).generic_xds_configs.add(
            type_url=LDS, name="l", version_info="7", client_status=client, config_status=config
        )
        if node == "nacked":
            entry.error_state.details = f"bad http://user:{CANARY}@proxy"
    odd = response.config.add(node=pb.Node(id="odd"))
    odd.node.metadata.update({"egressXds": {"types": [1], "since": float("nan"), "policy": {}, "standing": "?"}})
    odd.generic_xds_configs.add(type_url="type.googleapis.com/other", client_status=status_pb2.ACKED)
    response.config.add(client_scope="empty")
    return response


def test_what_an_older_server_of_ours_does_not_tell_is_not_known() -> None:
    config = status_pb2.ClientConfig(node=pb.Node(id="web-0.shop"))
    config.node.metadata.update({"egressXds": {"types": {"cluster": {"current": True}}}})

    sidecar = read_config(config, "it")

    assert describe_sidecar(sidecar, 1.0)["types"] == {
        "cluster": {"current": True, "resources": None, "sent": None, "acknowledged": None, "refused": None}
    }


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({}, State.LACKING),
        ({"standing": "held"}, State.HELD),
        ({"types": {"cluster": {"rejected": {"version": "1"}}}}, State.REFUSED),
        ({"lacks": 7}, State.CURRENT),
    ],
)
def test_who_runs_what_its_mode_can_not_work_with_is_not_current(more: dict[str, Any], state: State) -> None:
    config = status_pb2.ClientConfig(node=pb.Node(id="web-0.shop"))
    told: dict[str, Any] = {"types": {"cluster": {"current": True}}, "lacks": "explicit.port"}
    config.node.metadata.update({"egressXds": told | more})

    sidecar = read_config(config, "it")

    assert sidecar.state is state
    assert sidecar.lacks == ("" if more.get("lacks") else "explicit.port")


async def refuse(request: status_pb2.ClientStatusRequest, context: Context) -> status_pb2.ClientStatusResponse:
    del request
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"not for you: http://user:{CANARY}@here")


async def say_nothing(request: status_pb2.ClientStatusRequest, context: Context) -> status_pb2.ClientStatusResponse:
    del request, context
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that event")


async def test_servers_that_are_not_ours_are_understood_as_far_as_the_standard_goes(xds: Runner) -> None:
    async with serving(answer_plainly) as address, StatusReader() as reader:
        found = {sidecar.node: sidecar for sidecar in await reader.read("it", address, within=PATIENCE)}
        table = await run(xds, "--admin", address, "nacked", "acked")

    assert {node: sidecar.state for node, sidecar in found.items()} == {
        "acked": State.CURRENT,
        "synced": State.CURRENT,
        "stale": State.PENDING,
        "asked": State.PENDING,
        "nacked": State.REFUSED,
        "odd": State.CURRENT,
        "empty": State.PENDING,
    }
    assert found["acked"].types["listener"].acknowledged == "7"
    assert found["acked"].replica == "it"
    assert found["odd"].types.keys() == {"type.googleapis.com/other"}
    assert [line.split()[0] for line in table.out.splitlines()[1:3]] == ["acked", "nacked"]
    assert "bad [redacted]@proxy" in table.out


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        pytest.param(None, "does not serve client status; give the address of --admin-listen", id="another service"),
        pytest.param(refuse, "broke off with PERMISSION_DENIED: not for you: [redacted]@here", id="one that refuses"),
        pytest.param(say_nothing, "did not answer within 0.5 s", id="one that says nothing"),
    ],
)
async def test_a_server_that_does_not_answer_is_described(handler: Handler | None, message: str, xds: Runner) -> None:
    async with serving(handler) as address:
        outcome = await run(xds, "--admin", address, "--timeout", "500ms")

    assert message in outcome.err
    assert (outcome.code, outcome.out) == (3, "")


async def test_a_server_that_sends_damage_is_described(xds: Runner) -> None:
    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_damage)
    service = "envoy.service.status.v3.ClientStatusDiscoveryService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"FetchClientStatus": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    outcome = await run(xds, "--admin", f"127.0.0.1:{port}")
    await server.stop(None)

    assert "does not speak client status" in outcome.err
    assert outcome.code == 3


async def _damage(request: bytes, context: object) -> bytes:
    del request, context
    return b"\xff\xff\xff"


# --- in a cluster


@pytest.fixture
async def cluster() -> AsyncIterator[ApiServerEmulation]:
    """A cluster with a policy, two pods with a sidecar and one without."""
    async with ApiServerEmulation() as server:
        for item in (
            namespace(HOME),
            namespace("shop"),
            policy(HOME, "corp", GOOD),
            pod("shop", "web-0", injected="true"),
            pod("shop", "web-1", injected="true"),
            pod("shop", "plain-0"),
        ):
            server.put(item)
        yield server


@asynccontextmanager
async def deployed(cluster: ApiServerEmulation, directory: Path, count: int) -> AsyncIterator[list[Running]]:
    """Run replicas, each of which is a pod whose ports can be forwarded."""
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            name = f"egress-xds-{number}"
            settings = replace(CLUSTER_SETTINGS, identifier=name)
            found.append(await stack.enter_async_context(following(cluster, directory, settings)))
            cluster.put(pod(HOME, name, REPLICA))
            port = found[-1].parts.administration.admin_port
            assert port is not None
            cluster.listening[HOME, name, PORT] = port
        yield found


def in_cluster(cluster: ApiServerEmulation, directory: Path) -> list[object]:
    return ["--kubernetes", "--kubeconfig", cluster.write_kubeconfig(directory), "--namespace", HOME]


async def test_in_a_cluster_replicas_are_found_and_pods_without_a_stream_are_offline(
    cluster: ApiServerEmulation, tmp_path: Path, xds: Runner
) -> None:
    async with deployed(cluster, tmp_path, 2) as (_, second), open_stream(second.address, "web-0.shop"):
        await settle(second, current=1)
        outcome = await run(xds, *in_cluster(cluster, tmp_path))

    rows = [line.split()[:4] for line in outcome.out.splitlines()[1:]]
    assert rows == [
        ["web-0.shop", "corp", "egress-xds-1", "current"],
        ["web-1.shop", "-", "-", "offline"],
    ]
    assert outcome.err == "2 sidecars, 2 replicas: 1 current, 1 offline\n"
    assert outcome.code == 1


async def test_who_may_not_list_all_pods_is_told_that_nobody_is_known_to_be_offline(
    cluster: ApiServerEmulation, tmp_path: Path, xds: Runner
) -> None:
    async with deployed(cluster, tmp_path, 1) as (only,), open_stream(only.address, "web-0.shop"):
        await settle(only, current=1)
        cluster.faults.forbidden_everywhere.add(("list", "pods"))
        outcome = await run(xds, *in_cluster(cluster, tmp_path))

    assert [line.split()[0] for line in outcome.out.splitlines()[1:]] == ["web-0.shop"]
    assert "which sidecars are offline is not known" in outcome.err
    assert "kubectl auth can-i list pods -A" in outcome.err
    assert outcome.code == 0


async def test_who_may_not_forward_ports_is_told_what_to_allow(
    cluster: ApiServerEmulation, tmp_path: Path, xds: Runner
) -> None:
    cluster.forbid("get", "pods/portforward")
    async with deployed(cluster, tmp_path, 1):
        outcome = await run(xds, *in_cluster(cluster, tmp_path))

    assert "allow the verbs get and create of pods/portforward" in outcome.err
    assert (outcome.code, outcome.out) == (3, "")


async def test_a_replica_that_does_not_listen_is_told_of_in_the_words_of_the_cluster(
    cluster: ApiServerEmulation, tmp_path: Path, xds: Runner
) -> None:
    async with deployed(cluster, tmp_path, 1):
        outcome = await run(xds, *in_cluster(cluster, tmp_path), "--admin-port", "9")

    assert "port 9 of the pod egress-system/egress-xds-0 can't be reached: failed to connect" in outcome.err
    assert outcome.code == 3


# --- watching


@asynccontextmanager
async def watching(
    *arguments: str, stdout: int = asyncio.subprocess.PIPE, lines: int = 24
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from xds.cli import main; main()",
        "status",
        "--watch",
        "--interval",
        "50ms",
        *arguments,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "LINES": str(lines), "COLUMNS": "120", "TERM": "xterm"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def hear(process: asyncio.subprocess.Process, *words: str) -> str:
    """Return the next line of what it prints that holds all these words."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stdout.readline()).decode():
            if all(word in line for word in words):
                return line
    raise AssertionError("it ended")


async def test_off_a_terminal_a_watch_prints_a_line_for_each_change_until_it_is_interrupted(policies: Path) -> None:
    async with replicas(policies, 1) as (only,), watching("--admin", admin(only)) as process:
        async with open_stream(only.address, "web-0.shop"):
            await hear(process, "web-0.shop", "current", "corp", "egress-xds-0")
            async with saying(only.address, "bad-0.shop", f"no: http://user:{CANARY}@proxy"):
                refused = await hear(process, "bad-0.shop", "refused", "✗")
        gone = await hear(process, "web-0.shop", "gone")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            code = await process.wait()

    assert "no: [redacted]@proxy" in refused
    assert "current → gone" in gone
    assert code == 130


async def test_a_watch_as_json_is_one_object_on_each_line(policies: Path) -> None:
    async with (
        replicas(policies, 1) as (only,),
        open_stream(only.address, "web-0.shop"),
        watching("--admin", admin(only), "-o", "json") as process,
    ):
        first: dict[str, Any] = json.loads(await hear(process, "web-0.shop"))

    assert first["node"] == "web-0.shop"
    assert first["before"] is None


async def test_on_a_terminal_a_watch_draws_the_table_anew_as_far_as_there_is_room(policies: Path) -> None:
    screen, terminal = pty.openpty()
    seen = bytearray()

    def shows(*words: str) -> bool:
        """Tell whether the newest drawing, which begins at the first line, shows all these words."""
        while select.select([screen], [], [], 0)[0]:
            seen.extend(os.read(screen, 65_536))
        _, home, newest = seen.decode(errors="replace").rpartition("\x1b[H")
        return bool(home) and all(word in newest for word in words)

    async with (
        replicas(policies, 1) as (only,),
        open_stream(only.address, "web-0.shop"),
        watching("--admin", admin(only), stdout=terminal, lines=6) as process,
    ):
        await wait_until(lambda: shows("1 sidecar, 1 replica: 1 current", "web-0.shop", "\x1b[32mcurrent\x1b[0m"))
        async with AsyncExitStack() as others:
            for number in range(5):
                await others.enter_async_context(saying(only.address, f"bad-{number}.shop", "no"))
            await wait_until(lambda: shows("6 sidecars", "5 refused", "\x1b[31mrefused", "more lines; narrow it"))
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 130
    os.close(screen)
    os.close(terminal)


async def test_a_watch_says_once_that_a_replica_is_away_and_goes_on(policies: Path) -> None:
    async with (
        replicas(policies, 1) as (only,),
        open_stream(only.address, "web-0.shop"),
        watching("--admin", admin(only), "--admin", "127.0.0.1:9", "--problems") as process,
    ):
        await settle(only, current=1)
        async with saying(only.address, "bad-0.shop", "no"):
            await hear(process, "bad-0.shop", "refused")
        await hear(process, "bad-0.shop", "gone")
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()

    assert said.decode().count("127.0.0.1:9 can't be reached") == 1
