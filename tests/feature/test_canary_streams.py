"""Canaries over real streams: who is told a change, and what a NACK, an ACK or silence does to the others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.support.control_plane import METHOD, SETTINGS, Running, running_control_plane, wait_until
from xds.admin.pages import build_pages
from xds.canary import End, Stage
from xds.flags import Share
from xds.gen.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status
from xds.resources import ResourceType
from xds.staging import StagedCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

KEY = (None, "default")
KINDS = (ResourceType.CLUSTER, ResourceType.LISTENER)
NODES = ("a.shop", "b.shop", "c.shop")
CANARY_SETTINGS = replace(SETTINGS, canary=Share(number=1), canary_timeout=60.0)


def policy(port: int, name: str = "default", namespaces: str = "") -> str:
    """A policy whose clusters differ by `port`."""
    selector = f"  selector: {{namespaces: [{namespaces}]}}\n" if namespaces else ""
    return (
        f"apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n{selector}"
        f"  proxies: {{corp: {{endpoints: [{{url: 'http://192.0.2.2:{port}'}}]}}}}\n"
        "  default: {action: tunnel, proxy: corp}\n  dialect: go\n"
    )


@dataclass
class Sidecar:
    """A delta client that runs what it is sent, unless it is silent or refuses all that it has not run before."""

    node: str
    refuses: bool = False
    is_silent: bool = False
    runs: dict[tuple[str, str], str] = field(default_factory=dict)
    responses: int = 0
    known: set[str] = field(default_factory=set)

    def has(self, port: int) -> bool:
        """Whether it runs the policy of this port; bodies are searched for the number's varint."""
        wanted = encode_port(port)
        return any(wanted in body.encode("latin-1") for body in self.runs.values())

    async def live(self, address: str, versions: Mapping[str, Mapping[str, str]]) -> None:
        """Subscribe, then answer every response; `versions` is what it has from an earlier stream."""
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.stream_stream(
                METHOD,
                request_serializer=DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=DeltaDiscoveryResponse.FromString,
            )()
            for kind in KINDS:
                await call.write(
                    DeltaDiscoveryRequest(
                        node=Node(id=self.node),
                        type_url=kind.type_url,
                        initial_resource_versions=versions.get(kind.type_url, {}),
                    )
                )
            while isinstance(response := await call.read(), DeltaDiscoveryResponse):
                self.responses += 1
                if not self.is_silent:
                    await call.write(self._answer(response))

    def _answer(self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest:
        answer = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if self.refuses and response.system_version_info not in self.known:
            answer.error_detail.CopyFrom(Status(code=13, message="no such thing"))
            return answer
        self.known.add(response.system_version_info)
        for body in response.resources:
            resource = Resource.FromString(body)
            self.runs[response.type_url, resource.name] = resource.resource.decode("latin-1")
        for name in response.removed_resources:
            self.runs.pop((response.type_url, name), None)
        return answer


def encode_port(port: int) -> bytes:
    """`SocketAddress.port_value`, field 3, of the proxy's endpoint."""
    return bytes([0x18, port & 0x7F | 0x80, port >> 7])


@dataclass
class Fleet:
    """A server with canaries, and sidecars that are connected to it."""

    running: Running
    cache: StagedCache
    policies: Path
    sidecars: list[Sidecar]
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def stage(self) -> Stage:
        return self.cache.rollouts[KEY].stage

    def canary(self) -> Sidecar:
        (node,) = self.cache.rollouts[KEY].first
        (sidecar,) = [sidecar for sidecar in self.sidecars if sidecar.node == node]
        return sidecar

    def is_current(self, sidecar: Sidecar) -> bool:
        """Whether the server knows that the sidecar runs all that it was sent."""
        clients = [one for one in self.running.parts.clients.connected() if one.node_id == sidecar.node]
        return all(status.is_current for one in clients for status in one.types.values())

    def is_settled(self, sidecar: Sidecar) -> bool:
        """Whether the server knows, too, that it runs both its clusters and its listeners."""
        clients = [one for one in self.running.parts.clients.connected() if one.node_id == sidecar.node]
        return any(len(one.types) == len(KINDS) for one in clients) and self.is_current(sidecar)

    def write(self, port: int) -> None:
        (self.policies / "default.yaml").write_text(policy(port))


@asynccontextmanager
async def sidecar_living(
    sidecar: Sidecar, address: str, versions: Mapping[str, Mapping[str, str]] | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(sidecar.live(address, versions or {}))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def fleet(tmp_path: Path, **settings: float) -> AsyncIterator[Fleet]:
    """Three sidecars that run the policy of port 3128, which is settled."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "default.yaml").write_text(policy(3128))
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            running_control_plane(policies, replace(CANARY_SETTINGS, **settings))  # type: ignore[arg-type]  # durations only
        )
        cache = running.parts.cache
        assert isinstance(cache, StagedCache)
        found = Fleet(running, cache, policies, [Sidecar(node) for node in NODES])
        for sidecar in found.sidecars:
            living = sidecar_living(sidecar, running.address)
            found.tasks[sidecar.node] = await stack.enter_async_context(living)
        await wait_until(lambda: found.stage() is Stage.SETTLED)
        await wait_until(lambda: all(map(found.is_settled, found.sidecars)))
        assert all(sidecar.has(3128) for sidecar in found.sidecars)
        yield found


async def test_a_change_that_the_canary_applies_reaches_everybody(tmp_path: Path) -> None:
    async with fleet(tmp_path) as found:
        found.write(3129)

        await wait_until(lambda: all(sidecar.has(3129) for sidecar in found.sidecars))
        assert found.stage() is Stage.SETTLED
        assert found.cache.ended[End.REFUSED] == 0
        assert found.cache.ended[End.TIMED_OUT] == 0


async def test_a_change_that_the_canary_refuses_reaches_nobody_else_and_is_taken_back(tmp_path: Path) -> None:
    async with fleet(tmp_path) as found:
        for sidecar in found.sidecars:
            sidecar.refuses = True
        before = {sidecar.node: sidecar.responses for sidecar in found.sidecars}
        with capture_logs() as logs:
            found.write(3129)
            await wait_until(lambda: found.stage() is Stage.REFUSED)

        refusal = found.cache.rollouts[KEY].refusal
        assert refusal is not None
        canary = found.canary()
        assert (refusal.node, refusal.text) == (canary.node, "no such thing")
        await wait_until(lambda: found.is_current(canary))
        assert canary.responses >= before[canary.node] + 2, "the change, and the way back"
        assert all(sidecar.has(3128) and not sidecar.has(3129) for sidecar in found.sidecars)
        assert all(sidecar.responses == before[sidecar.node] for sidecar in found.sidecars if sidecar is not canary)
        metrics = build_pages(found.running.parts.administration.observed)["/metrics"]().body.decode()
        assert 'egress_xds_canary_policies{state="refused"} 1.0' in metrics
        assert 'egress_xds_canary_trials_total{outcome="refused"} 1.0' in metrics
        (said,) = [entry for entry in logs if str(entry["event"]).startswith("a canary refused the policy")]
        assert (said["log_level"], said["policy"], said["node"]) == ("error", "default", canary.node)

        for sidecar in found.sidecars:
            sidecar.refuses = False
        found.write(3130)
        await wait_until(lambda: all(sidecar.has(3130) for sidecar in found.sidecars))


async def test_the_others_wait_for_a_silent_canary_only_so_long(tmp_path: Path) -> None:
    async with fleet(tmp_path, canary_timeout=1.0) as found:
        for sidecar in found.sidecars:
            sidecar.is_silent = True
        found.write(3129)
        await wait_until(lambda: found.stage() is Stage.TRIAL)
        canary = found.canary()
        for sidecar in found.sidecars:
            sidecar.is_silent = sidecar is canary

        await wait_until(lambda: all(sidecar.has(3129) for sidecar in found.sidecars if sidecar is not canary))
        assert found.cache.ended[End.TIMED_OUT] == 1


async def test_a_canary_that_goes_away_is_replaced(tmp_path: Path) -> None:
    async with fleet(tmp_path) as found:
        for sidecar in found.sidecars:
            sidecar.is_silent = True
        found.write(3129)
        await wait_until(lambda: found.stage() is Stage.TRIAL)
        gone = found.canary()
        for sidecar in found.sidecars:
            sidecar.is_silent = False
        found.tasks[gone.node].cancel()

        await wait_until(lambda: all(sidecar.has(3129) for sidecar in found.sidecars if sidecar is not gone))


async def test_another_policy_is_not_held_back(tmp_path: Path) -> None:
    async with fleet(tmp_path) as found:
        for sidecar in found.sidecars:
            sidecar.is_silent = True
        other = Sidecar("web-0.elsewhere")
        (found.policies / "other.yaml").write_text(policy(4000, "other", "elsewhere"))
        async with sidecar_living(other, found.running.address):
            await wait_until(lambda: other.has(4000))
            found.write(3129)
            await wait_until(lambda: found.stage() is Stage.TRIAL)
            (found.policies / "other.yaml").write_text(policy(4001, "other", "elsewhere"))

            await wait_until(lambda: other.has(4001))
            assert found.stage() is Stage.TRIAL


async def test_after_a_restart_in_the_middle_of_a_trial_the_change_is_tried_again(tmp_path: Path) -> None:
    """The new process knows no last good; those who come back with something keep it until the first one runs it."""
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "default.yaml").write_text(policy(3129))
    old = {str(kind.type_url): {"direct": "of-an-earlier-time"} for kind in KINDS}
    first, second = Sidecar("a.shop", refuses=True), Sidecar("b.shop")
    async with running_control_plane(policies, CANARY_SETTINGS) as running:
        cache = running.parts.cache
        assert isinstance(cache, StagedCache)
        async with sidecar_living(first, running.address, old):
            await wait_until(lambda: cache.rollouts[KEY].stage is Stage.REFUSED)
            async with sidecar_living(second, running.address, old):
                await wait_until(lambda: len(running.parts.clients) == 2)
                fresh = Sidecar("c.shop")
                async with sidecar_living(fresh, running.address):
                    await wait_until(lambda: fresh.has(3129))

                    assert second.responses == 0, "it keeps what it has"


@pytest.mark.parametrize("count", [1, 2])
async def test_without_the_option_everybody_is_told_at_once(tmp_path: Path, count: int) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "default.yaml").write_text(policy(3128))
    sidecars = [Sidecar(node, is_silent=True) for node in NODES[:count]]
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(running_control_plane(policies))
        for sidecar in sidecars:
            _ = await stack.enter_async_context(sidecar_living(sidecar, running.address))

        await wait_until(lambda: all(sidecar.responses >= 1 for sidecar in sidecars))
        assert not isinstance(running.parts.cache, StagedCache)
