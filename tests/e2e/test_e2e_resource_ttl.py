"""Configuration with a time to live: heartbeats keep it, a dead control plane ends it, and nothing goes direct."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, ECHO_PORT, SERVER, ProxyKind, World, hold, open_world
from xds.demo.cast import start_control_plane
from xds.demo.lab import API_ADDRESS
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

TTL = 2.0
LONG_TTL = 15.0
"""Long enough for another control plane to start and be found."""
OPTIONS = ("--resource-ttl", f"{TTL:g}s")
ADDED, MODIFIED = "listener_manager.listener_added", "listener_manager.listener_modified"
REJECTED = ("listener_manager.lds.update_rejected", "cluster_manager.cds.update_rejected")
ACCEPTED = "listener_manager.lds.update_success"
REFUSED = 7
"""Exit status of curl when there is nobody to connect to."""


@pytest.fixture
def mortal() -> Iterator[World]:
    """A world whose Envoy keeps its configuration for two seconds without a word, and drains for three."""
    with open_world(ProxyKind.EMBEDDED, server_options=OPTIONS, envoy_options=("--drain-time-s", "3")) as world:
        yield world
        assert world.leaked == 0, "the pod sent packets towards the Internet by itself"


def test_heartbeats_keep_the_configuration_and_a_killed_control_plane_ends_it(mortal: World) -> None:
    """What is not sent again must not be touched by heartbeats, and what has ended must not open a way around."""
    wait_until(lambda: mortal.curl(f"https://{API}/").exit_code == 0, "the first connection", 20)
    built = _built(mortal)
    with mortal.connect(API_ADDRESS, ECHO_PORT) as tunnel:
        hold(lambda: _echoes(tunnel) and mortal.curl(f"https://{API}/").exit_code == 0, "traffic", 4 * TTL)
        assert _built(mortal) == built, "heartbeats are no content"
        assert not any(mortal.envoy.admin.counter(name) for name in REJECTED), "Envoy takes heartbeats"

        mortal.control_plane.kill()
        killed = time.monotonic()
        wait_until(lambda: not _listeners(mortal), "the end of the listeners", 20)
        lasted = time.monotonic() - killed
        assert lasted < TTL + 2, f"the configuration lasted for {lasted:.1f} s"
        assert mortal.curl(f"https://{API}/").exit_code == REFUSED
        assert _echoes(tunnel), "open tunnels are drained like those of any listener that is gone"
        wait_until(lambda: not _echoes(tunnel), "the end of the tunnel", 20)

    start_control_plane(mortal.lab, SERVER, *OPTIONS)
    wait_until(lambda: mortal.curl(f"https://{API}/").exit_code == 0, "connections through the next control plane", 60)


def test_a_control_plane_that_gives_no_time_to_live_takes_that_of_the_other_away() -> None:
    """Sidecars run on through the change of setting, and for longer than the time to live that they had."""
    with open_world(ProxyKind.EMBEDDED, server_options=("--resource-ttl", f"{LONG_TTL:g}s")) as world:
        wait_until(lambda: world.curl(f"https://{API}/").exit_code == 0, "the first connection", 20)
        built, accepted = _built(world), world.envoy.admin.counter(ACCEPTED)

        world.control_plane.kill()
        start_control_plane(world.lab, SERVER)

        wait_until(lambda: world.envoy.admin.counter(ACCEPTED) > accepted, "Envoy hearing from the second", LONG_TTL)
        hold(lambda: world.curl(f"https://{API}/").exit_code == 0, "traffic", LONG_TTL + 2)
        assert _built(world) == built, "the listeners were those of the beginning all the time"
        assert world.leaked == 0, "the pod sent packets towards the Internet by itself"


def _listeners(world: World) -> int:
    return world.envoy.admin.counter("listener_manager.total_listeners_active")


def _built(world: World) -> tuple[int, int]:
    """How many listeners Envoy has built so far."""
    return world.envoy.admin.counter(ADDED), world.envoy.admin.counter(MODIFIED)


def _echoes(tunnel: socket.socket) -> bool:
    with suppress(OSError):
        tunnel.sendall(b"x")
        return tunnel.recv(1) == b"x"
    return False
