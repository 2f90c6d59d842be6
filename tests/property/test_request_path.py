"""
Whatever bytes a client sends, its stream ends well or with a status that is meant for it; nothing else comes out.

Longer: run it again and again with `--hypothesis-profile=thorough`; each run draws other requests.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from structlog.testing import capture_logs

from tests.support.control_plane import PATIENCE
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource, snapshot
from xds.cache import SnapshotCache, World
from xds.clients import Clients
from xds.gen import discovery_pb2 as pb
from xds.server.services import SERVICES, restrict
from xds.server.session import DELTA, SOTW, Method, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

INTENDED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
WORLDS = tuple(
    World(
        candidates=(),
        snapshots={},
        refuse_all=snapshot(*(resource(kind, "a", text) for kind in (CDS, EDS, LDS, RDS, SDS))),
    )
    for text in ("1", "2")
)
METHODS: dict[str, Method[Any]] = {
    "sotw": SOTW,
    "delta": DELTA,
    **{f"sotw {service.noun}": restrict(SOTW, service.kind) for service in SERVICES},
    **{f"delta {service.noun}": restrict(DELTA, service.kind) for service in SERVICES},
}

TYPES = st.sampled_from(["", *(kind.type_url for kind in (CDS, EDS, LDS, RDS, SDS))]) | st.text(max_size=5)
NAMES = st.lists(st.sampled_from(["", "*", "a", "b"]) | st.text(max_size=3), max_size=4)
NONCES = st.sampled_from(["", "1", "2", "3", "99"]) | st.text(max_size=3)
NODES = st.none() | st.builds(pb.Node, id=st.sampled_from(["web-0.shop", "web-1.shop", "", "x"]) | st.text(max_size=5))
ERRORS = st.none() | st.builds(pb.Status, code=st.integers(-5, 20), message=st.text(max_size=5))
FIRST = st.just(pb.Node(id="web-0.shop"))


def _sotw(nodes: st.SearchStrategy[pb.Node | None]) -> st.SearchStrategy[bytes]:
    return st.builds(
        pb.DiscoveryRequest,
        version_info=st.text(max_size=3),
        node=nodes,
        resource_names=NAMES,
        type_url=TYPES,
        response_nonce=NONCES,
        error_detail=ERRORS,
    ).map(pb.DiscoveryRequest.SerializeToString)


def _delta(nodes: st.SearchStrategy[pb.Node | None]) -> st.SearchStrategy[bytes]:
    return st.builds(
        pb.DeltaDiscoveryRequest,
        node=nodes,
        type_url=TYPES,
        resource_names_subscribe=NAMES,
        resource_names_unsubscribe=NAMES,
        initial_resource_versions=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
        response_nonce=NONCES,
        error_detail=ERRORS,
    ).map(pb.DeltaDiscoveryRequest.SerializeToString)


STRUCTURED = st.tuples(_sotw(FIRST) | _delta(FIRST), st.lists(_sotw(NODES) | _delta(NODES), max_size=8)).map(
    lambda parts: [parts[0], *parts[1]]
)
CONVERSATIONS = st.lists(st.binary(max_size=60), max_size=4) | STRUCTURED


class AbortedError(Exception):
    """What `abort` raises, as grpc's own does."""


class Context:
    """The part of `grpc.aio.ServicerContext` that a session uses."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.OK
        self.written: list[bytes] = []

    async def send_initial_metadata(self, _: tuple[()]) -> None:
        assert not self.written

    async def write(self, body: bytes) -> None:
        self.written.append(body)

    async def abort(self, code: grpc.StatusCode, _: str) -> None:
        self.code = code
        raise AbortedError


async def converse(method: Method[Any], bodies: Sequence[bytes]) -> tuple[Context, Clients]:
    """Send `bodies` while the world changes under them, until the stream ends; return what became of it."""
    cache, clients, context = SnapshotCache(), Clients(), Context()

    async def requests() -> AsyncIterator[bytes]:
        for number, body in enumerate(bodies):
            cache.publish(WORLDS[number % 2])
            yield body
            for _ in range(3):
                await asyncio.sleep(0)

    try:
        async with asyncio.timeout(PATIENCE):
            await Session(method, cache, clients, lambda: 0.0).run(requests(), context)  # type: ignore[arg-type]  # only the part that is used
    except AbortedError:
        pass
    return context, clients


@pytest.mark.parametrize("name", METHODS)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(bodies=CONVERSATIONS)
def test_any_conversation_ends_with_an_intended_status(name: str, bodies: Sequence[bytes]) -> None:
    with capture_logs():
        context, clients = asyncio.run(converse(METHODS[name], bodies))

    assert context.code in INTENDED
    assert not clients.connected()
    response = pb.DiscoveryResponse if name.startswith("sotw") else pb.DeltaDiscoveryResponse
    assert all(response.FromString(body).nonce for body in context.written)
