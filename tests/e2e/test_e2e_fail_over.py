"""A proxy that dies under load: the next one takes over, the first comes back, and nothing leaves directly."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

import pytest

from tests.e2e.harness import ECHO_PORT, ProxyKind, World
from xds.demo.lab import API_ADDRESS, PROXY_ADDRESS, Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.demo.processes import Program

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize("shared_world", [ProxyKind.SQUID], indirect=True, ids=["squid"]),
]

FIRST, SECOND = 4101, 4102
WATCH = "health: {interval: 1s, timeout: 1s, unhealthyAfter: 1}"
_SCRIPT = Path(__file__).with_name("bad_proxy.py")


def start_tunnel(world: World, port: int) -> Program:
    """Start a proxy whose tunnels echo."""
    command = [sys.executable, str(_SCRIPT), PROXY_ADDRESS, f"old-version={port}"]
    program = world.lab.start(f"proxy-{port}", Namespace.CORP, command, environment=python_environment())
    program.wait_for_port(port)
    return program


@dataclass(slots=True)
class Load:
    """Opens one connection after the other, and notes how each came out."""

    world: World
    outcomes: list[bool] = field(default_factory=list)
    slowest: float = 0.0
    _stop: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self.outcomes.append(self._connect())
            self.slowest = max(self.slowest, time.monotonic() - started)

    def _connect(self) -> bool:
        try:
            with self.world.connect(API_ADDRESS, ECHO_PORT) as connection:
                connection.sendall(b"\x00\x01 ping")
                return connection.recv(100) == b"\x00\x01 ping"
        except OSError:
            return False

    def wait_for_more(self, count: int) -> None:
        """Return once `count` more connections have come out well."""
        goal = sum(self.outcomes) + count
        wait_until(lambda: sum(self.outcomes) >= goal, f"{count} more connections", timeout=30)


@pytest.fixture
def proxies(shared_world: World) -> Iterator[dict[int, Program]]:
    """Two proxies."""
    running = {port: start_tunnel(shared_world, port) for port in (FIRST, SECOND)}
    yield running
    for program in running.values():
        program.stop()


def endpoints(second_priority: int) -> str:
    return (
        f"endpoints: [{{url: 'http://proxy.corp.example:{FIRST}'}}, "
        f"{{url: 'http://proxy.corp.example:{SECOND}', priority: {second_priority}}}]"
    )


def tunnels(program: Program) -> int:
    return program.text().count("CONNECT")


@pytest.mark.parametrize(
    ("options", "second_priority", "most_failures"),
    [
        pytest.param(WATCH, 1, None, id="priorities and probes"),
        # The one whose tunnel is open when the proxy dies can't be saved.
        pytest.param(f"{WATCH}, attempts: {{count: 3}}", 0, 1, id="equals, probes and attempts"),
    ],
)
def test_the_next_proxy_takes_over_and_the_first_comes_back(
    world: World, proxies: dict[int, Program], options: str, second_priority: int, most_failures: int | None
) -> None:
    world.set_policy(proxy=f"{{{endpoints(second_priority)}, {options}}}")
    with Load(world) as load:
        load.wait_for_more(20)
        assert tunnels(proxies[FIRST]) > 0

        proxies[FIRST].kill()
        killed = time.monotonic()
        load.wait_for_more(20)
        took = time.monotonic() - killed

        proxies[FIRST] = start_tunnel(world, FIRST)
        before = tunnels(proxies[FIRST])
        wait_until(lambda: tunnels(proxies[FIRST]) > before, "the first proxy used again", timeout=15)

    failed = load.outcomes.count(False)
    print(f"{failed} of {len(load.outcomes)} failed; 20 went through {took:.2f} s later; slowest {load.slowest:.2f} s")  # noqa: T201 - the figures that a run reports
    assert tunnels(proxies[SECOND]) > 0
    assert most_failures is None or failed <= most_failures
    assert took < 10


def test_without_any_proxy_connections_are_refused_at_once(world: World, proxies: dict[int, Program]) -> None:
    world.set_policy(proxy=f"{{{endpoints(1)}, {WATCH}}}")
    for program in proxies.values():
        program.kill()

    started = time.monotonic()
    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\x01 ping")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""

    assert time.monotonic() - started < 8


def test_a_silent_tunnel_is_kept_alive_by_the_kernel(world: World, proxies: dict[int, Program]) -> None:
    """Envoy asks the kernel to probe the proxy after a minute of silence."""
    world.set_policy(proxy=f"{{{endpoints(1)}}}")
    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\x01 ping")
        assert connection.recv(100) == b"\x00\x01 ping"
        sockets = world.lab.run(Namespace.POD, ["ss", "-tno", "state", "established", f"( dport = :{FIRST} )"])

    assert b"keepalive" in sockets.stdout
    assert proxies[FIRST].exit_code is None
