"""Tokens and pods: whoever holds a token is served as the pod that it is bound to, if that still exists."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.feature.ads_peer import METHODS, Peer
from tests.feature.test_who_may_connect import ask_as, bearer, outcome, verdict
from tests.support.control_plane import SETTINGS, wait_until
from tests.support.tokens import Issuer, claims, key_set
from tests.unit.protocol.values import CDS, resource, snapshot
from xds.cache import SnapshotCache, World
from xds.clients import Clients
from xds.names import NodeId
from xds.policy.model import Workload
from xds.server.ads import AdsServer
from xds.server.authentication import Authentication
from xds.server.limits import Limits
from xds.workloads import Pod, Workloads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.feature.ads_peer import Call
    from xds.server.authentication import KeySource, Reviewer

OK, PERMISSION_DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE
NODE = NodeId("web-0.shop")
ISSUER = Issuer()
TOLD_ISSUER = "https://kubernetes.default.svc"


def pod(uid: str = "2", account: str = "web") -> dict[NodeId, Pod | None]:
    """The pod that the tokens of `claims` are bound to, as an update."""
    return {NODE: Pod(Workload(pod="web-0", namespace="shop", service_account=account), uid)}


@dataclass
class Keys:
    """A cluster's keys: those that are told, and those that it has when it is asked again."""

    keys: tuple[str, str] | None = (key_set(ISSUER), TOLD_ISSUER)
    newer: tuple[str, str] | None = None
    asked: int = 0

    async def renew(self) -> None:
        self.asked += 1
        self.keys = self.newer or self.keys


@dataclass
class House:
    """A server that listens on `address`."""

    address: str
    workloads: Workloads
    clients: Clients

    @asynccontextmanager
    async def connect(self, token: str) -> AsyncIterator[Peer]:
        async with grpc.aio.insecure_channel(self.address) as channel:
            call: Call = channel.stream_stream(METHODS["delta"])(metadata=(bearer(token),))
            try:
                yield Peer("delta", call)
            finally:
                call.cancel()


@asynccontextmanager
async def housing(keys: KeySource | None = None, reviews: Reviewer | None = None) -> AsyncIterator[House]:
    cache, clients, workloads = SnapshotCache(), Clients(), Workloads()
    cache.publish(World(candidates=(), snapshots={}, refuse_all=snapshot(resource(CDS, "c"))))
    authentication = Authentication(SETTINGS, keys=keys, reviews=reviews)
    server = AdsServer(
        cache,
        clients,
        clock=time.time,
        authentication=authentication,
        workloads=workloads,
        limits=Limits(unknown_node=30.0),
    )
    port = await server.start("127.0.0.1:0")
    try:
        yield House(f"127.0.0.1:{port}", workloads, clients)
    finally:
        await server.stop(0)


CASES = {
    "the pod's own token": (claims(), pod(), "", OK),
    "the token of an earlier pod of the same name": (claims(), pod(uid="3"), "", PERMISSION_DENIED),
    "a token of its account, of no pod": (claims(pod=""), pod(), "", OK),
    "a token of another account of its namespace": (claims(account="x", pod=""), pod(), "", PERMISSION_DENIED),
    "a token of another account, which it claims to have": (claims(account="x", pod=""), pod(), "x", PERMISSION_DENIED),
    "a token of another pod": (claims(pod="web-1"), pod(), "", PERMISSION_DENIED),
    "a token of another namespace": (claims("bank"), pod(), "", PERMISSION_DENIED),
    "a token of an account, and a pod without any": (claims(pod=""), pod(account=""), "", PERMISSION_DENIED),
    "the pod's own token, and a claim that is not heard": (claims(), pod(), "admin", OK),
}


@pytest.mark.parametrize(("said", "known", "claimed", "expected"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("is_late", [False, True], ids=["known before", "known later"])
async def test_a_token_opens_what_is_known_of_its_pod(
    said: dict[str, object], known: dict[NodeId, Pod | None], claimed: str, expected: grpc.StatusCode, *, is_late: bool
) -> None:
    with capture_logs():
        async with housing(Keys()) as house, house.connect(ISSUER.sign(said)) as peer:
            if is_late:
                await ask_as(peer, NODE, claimed)
                await wait_until(lambda: bool(house.workloads._followers or house.clients.refused))
            house.workloads.update(known)

            assert await (outcome(peer) if is_late else verdict(peer, NODE, claimed)) is expected
            assert len(house.clients) == (expected is OK)


async def test_the_stream_of_a_pod_does_not_become_that_of_its_successor() -> None:
    with capture_logs():
        async with housing(Keys()) as house, house.connect(ISSUER.sign(claims())) as peer:
            house.workloads.update(pod())
            assert await verdict(peer) is OK
            house.workloads.update(pod(uid="3"))
            assert (await peer.end())[0] is grpc.StatusCode.NOT_FOUND
            async with house.connect(ISSUER.sign(claims())) as late:
                assert await verdict(late) is PERMISSION_DENIED


async def test_a_token_of_a_key_that_is_new_makes_the_server_look_for_it_and_opens_at_once() -> None:
    new = Issuer("new")
    keys = Keys(newer=(key_set(ISSUER, new), TOLD_ISSUER))
    with capture_logs():
        async with housing(keys) as house:
            house.workloads.update(pod())
            for issuer, asked in ((ISSUER, 0), (new, 1), (new, 1), (Issuer("nobody"), 2)):
                async with house.connect(issuer.sign(claims())) as peer:
                    assert await verdict(peer) is (UNAUTHENTICATED if issuer.kid == "nobody" else OK)
                assert keys.asked == asked


async def test_without_any_keys_yet_callers_are_told_to_try_again() -> None:
    with capture_logs():
        async with housing(Keys(keys=None)) as house, house.connect(ISSUER.sign(claims())) as peer:
            house.workloads.update(pod())
            assert await verdict(peer) is UNAVAILABLE
            assert house.clients.refused == {"unavailable": 1}


async def test_keys_that_can_not_be_used_leave_those_before_in_force() -> None:
    keys = Keys()
    with capture_logs() as logs:
        async with housing(keys) as house:
            house.workloads.update(pod())
            for told in (keys.keys, ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', TOLD_ISSUER)):
                keys.keys = told
                async with house.connect(ISSUER.sign(claims())) as peer:
                    assert await verdict(peer) is OK

    assert [line["log_level"] for line in logs if "key set" in line["event"]] == ["info", "error"]


async def test_tokens_must_be_of_the_issuer_that_told_the_keys() -> None:
    with capture_logs():
        async with (
            housing(Keys(keys=(key_set(ISSUER), "https://other.example"))) as house,
            house.connect(ISSUER.sign(claims())) as peer,
        ):
            house.workloads.update(pod())
            assert await verdict(peer) is UNAUTHENTICATED


@dataclass
class Reviews:
    """Whoever reviews: what it finds, or why it can't."""

    found: dict[str, object] | str | ConnectionError
    asked: list[str] = field(default_factory=list)

    async def review(self, token: str) -> dict[str, object] | str:
        self.asked.append(token)
        if isinstance(self.found, ConnectionError):
            raise self.found
        return self.found


FOUND: dict[str, object] = {"exp": 1e10, "kubernetes.io": claims()["kubernetes.io"]}
REVIEWS = {
    "a good token": (FOUND, "2", OK),
    "a good token of an earlier pod": (FOUND, "3", PERMISSION_DENIED),
    "a token that was taken back": ("the API server refuses its token", "2", UNAUTHENTICATED),
    "nobody to ask": (ConnectionError("the API server is away"), "2", UNAVAILABLE),
    "a good token without an end": ({**FOUND, "exp": None}, "2", UNAUTHENTICATED),
}


@pytest.mark.parametrize(("found", "uid", "expected"), REVIEWS.values(), ids=REVIEWS)
async def test_a_review_decides_and_who_can_not_be_asked_has_not_agreed(
    found: dict[str, object] | str | ConnectionError, uid: str, expected: grpc.StatusCode
) -> None:
    reviews, token = Reviews(found), Issuer("unknown here").sign(claims())
    with capture_logs() as logs:
        async with housing(reviews=reviews) as house, house.connect(token) as peer:
            house.workloads.update(pod(uid))
            assert await verdict(peer) is expected

    assert reviews.asked == [token]
    assert token not in repr(logs)


async def test_a_token_that_no_key_signed_is_not_even_reviewed() -> None:
    reviews = Reviews(FOUND)
    with capture_logs():
        async with housing(Keys(), reviews) as house, house.connect(Issuer("stranger").sign(claims())) as peer:
            house.workloads.update(pod())
            assert await verdict(peer) is UNAUTHENTICATED

    assert not reviews.asked
