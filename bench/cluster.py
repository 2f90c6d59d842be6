"""
What a cluster costs: `xds serve --kubernetes` beside an emulated API server, with many pods and with none.

Measured are the time until the first configuration can be served, memory per pod, the CPU that changes of pods take and
the pushes that they cause. Pods are as large as one that was recorded. A thousand pods have a stream, so that a
push that should not be shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fanout import Program, running
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HERE = Path(__file__).parent
_CALL_MAIN = "from xds.cli import main; main()"
_PATIENCE = 300.0
_STREAMS = 1000


class Sync(NamedTuple):
    """The start: seconds and CPU seconds until the first configuration is served, and resident bytes then."""

    pods: int
    seconds: float
    cpu: float
    memory: int


class Changes(NamedTuple):
    """Changes of pods: CPU seconds per second, of one core, and what they caused."""

    what: str
    per_second: float
    cpu_share: float
    pushes: int
    responses: int


class Cluster(NamedTuple):
    """Everything that was measured of one size."""

    pods: int
    namespaces: int
    policies: int
    empty: Sync
    full: Sync
    changes: tuple[Changes, ...]


class _Server(NamedTuple):
    program: Program
    address: str
    http: str
    sync: Sync

    def metric(self, name: str) -> int:
        """Return the sum of a metric's series."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name))


@contextmanager
def _serving(pods: int, namespaces: int, policies: int) -> Iterator[tuple[Program, _Server]]:
    """Run an API server and a control plane that follows it; the latter is synced when the block begins."""
    with tempfile.TemporaryDirectory() as directory:
        sizes = (str(pods), str(namespaces), str(policies))
        with running("cluster_api.py", *sizes, directory) as api:
            api.hear()
            address, http = Path(directory, "address"), f"127.0.0.1:{_free_port()}"
            command = [sys.executable, "-c", _CALL_MAIN, "serve", "--kubernetes", "--token-source", "off"]
            command += ["--kubeconfig", f"{directory}/kubeconfig", "--namespace", "egress-system", "--resolv-conf", ""]
            command += ["--listen", "127.0.0.1:0", "--admin-listen", "", "--http-listen", http]
            command += ["--address-file", str(address), "--log-level", "error"]
            began = time.monotonic()
            environment = {**os.environ, "PYTHONPATH": str(_HERE.parent)}
            with subprocess.Popen(command, env=environment, text=True) as process:
                try:
                    program = Program(process)
                    while not address.exists():
                        if process.poll() is not None or time.monotonic() > began + _PATIENCE:
                            raise RuntimeError("the control plane does not listen")
                        time.sleep(0.01)
                    sync = Sync(pods, time.monotonic() - began, program.cpu, program.memory)
                    yield api, _Server(program, address.read_text(encoding="ascii").strip(), http, sync)
                finally:
                    process.kill()


def _free_port() -> int:
    import socket  # noqa: PLC0415 - here only

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(*, pods: int, namespaces: int, policies: int, seconds: int, say: Callable[[str], None]) -> Cluster:
    """Measure a cluster without pods and one with them, and changes of these, 100 a second."""
    say("a cluster without pods")
    with _serving(0, namespaces, policies) as (_, server):
        empty = server.sync
    say(f"{pods:,} pods in {namespaces} namespaces, {policies} policies")
    with _serving(pods, namespaces, policies) as (api, server):
        port = server.address.rpartition(":")[2]
        with running("fanout_load.py", "delta", port, f"--policies={namespaces}") as loader:
            loader.order({"connect": min(pods, _STREAMS), "first": 0, "step": 1})
            loader.hear()
            changes = []
            for what, is_relevant in (("status", 0), ("labels", 1)):
                say(f"100 pods a second change their {what}")
                changes.append(_change(api, server, what, {"change": 100, "seconds": seconds, "relevant": is_relevant}))
        return Cluster(pods, namespaces, policies, empty, server.sync, tuple(changes))


def _change(api: Program, server: _Server, what: str, order: dict[str, int]) -> Changes:
    server.program.rest()
    before, pushes, responses = server.program.cpu, _pushes(server), server.metric("egress_xds_responses_total")
    began = time.monotonic()
    api.order(order)
    answer = api.hear()
    server.program.rest()
    cpu = server.program.cpu - before
    rate = order["change"] * order["seconds"] / answer["seconds"]
    share = cpu / (time.monotonic() - began)
    return Changes(what, rate, share, _pushes(server) - pushes, server.metric("egress_xds_responses_total") - responses)


def _pushes(server: _Server) -> int:
    return server.metric("egress_xds_pushes_total")


def report(found: Cluster) -> Iterator[Table]:
    """Yield what is to be printed."""
    table = Table(title=f"{found.namespaces} namespaces, {found.policies} policies, until the first is served")
    for heading in ("pods", "seconds", "CPU seconds", "MB", "kB per pod"):
        table.add_column(heading, justify="right")
    for sync in (found.empty, found.full):
        per_pod = f"{(sync.memory - found.empty.memory) / sync.pods / 1e3:.2f}" if sync.pods else ""
        table.add_row(f"{sync.pods:,}", f"{sync.seconds:.1f}", f"{sync.cpu:.1f}", f"{sync.memory / 1e6:.0f}", per_pod)
    yield table
    table = Table(title=f"changes of {found.pods:,} pods, {min(found.pods, _STREAMS):,} of them with a stream")
    for heading in ("what changes", "per second", "CPU, of one core", "pushes", "responses"):
        table.add_column(heading, justify="left" if heading == "what changes" else "right")
    for each in found.changes:
        share = f"{each.cpu_share:.0%}"
        table.add_row(each.what, f"{each.per_second:.0f}", share, f"{each.pushes:,}", f"{each.responses:,}")
    yield table
