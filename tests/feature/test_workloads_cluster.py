"""Tokens of pods, checked with an API server that changes its keys, takes tokens back, is silent or goes away."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.feature.test_who_may_connect import verdict
from tests.feature.test_workloads_tokens import House, housing, pod
from tests.support.api_server import ApiServerEmulation
from tests.support.tokens import Issuer, claims, key_set
from xds.kubernetes.connection import connect
from xds.kubernetes.keys import ClusterKeys
from xds.kubernetes.review import TokenReviews

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from xds.kubernetes.connection import ApiServer

OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED, UNAVAILABLE = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE
TOLD_ISSUER = "https://kubernetes.default.svc.cluster.local"
OLD, NEW = Issuer("old", is_rsa=True), Issuer("new", is_rsa=True)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with capture_logs():
        yield


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[tuple[ApiServerEmulation, ApiServer]]:
    async with ApiServerEmulation() as server:
        api = await connect(server.write_kubeconfig(directory))
        try:
            yield server, api
        finally:
            await api.close()


async def try_token(house: House, issuer: Issuer, uid: str = "2") -> grpc.StatusCode:
    """Connect as the pod of the tokens, which the cluster knows by this uid."""
    house.workloads.update(pod(uid))
    async with house.connect(issuer.sign(claims(iss=TOLD_ISSUER))) as peer:
        return await verdict(peer)


async def test_the_keys_of_the_cluster_open_and_are_exchanged_and_outlast_the_api_server(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (server, api):
        server.jwks = json.loads(key_set(OLD))
        keys = ClusterKeys(api, pause=0.0)
        async with housing(keys) as house:
            assert await try_token(house, OLD) is OK
            assert await try_token(house, OLD, uid="3") is PERMISSION_DENIED
            assert await try_token(house, NEW) is UNAUTHENTICATED
            server.jwks = json.loads(key_set(OLD, NEW))
            assert await try_token(house, NEW) is OK

            await server.go_away()
            assert await try_token(house, OLD) is OK
            assert await try_token(house, NEW) is OK
            assert await try_token(house, Issuer("unheard of")) is UNAUTHENTICATED
            assert keys.problem

    (accepted,) = {seen.headers["Accept"] for seen in server.requests if seen.path == "/openid/v1/jwks"}
    assert "application/jwk-set+json" in accepted


async def test_a_cluster_whose_keys_were_never_seen_lets_nobody_in_until_they_are(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (server, api):
        await server.go_away()
        async with housing(ClusterKeys(api, pause=0.0)) as house:
            assert await try_token(house, OLD) is UNAVAILABLE
            server.jwks = json.loads(key_set(OLD))
            await server.come_back()
            assert await try_token(house, OLD) is OK


def good(uid: str = "2") -> dict[str, object]:
    """What a review says of the tokens of `claims`."""
    extra = {"authentication.kubernetes.io/pod-name": ["web-0"], "authentication.kubernetes.io/pod-uid": [uid]}
    user = {"username": "system:serviceaccount:shop:web", "uid": "1", "extra": extra}
    return {"authenticated": True, "user": user, "audiences": ["egress-xds"]}


async def test_the_api_server_decides_about_a_token_and_who_can_not_ask_it_lets_nobody_in(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (server, api):
        now = time.time()
        reviews = TokenReviews(api, ["egress-xds"], clock=lambda: now, timeout=0.5)
        tokens = [Issuer().sign(claims(nonce=number)) for number in range(6)]
        earlier, other = good("1"), {**good(), "audiences": ["vault"]}
        server.reviews.update(dict(zip(tokens, (good(), earlier, other, good(), good()), strict=False)))
        async with housing(reviews=reviews) as house:
            house.workloads.update(pod())

            async def try_one(number: int) -> grpc.StatusCode:
                async with house.connect(tokens[number]) as peer:
                    return await verdict(peer)

            assert await try_one(0) is OK
            assert await try_one(1) is PERMISSION_DENIED
            assert await try_one(2) is UNAUTHENTICATED
            assert await try_one(5) is UNAUTHENTICATED  # as that of a pod that was deleted
            server.faults.silent = True
            assert await try_one(3) is UNAVAILABLE
            server.faults.silent = False
            server.forbid("create", "tokenreviews")
            assert await try_one(3) is UNAVAILABLE
            server.faults.forbidden.clear()
            assert await try_one(3) is OK
            await server.go_away()
            assert await try_one(4) is UNAVAILABLE
            assert await try_one(3) is OK, "what was found a moment ago is remembered"
