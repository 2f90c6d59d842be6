"""Secrets from a directory to a stream: whose they are, and how soon a new one arrives."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.support.control_plane import METHOD, PATIENCE, running_control_plane
from xds import names
from xds.gen import discovery_pb2 as pb
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    Call = grpc.aio.StreamStreamCall[bytes, bytes]

TEAMS = ("shop", "bank")
POLICY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: {team}}}
spec:
  selector: {{namespaces: [{team}]}}
  proxies:
    corp: {{endpoints: [{{url: "https://proxy.example:3129"}}], auth: {{basic: {{file: {login}}}}}}}
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """Two teams behind proxies of the same name, each with a login of its own."""
    (tmp_path / "policies").mkdir()
    for team in TEAMS:
        (tmp_path / team).write_text(f"{team}:canary-of-{team}")
        text = POLICY.format(team=team, login=tmp_path / team)
        (tmp_path / "policies" / f"{team}.yaml").write_text(text)
    return tmp_path / "policies"


@asynccontextmanager
async def asking(address: str, node: str, *wanted: str) -> AsyncIterator[Call]:
    """Open a stream that asks for the secrets `wanted`."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Call = channel.stream_stream(METHOD)()
        request = pb.DeltaDiscoveryRequest(
            node=pb.Node(id=node), type_url=ResourceType.SECRET.type_url, resource_names_subscribe=wanted
        )
        await call.write(request.SerializeToString())
        yield call
        call.cancel()


async def hear(call: Call) -> tuple[dict[str, bytes], set[str]]:
    """Return the secrets of the next response, whole, and the names of which there is none."""
    async with asyncio.timeout(PATIENCE):
        body = await call.read()
    assert isinstance(body, bytes)
    told = pb.DeltaDiscoveryResponse.FromString(body)
    await call.write(pb.DeltaDiscoveryRequest(type_url=told.type_url, response_nonce=told.nonce).SerializeToString())
    found = {item.name: item.resource for item in (pb.Resource.FromString(each) for each in told.resources)}
    return found, set(told.removed_resources)


def encoded(team: str, suffix: str = "") -> bytes:
    return b64encode(f"{team}:canary-of-{team}{suffix}".encode())


def login_of(policies: Path, team: str) -> str:
    return names.proxy_login("corp", str(policies.parent / team))


@pytest.mark.parametrize(("own", "other"), [TEAMS, TEAMS[::-1]])
async def test_a_pod_that_asks_for_anothers_secret_hears_that_there_is_none(
    policies: Path, own: str, other: str
) -> None:
    wanted = login_of(policies, own), login_of(policies, other)
    with capture_logs() as logs:
        async with (
            running_control_plane(policies) as running,
            asking(running.address, f"web-0.{own}", *wanted) as call,
        ):
            found, absent = await hear(call)

    assert set(found) == {wanted[0]}
    assert encoded(own) in found[wanted[0]]
    assert absent == {wanted[1]}
    assert "canary" not in str(logs)


async def test_a_new_login_reaches_those_whose_it_is_within_a_second(policies: Path) -> None:
    with capture_logs() as logs:
        async with (
            running_control_plane(policies) as running,
            asking(running.address, "web-0.shop", login_of(policies, "shop")) as call,
        ):
            await hear(call)
            (policies.parent / "bank").write_text("bank:canary-of-bank-2")
            draft = policies.parent / "draft"
            draft.write_text("shop:canary-of-shop-2")
            draft.replace(policies.parent / "shop")

            async with asyncio.timeout(1):
                found, absent = await hear(call)

    assert encoded("shop", "-2") in found[login_of(policies, "shop")]
    assert absent == set()
    assert "canary" not in str(logs)
