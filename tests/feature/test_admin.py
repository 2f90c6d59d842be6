"""What operators see of a whole running server: client status, health, reflection, metrics and probes."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.control_plane import PATIENCE, SETTINGS, Running, open_stream, running_control_plane, wait_until
from xds.admin.csds import SERVICE
from xds.gen import discovery_pb2, status_pb2
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CANARY = "s3cr3t-canary"
FORMS = (CANARY.encode(), b64encode(f"user:{CANARY}".encode()))
POLICY = "httpProxy: http://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\ndialect: go\n"
NODE = "web-0.shop"
CDS, LDS = ResourceType.CLUSTER.type_url, ResourceType.LISTENER.type_url
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    (path / "default.yaml").write_text(POLICY)
    return path


@dataclass(frozen=True)
class Operator:
    """Somebody with access to the two ports."""

    running: Running
    channel: grpc.aio.Channel

    async def status(self, **request: object) -> status_pb2.ClientStatusResponse:
        call = self.channel.unary_unary(
            f"/{SERVICE}/FetchClientStatus",
            request_serializer=status_pb2.ClientStatusRequest.SerializeToString,
            response_deserializer=status_pb2.ClientStatusResponse.FromString,
        )
        asked = status_pb2.ClientStatusRequest(**request)  # type: ignore[arg-type]  # the fields are the caller's
        async with asyncio.timeout(PATIENCE):
            return await call(asked)

    async def health(self, service: str = "") -> str:
        call = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        async with asyncio.timeout(PATIENCE):
            answer = await call(health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def get(self, path: str) -> tuple[int, str]:
        port = self.running.parts.administration.http_port
        assert port is not None
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
        return int(head.split()[1]), body.decode()

    async def metric(self, line: str) -> float:
        """Return the value of the one sample whose name and labels are `line`."""
        _, text = await self.get("/metrics")
        (value,) = [sample.rpartition(" ")[2] for sample in text.splitlines() if sample.rpartition(" ")[0] == line]
        return float(value)


@asynccontextmanager
async def operating(policies: Path) -> AsyncIterator[Operator]:
    async with running_control_plane(policies, SETTINGS) as running:
        address = f"127.0.0.1:{running.parts.administration.admin_port}"
        async with grpc.aio.insecure_channel(address) as channel:
            yield Operator(running, channel)


def resource(config: status_pb2.ClientConfig, type_url: str, name: str) -> status_pb2.ClientConfig.GenericXdsConfig:
    (found,) = [entry for entry in config.generic_xds_configs if (entry.type_url, entry.name) == (type_url, name)]
    return found


async def test_client_status_shows_each_resource_that_a_client_runs(policies: Path) -> None:
    async with operating(policies) as operator, open_stream(operator.running.address, NODE):
        await wait_until(lambda: all_current(operator.running, 2))

        (config,) = (await operator.status()).config

        assert (config.node.id, config.client_scope) == (NODE, NODE)
        direct = resource(config, CDS, "direct")
        assert (direct.client_status, direct.config_status) == (status_pb2.ACKED, status_pb2.SYNCED)
        assert direct.version_info
        assert direct.HasField("last_updated"), "grpcdebug reads it without asking whether it is there"
        assert direct.xds_config.type_url == CDS
        assert b"direct" in direct.xds_config.value


def all_current(running: Running, types: int) -> bool:
    clients = running.parts.clients.connected()
    return bool(clients) and all(
        len(client.types) >= types and all(status.is_current for status in client.types.values()) for client in clients
    )


async def test_a_nack_is_seen_at_once_in_client_status_and_metrics_and_is_not_repeated(policies: Path) -> None:
    async with operating(policies) as operator, grpc.aio.insecure_channel(operator.running.address) as channel:
        call = channel.stream_stream(
            f"/{ADS}/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()
        await call.write(discovery_pb2.DeltaDiscoveryRequest(node=discovery_pb2.Node(id=NODE), type_url=LDS))
        response = await call.read()
        assert isinstance(response, discovery_pb2.DeltaDiscoveryResponse)
        refusal = discovery_pb2.Status(code=13, message="no such filter")
        await call.write(
            discovery_pb2.DeltaDiscoveryRequest(type_url=LDS, response_nonce=response.nonce, error_detail=refusal)
        )
        await wait_until(lambda: any(client.is_rejecting for client in operator.running.parts.clients.connected()))

        (config,) = (await operator.status()).config
        (listener, *_) = config.generic_xds_configs
        assert (listener.client_status, listener.config_status) == (status_pb2.NACKED, status_pb2.ERROR)
        assert listener.error_state.details == "no such filter"
        assert listener.error_state.version_info == listener.version_info != ""
        assert await operator.metric('egress_xds_nacks_total{type="listener",variant="delta"}') == 1
        assert await operator.metric('egress_xds_streams_rejecting{type="listener"}') == 1
        assert await operator.metric('egress_xds_responses_total{type="listener",variant="delta"}') == 1

        (policies / "other.yaml").write_text(_policy_of_other_pods())
        await wait_until(lambda: len(operator.running.parts.reconciler.state.policies) == 2)
        assert await operator.metric('egress_xds_responses_total{type="listener",variant="delta"}') == 1
        call.cancel()


def _policy_of_other_pods() -> str:
    return (
        "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: other}\nspec:\n"
        "  selector: {namespaces: [elsewhere]}\n"
        "  proxies: {corp: {endpoints: [{url: 'http://192.0.2.3:3128'}]}}\n"
        "  default: {action: tunnel, proxy: corp}\n  dialect: go\n"
    )


async def test_node_matchers_choose_clients_and_contents_can_be_left_out(policies: Path) -> None:
    async with (
        operating(policies) as operator,
        open_stream(operator.running.address, NODE),
        open_stream(operator.running.address, "db-0.shop"),
    ):
        await wait_until(lambda: len(operator.running.parts.clients) == 2 and all_current(operator.running, 2))
        matcher = status_pb2.NodeMatcher(node_id=status_pb2.StringMatcher(prefix="db-"))

        everybody = (await operator.status()).config
        (one,) = (await operator.status(node_matchers=[matcher], exclude_resource_contents=True)).config

        assert [config.node.id for config in everybody] == ["db-0.shop", NODE]
        assert one.node.id == "db-0.shop"
        assert len(one.generic_xds_configs) == len(everybody[0].generic_xds_configs)
        assert not any(entry.HasField("xds_config") for entry in one.generic_xds_configs)


async def test_a_matcher_that_can_not_be_honoured_is_refused(policies: Path) -> None:
    regex = status_pb2.StringMatcher(safe_regex=status_pb2.RegexMatcher(regex="web.*"))
    async with operating(policies) as operator:
        with pytest.raises(grpc.aio.AioRpcError, match="regular expressions are not served") as caught:
            await operator.status(node_matchers=[status_pb2.NodeMatcher(node_id=regex)])

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_client_status_is_not_to_be_had_where_sidecars_connect(policies: Path) -> None:
    async with operating(policies) as operator, grpc.aio.insecure_channel(operator.running.address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/FetchClientStatus")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_of_status_requests_is_answered_one_by_one(policies: Path) -> None:
    async with operating(policies) as operator:
        call = operator.channel.stream_stream(
            f"/{SERVICE}/StreamClientStatus",
            request_serializer=status_pb2.ClientStatusRequest.SerializeToString,
            response_deserializer=status_pb2.ClientStatusResponse.FromString,
        )()
        answers = []
        for _ in range(2):
            await call.write(status_pb2.ClientStatusRequest())
            answers.append(await call.read())
        await call.done_writing()

        assert answers == [status_pb2.ClientStatusResponse()] * 2
        assert await call.code() is grpc.StatusCode.OK


async def test_no_secret_is_shown_anywhere(policies: Path, tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text(f"user:{CANARY}\n")
    (policies / "default.yaml").write_text(
        "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: default}\nspec:\n  proxies:\n    corp:\n"
        f"      endpoints: [{{url: 'http://192.0.2.2:3128'}}]\n      auth: {{basic: {{file: {login}}}}}\n"
        "  default: {action: tunnel, proxy: corp}\n  dialect: go\n"
    )
    async with operating(policies) as operator, open_stream(operator.running.address, NODE):
        await wait_until(lambda: all_current(operator.running, 2))
        snapshot = operator.running.parts.cache.snapshot_for(operator.running.parts.clients.connected()[0].workload)
        assert snapshot is not None
        (secret,) = snapshot.of(ResourceType.SECRET)
        async with subscribed(operator.running.address, secret):
            await wait_until(lambda: all_current(operator.running, 1))

            shown = await operator.status()
            metrics = (await operator.get("/metrics"))[1]

            (config,) = [config for config in shown.config if config.node.id == "sds-0.shop"]
            entry = resource(config, ResourceType.SECRET.type_url, secret)
            assert entry.xds_config.value.endswith(secret.encode())
            assert not any(form in shown.SerializeToString() or form in metrics.encode() for form in FORMS)
            assert NODE not in metrics


@asynccontextmanager
async def subscribed(address: str, secret: str) -> AsyncIterator[None]:
    """Run a client that has the secret."""
    kind = ResourceType.SECRET.type_url
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            f"/{ADS}/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )()
        node = discovery_pb2.Node(id="sds-0.shop", metadata=Struct())
        await call.write(
            discovery_pb2.DeltaDiscoveryRequest(node=node, type_url=kind, resource_names_subscribe=[secret])
        )
        response = await call.read()
        assert isinstance(response, discovery_pb2.DeltaDiscoveryResponse)
        assert any(form in response.SerializeToString() for form in FORMS), "it is there to be leaked"
        await call.write(discovery_pb2.DeltaDiscoveryRequest(type_url=kind, response_nonce=response.nonce))
        yield
        call.cancel()


async def test_health_and_probes_follow_the_life_of_the_server(policies: Path) -> None:
    async with operating(policies) as operator:
        await wait_until(lambda: operator.running.parts.administration.readiness.reason is None)
        during = (await operator.health(), await operator.health(ADS), await operator.get("/readyz"))
        administration = operator.running.parts.administration
        await administration.end()
        after = (await operator.health(), await operator.health(ADS), await operator.get("/readyz"))
        alive = await operator.get("/healthz")

    assert during == ("SERVING", "SERVING", (200, "ready\n"))
    assert after == ("NOT_SERVING", "NOT_SERVING", (503, "the server is shutting down\n"))
    assert alive == (200, "alive\n")


async def test_the_main_address_tells_its_health_too(policies: Path) -> None:
    async with operating(policies) as operator, grpc.aio.insecure_channel(operator.running.address) as channel:
        await wait_until(lambda: operator.running.parts.administration.readiness.reason is None)

        assert await Operator(operator.running, channel).health() == "SERVING"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_under_envoys_names_and_describes_their_messages(
    policies: Path, version: str
) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="envoy.service.status.v3.ClientStatusResponse"),
    ]
    async with operating(policies) as operator:
        call = operator.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
        answers: list[reflection_pb2.ServerReflectionResponse] = []
        for request in requests:
            await call.write(request)
            answer = await call.read()
            assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
            answers.append(answer)
        await call.done_writing()

    names = {service.name for service in answers[0].list_services_response.service}
    assert {SERVICE, ADS, "grpc.health.v1.Health"} < names
    assert b"generic_xds_configs" in b"".join(answers[1].file_descriptor_response.file_descriptor_proto)


async def test_metrics_tell_what_is_in_force_and_what_is_bad(policies: Path) -> None:
    async with operating(policies) as operator, open_stream(operator.running.address, NODE):
        await wait_until(lambda: all_current(operator.running, 2))
        (policies / "bad.yaml").write_text("httpProxy: [\n")
        await wait_until(lambda: len(operator.running.parts.reconciler.state.documents) == 2)

        assert await operator.metric('egress_xds_streams{variant="delta"}') == 1
        assert await operator.metric('egress_xds_policies{state="in_force"}') == 1
        assert await operator.metric('egress_xds_policies{state="held"}') == 1
        assert await operator.metric('egress_xds_documents{state="bad"}') == 1
        assert await operator.metric('egress_xds_acks_total{type="cluster",variant="delta"}') == 1
        assert await operator.metric('egress_xds_response_bytes_total{type="cluster",variant="delta"}') > 100
        assert await operator.metric("egress_xds_pushes_total") == 2
        assert await operator.metric("egress_xds_pass_seconds_count") == 2
        assert await operator.metric("egress_xds_last_pass_timestamp_seconds") > 0
        assert await operator.metric("egress_xds_streams_behind") == 0
        assert await operator.metric("egress_xds_ready") == 1
        assert await operator.metric("process_resident_memory_bytes") > 0
