"""A proxy with a name: it moves to another address, has several, or its name server is gone; tunnels go on."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    ECHO_PORT,
    POLICY_FILE,
    SERVER,
    CorporateProxy,
    ProxyKind,
    World,
    open_lab,
    render_policy,
    start_broker,
)
from xds.demo.cast import apply_capture, save_policy, start_control_plane, start_envoy
from xds.demo.lab import API_ADDRESS, FILES_ADDRESS, PROXY_ADDRESS, Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.demo.lab import Lab
    from xds.demo.processes import Program

pytestmark = pytest.mark.e2e

PORT = 4101
MOVING = "moving.corp.example"
NAME_SERVER = "10.77.0.1"
ATTEMPTS = "attempts: {count: 3}, health: {interval: 1s, timeout: 1s, unhealthyAfter: 1}"
FAILURES = "cluster.proxy/corp.update_failure"
_HERE = Path(__file__).parent


@dataclass(slots=True)
class MovingWorld:
    """A world whose proxy's name leads to what its name server says at the moment."""

    world: World
    proxies: dict[str, Program]
    name_server: Program

    def move(self, *addresses: str) -> None:
        """Let the name lead to `addresses` from now on."""
        self.name_server.stop()
        self.name_server = start_name_server(self.world.lab, *addresses)

    def is_served(self) -> bool:
        """Whether a new connection gets through a tunnel."""
        try:
            with closing(self.world.connect(API_ADDRESS, ECHO_PORT)) as connection:
                connection.sendall(b"\x00\x01 ping")
                return connection.recv(100) == b"\x00\x01 ping"
        except OSError:
            return False

    def tunnels(self, address: str) -> int:
        """How many tunnels the proxy at `address` was asked for."""
        return self.proxies[address].text().count("CONNECT")

    def is_used(self, address: str) -> bool:
        """Whether a new connection takes the proxy at `address`."""
        before = self.tunnels(address)
        return self.is_served() and self.tunnels(address) > before


def start_name_server(lab: Lab, *addresses: str) -> Program:
    """Start a name server that knows the proxy's addresses."""
    script = [sys.executable, str(_HERE / "name_server.py"), NAME_SERVER, f"{MOVING}={','.join(addresses)}"]
    program = lab.start("name-server", Namespace.CORP, script, environment=python_environment())
    program.wait_for("ready")
    return program


def start_proxy(lab: Lab, address: str) -> Program:
    """Start a proxy whose tunnels echo."""
    command = [sys.executable, str(_HERE / "bad_proxy.py"), address, f"old-version={PORT}"]
    program = lab.start(f"proxy-{address}", Namespace.CORP, command, environment=python_environment())
    program.wait_for_port(PORT)
    return program


@pytest.fixture
def moving() -> Iterator[MovingWorld]:
    """A pod that asks the proxy by a name that leads to `PROXY_ADDRESS` at first."""
    described = f"{{endpoints: [{{url: 'http://{MOVING}:{PORT}'}}], {ATTEMPTS}}}"
    with open_lab() as lab:
        (lab.directory / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:2\n")
        name_server = start_name_server(lab, PROXY_ADDRESS)
        proxies = {address: start_proxy(lab, address) for address in (PROXY_ADDRESS, FILES_ADDRESS)}
        save_policy(lab, POLICY_FILE, render_policy(proxy=described))
        control_plane = start_control_plane(lab, SERVER)
        sidecar = start_envoy(lab, SERVER)
        sidecar.wait_until_live()
        apply_capture(lab)
        start_broker(lab)
        proxy = CorporateProxy(ProxyKind.EMBEDDED, proxies[PROXY_ADDRESS], proxies[PROXY_ADDRESS].log)
        world = World(lab, proxy, control_plane, sidecar, lab.leaked_packets())
        opened = MovingWorld(world, proxies, name_server)
        wait_until(opened.is_served, "a tunnel through the proxy", timeout=30)
        yield opened
        assert world.leaked == 0, "the pod sent packets towards the Internet by itself"


def test_a_proxy_that_moves_is_followed_without_a_change_of_policy(moving: MovingWorld) -> None:
    with closing(moving.world.connect(API_ADDRESS, ECHO_PORT)) as open_tunnel:
        open_tunnel.sendall(b"\x00\x01 before")
        assert open_tunnel.recv(100) == b"\x00\x01 before"

        moving.move(FILES_ADDRESS)
        wait_until(lambda: moving.is_used(FILES_ADDRESS), "tunnels through the new address", timeout=30)

        before = moving.tunnels(PROXY_ADDRESS)
        assert all(moving.is_used(FILES_ADDRESS) for _ in range(10))
        assert moving.tunnels(PROXY_ADDRESS) == before
        open_tunnel.sendall(b"\x00\x01 after")
        assert open_tunnel.recv(100) == b"\x00\x01 after"


def test_of_two_addresses_of_a_name_one_may_die(moving: MovingWorld) -> None:
    moving.move(PROXY_ADDRESS, FILES_ADDRESS)
    for address in (PROXY_ADDRESS, FILES_ADDRESS):
        wait_until(partial(moving.is_used, address), f"tunnels through {address}", timeout=30)

    moving.proxies[PROXY_ADDRESS].kill()

    assert all(moving.is_served() for _ in range(30))


def test_without_a_name_server_the_last_address_is_used(moving: MovingWorld) -> None:
    moving.name_server.stop()
    before = moving.world.envoy.admin.counter(FAILURES)
    wait_until(lambda: moving.world.envoy.admin.counter(FAILURES) > before, "a question without an answer", timeout=60)

    assert moving.is_used(PROXY_ADDRESS)
