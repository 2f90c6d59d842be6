"""Several control planes of one cluster: they tell the same, and one that dies is replaced."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.cluster.place import following, until
from tests.feature.test_serve_kubernetes import to
from tests.support.cluster import policy
from tests.support.control_plane import wait_until
from tests.support.returning_envoys import DELTA, SDS, ReturningEnvoy, living
from xds.kubernetes.lease import Durations, leases_path
from xds.kubernetes.status import ACCEPTED
from xds.names import HTTP_ROUTES
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.place import Place

XDS = (sys.executable, "-c", "from xds.cli import main; main()")
SERVE = ("serve", "--kubernetes", "--token-source", "off", "--resolv-conf", "", "--log-level", "warning")
LISTEN = [text for name in ("", "admin-", "http-") for text in (f"--{name}listen", "127.0.0.1:0")]
NOTICED = 10.0
"""Seconds until who leads is seen to lead and has written, beyond the time of the Lease."""


async def test_replicas_tell_the_same_and_who_comes_back_to_another_one_hears_nothing(
    place: Place, kubeconfig: Path
) -> None:
    await place.apply(policy(place.home, "corp", to(10)))
    await place.run_pod("web-0")
    envoy = ReturningEnvoy(DELTA, place.node("web-0"), routes=(HTTP_ROUTES,))

    def is_told_all(stream: int) -> bool:
        """Whether a stream has the answer to its last question: there is no such secret."""
        return len(envoy.streams) == stream and any(told.type_url == SDS.type_url for told in envoy.told)

    async with (
        following(kubeconfig, replace(place.settings, identifier="one")) as one,
        following(kubeconfig, replace(place.settings, identifier="two")) as two,
    ):
        async with living([envoy], one.address):
            await wait_until(lambda: is_told_all(1) and not envoy.owes_answer)
        assert all(envoy.versions[kind.type_url] for kind in (ResourceType.CLUSTER, ResourceType.LISTENER))

        async with living([envoy], two.address):
            await wait_until(lambda: is_told_all(2))
        assert not any(told.bodies for told in envoy.told)


async def test_a_leader_that_dies_is_followed_within_the_time_of_its_lease(place: Place, tmp_path: Path) -> None:
    await place.apply(policy(place.home, "corp", to(10)))

    async def is_accepted(accepted: str) -> bool:
        return (await place.metadata(place.home, "corp"))[1].get(ACCEPTED) == accepted

    async def leads(identifier: str) -> bool:
        found = await place.ask("GET", leases_path(place.home))
        holders = {item["metadata"]["name"]: item["spec"].get("holderIdentity") for item in found["items"]}
        return str(holders.get("egress-xds-leader")).startswith(f"{identifier}_")

    async def listens(identifier: str) -> bool:
        return await asyncio.to_thread((tmp_path / identifier).exists)

    with ExitStack() as stack:
        leader = stack.enter_context(serving(place, tmp_path, "first"))
        await until(lambda: leads("first"), 60)
        await until(lambda: is_accepted("true"))
        stack.enter_context(serving(place, tmp_path, "second"))
        await until(lambda: listens("second"), 60)
        leader.kill()
        began = time.monotonic()
        await place.apply(policy(place.home, "corp", to(10) + "noProxy: [10.0.0.0/33]\n"))
        await until(lambda: is_accepted("false"), 60)
        took = time.monotonic() - began

        assert await leads("second")
        assert took < Durations().lease + NOTICED


@contextmanager
def serving(place: Place, directory: Path, identifier: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a control plane as a process; once it listens there is a file of its name."""
    where = ("--kubeconfig", place.run.kubeconfig, "--namespace", place.home)
    who = ("--identifier", identifier, "--address-file", directory / identifier)
    process = subprocess.Popen([*XDS, *SERVE, *LISTEN, *map(str, (*where, *who))])
    try:
        yield process
    finally:
        process.kill()
        process.wait()
