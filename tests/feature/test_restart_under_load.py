"""`xds serve` with a thousand streams is killed, or told to stop: everybody is back soon, and hears nothing twice."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.feature.test_serve_process import serving
from tests.support.returning_envoys import CDS, DELTA, LDS, MISSING, RDS, SDS, SOTW, ReturningEnvoy, living
from xds.names import HTTP_ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.feature.test_serve_process import Serving

STREAMS = 1000
PATIENCE = 50.0
"""Seconds; on a machine with nothing else to do, everything here takes a tenth of it."""
QUIET = ("--admin-listen", "", "--http-listen", "")
SHUTTING_DOWN = (grpc.StatusCode.UNAVAILABLE, "the control plane is shutting down")


def save(policies: Path, port: int) -> None:
    """Save a policy whose proxy listens on `port`."""
    text = f"httpProxy: http://192.0.2.2:{port}\nhttpsProxy: http://192.0.2.2:{port}\ndialect: go\n"
    draft = policies / ".draft"
    draft.write_text(text, encoding="ascii")
    draft.replace(policies / "default.yaml")


def envoys(count: int) -> list[ReturningEnvoy]:
    """Half of them speak SotW, half delta."""
    return [
        ReturningEnvoy((SOTW, DELTA)[number % 2], f"web-{number}.shop", routes=(HTTP_ROUTES,))
        for number in range(count)
    ]


async def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Wait until `condition` holds; AssertionError with `what` if it does not within the patience."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  # a thousand streams have no event in common
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(what()) from None


async def served(fleet: Sequence[ReturningEnvoy], stream: int) -> None:
    """
    Wait until the stream of this number is served for each of `fleet`, and nobody has anything to say.

    Types are answered in the order CDS, LDS, RDS, SDS, and an absent secret is told of by delta alone: what comes last
    says that all before has been said.
    """

    def is_served(envoy: ReturningEnvoy) -> bool:
        last = (RDS if envoy.variant == SOTW else SDS).type_url
        is_told = len(envoy.streams) == stream and any(told.type_url == last for told in envoy.told)
        return is_told and not envoy.owes_answer

    def describe() -> str:
        """What is known of the first of those who are not served."""
        waiting = [envoy for envoy in fleet if not is_served(envoy)]
        first = waiting[0]
        story = [[told.type_url for told in stream] for stream in first.streams]
        return f"{len(waiting)} are not served, such as {first.node} ({first.variant}): {story}, ended by {first.ends}"

    await until(lambda: all(map(is_served, fleet)), describe)


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    save(path, 3128)
    return path


async def find_address(server: Serving) -> str:
    """Return where the server listens, once it does."""
    return await asyncio.to_thread(lambda: server.address)


async def end(server: Serving, number: signal.Signals) -> int:
    """Send a signal and wait for the process to end."""
    server.process.send_signal(number)
    return await asyncio.to_thread(server.process.wait, PATIENCE)


def check_return(envoy: ReturningEnvoy, known: dict[str, dict[str, bytes]]) -> None:
    """
    What did not change was not sent again.

    Delta: the only word is on what is not there. SotW: clusters and listeners neither; a version says nothing about a
    list of names (xDS protocol, "ACK/NACK and resource type instance version"), so routes are told once more, as
    they were.
    """
    first = envoy.told[0]
    if envoy.variant == SOTW:
        assert (first.type_url, first.bodies) == (RDS.type_url, known[RDS.type_url])
    else:
        assert (first.type_url, first.bodies, first.removed) == (SDS.type_url, {}, (MISSING,))
    assert len(envoy.told) == 1
    assert envoy.bodies == known


def check_change(envoy: ReturningEnvoy, known: dict[str, dict[str, bytes]]) -> None:
    """After a change each resource, or with SotW each state, that was sent differs from the one before."""
    assert envoy.bodies[CDS.type_url] != known[CDS.type_url]
    for told in envoy.streams[1][1:]:
        before = known[told.type_url]
        if envoy.variant == SOTW:
            assert told.bodies != before
        else:
            assert not [name for name, body in told.bodies.items() if before.get(name) == body]


async def test_after_a_kill_a_thousand_streams_are_back_and_nothing_is_sent_again(
    policies: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    fleet = envoys(STREAMS)
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    with serving(policies, places[0], *QUIET) as server:
        address = await find_address(server)
        async with living(fleet, address):
            await served(fleet, 1)
            known = {envoy.node: {url: dict(bodies) for url, bodies in envoy.bodies.items()} for envoy in fleet}
            assert all(known[envoy.node][kind.type_url] for envoy in fleet for kind in (CDS, LDS, RDS))

            await end(server, signal.SIGKILL)
            killed = time.monotonic()
            with serving(policies, places[1], *QUIET, "--listen", address) as again:
                assert await find_address(again) == address
                listening = time.monotonic()
                await served(fleet, 2)
                record_property("seconds from the kill until all are back", time.monotonic() - killed)
                record_property("of these, until the server listens", listening - killed)
                for envoy in fleet:
                    check_return(envoy, known[envoy.node])

                save(policies, 3129)
                await until(
                    lambda: all(any(told.type_url == CDS.type_url for told in envoy.told) for envoy in fleet),
                    lambda: "not everybody is told of a change",
                )
                assert await end(again, signal.SIGTERM) == 0
                await until(lambda: all(len(envoy.ends) >= 2 for envoy in fleet), lambda: "not every stream has ended")
        for envoy in fleet:
            check_change(envoy, known[envoy.node])


async def test_on_sigterm_every_stream_ends_as_unavailable_before_the_grace_is_over(
    policies: Path, tmp_path: Path
) -> None:
    fleet = envoys(STREAMS // 5)
    grace = PATIENCE
    with serving(policies, tmp_path, *QUIET, "--shutdown-grace", f"{grace}s") as server:
        address = await find_address(server)
        async with living(fleet, address):
            await served(fleet, 1)
            began = time.monotonic()
            assert await end(server, signal.SIGTERM) == 0
            assert time.monotonic() - began < grace
            await until(lambda: all(envoy.ends for envoy in fleet), lambda: "not every stream has ended")

    assert {envoy.ends[0] for envoy in fleet} == {SHUTTING_DOWN}
