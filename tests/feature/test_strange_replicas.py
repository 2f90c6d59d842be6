"""What a replica says that it should not: it is that replica's trouble, and hides nothing of what the others say."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.control_plane import PATIENCE
from xds.gen import discovery_pb2 as pb
from xds.gen import status_pb2
from xds.inspection.client_status import StatusReader
from xds.inspection.fleet import State
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Context = grpc.aio.ServicerContext[status_pb2.ClientStatusRequest, status_pb2.ClientStatusResponse]

CANARY = "s3cr3t-canary"
SAID = f"Authorization: Basic {CANARY}, Bearer {CANARY}, password={CANARY}, http://me:{CANARY}@proxy"


@asynccontextmanager
async def serving(response: status_pb2.ClientStatusResponse) -> AsyncIterator[str]:
    async def answer(request: status_pb2.ClientStatusRequest, context: Context) -> status_pb2.ClientStatusResponse:
        del request
        if not response.config:
            await context.abort(grpc.StatusCode.INTERNAL, SAID)
        return response

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        answer,
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


def refusing(seconds: int) -> status_pb2.ClientStatusResponse:
    """Build the answer of a replica that says of one node that it refused listeners, at a moment since 1970."""
    response = status_pb2.ClientStatusResponse()
    entry = response.config.add(node=pb.Node(id="web-0.shop")).generic_xds_configs.add(
        type_url=ResourceType.LISTENER.type_url, name="l", client_status=status_pb2.NACKED
    )
    entry.error_state.details = SAID
    entry.error_state.last_update_attempt.seconds = seconds
    return response


@pytest.mark.parametrize(("seconds", "at"), [(2**62, None), (-(2**62), None), (7, 7.0)])
async def test_a_moment_that_no_calendar_has_is_none(seconds: int, at: float | None) -> None:
    async with serving(refusing(seconds)) as address, serving(refusing(1)) as other, StatusReader() as reader:
        answers = await reader.ask({"odd": address, "other": other}, within=PATIENCE)

    assert [answer.problem for answer in answers] == ["", ""]
    (sidecar,) = answers[0].sidecars
    refusal = sidecar.types["listener"].refusal
    assert sidecar.state is State.REFUSED
    assert refusal is not None
    assert refusal.at == at


async def test_what_cannot_be_read_is_the_trouble_of_that_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(refusing(7)) as address, StatusReader() as reader:
        monkeypatch.setattr("xds.inspection.client_status._judge_types", lambda _: int("no number"))
        (answer,) = await reader.ask({"odd": address}, within=PATIENCE)

    assert "odd does not speak client status" in answer.problem


async def test_what_others_refuse_and_complain_of_is_repeated_without_credentials() -> None:
    own = refusing(7)
    said = {"types": {"listener": {"rejected": {"text": SAID}}}}
    own.config[0].node.metadata.update({"egressXds": said})
    silent = status_pb2.ClientStatusResponse()
    async with serving(refusing(7)) as a, serving(own) as b, serving(silent) as c, StatusReader() as reader:
        answers = await reader.ask({"a": a, "b": b, "c": c}, within=PATIENCE)

    assert "[redacted]" in answers[2].problem
    assert [str(answer).count("[redacted]") >= 4 for answer in answers] == [True, True, True]
    assert CANARY not in str(answers)
