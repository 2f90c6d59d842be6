"""Tokens that the API server itself made: each opens the configuration of the pod that it is bound to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.cluster.deployed import grant
from tests.cluster.place import following, until
from tests.feature.test_serve_kubernetes import to
from tests.feature.test_who_may_connect import verdict
from tests.feature.test_workloads_tokens import OK, PERMISSION_DENIED, UNAUTHENTICATED, House
from tests.support.cluster import policy

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

    from tests.cluster.place import Place

FORGOTTEN = 60.0
"""Seconds after which an API server has forgotten that a token was good, and so have we."""


@pytest.mark.parametrize(
    ("source", "after"), [("cluster", PERMISSION_DENIED), ("review", UNAUTHENTICATED)], ids=["cluster", "review"]
)
async def test_a_bound_token_is_good_for_its_pod_as_long_as_that_lives(
    place: Place, tmp_path: Path, source: str, after: grpc.StatusCode
) -> None:
    deployed = await grant(place, tmp_path, "token-review")
    await place.apply(policy(place.home, "corp", to(10)))
    own, other = [await place.run_pod(name) for name in ("web-0", "web-1")]
    tokens = {
        "good": await place.request_token(place.shop, "web", "egress-xds", own),
        "of another pod": await place.request_token(place.shop, "web", "egress-xds", other),
        "for another audience": await place.request_token(place.shop, "web", "", own),
    }

    async with following(deployed.kubeconfig, replace(place.settings, token_source=source)) as running:
        assert running.parts.cluster is not None
        house = House(running.address, running.parts.cluster.workloads, running.parts.clients)

        async def try_with(which: str) -> grpc.StatusCode:
            async with house.connect(tokens[which]) as peer:
                return await verdict(peer, place.node("web-0"))

        assert {which: await try_with(which) for which in tokens} == {
            "good": OK,
            "of another pod": PERMISSION_DENIED,
            "for another audience": UNAUTHENTICATED,
        }

        await place.remove("Pod", place.shop, "web-0")
        await place.run_pod("web-0")

        async def is_refused() -> bool:
            return await try_with("good") is after

        await until(is_refused, FORGOTTEN)
