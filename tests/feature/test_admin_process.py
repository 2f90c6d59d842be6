"""The ports for operators of a real process: where they are, what happens if they are taken, and its log."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 30.0
XDS = [sys.executable, "-c", "from xds.cli import main; main()"]
POLICY = "httpProxy: http://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\ndialect: go\n"
COMMON = ["--resolv-conf", "", "--listen", "127.0.0.1:0", "--log-format", "json"]


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    (path / "default.yaml").write_text(POLICY)
    return path


class Log:
    """What a running server has logged so far."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self._path = path

    def events(self) -> list[dict[str, object]]:
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait(self, event: str) -> dict[str, object]:
        """Return the first entry with this event."""
        deadline = time.monotonic() + PATIENCE
        while not (found := [entry for entry in self.events() if entry["event"] == event]):
            assert time.monotonic() < deadline, f"{event!r} is not logged: {self.events()}"
            assert self.process.poll() is None, f"it has ended: {self._path.read_text(encoding='utf-8')}"
            time.sleep(0.02)
        return found[0]


@contextmanager
def serving(policies: Path, *options: str) -> Iterator[Log]:
    path = policies.parent / "log"
    with path.open("wb") as log:
        process = subprocess.Popen([*XDS, "serve", str(policies), *COMMON, *options], stderr=log)
    try:
        yield Log(process, path)
    finally:
        process.kill()
        process.wait()


def get(port: object, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_process_is_alive_ready_and_measured(policies: Path) -> None:
    with serving(policies, "--admin-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0") as log:
        port = log.wait("metrics and probes")["port"]
        log.wait("listening")

        assert get(port, "/healthz") == (200, "alive\n")
        assert get(port, "/readyz") == (200, "ready\n")
        status, text = get(port, "/metrics")
        assert status == 200
        assert re.search(
            r'^egress_xds_build_info\{grpc="[\d.]+",python="3\.[\d.]+",version=".+"\} 1\.0$', text, re.MULTILINE
        )
        assert re.search(r"^process_cpu_seconds_total \d", text, re.MULTILINE)


def test_a_server_that_is_not_synced_is_alive_but_not_ready(policies: Path) -> None:
    """It waits for quiet before it reads for the first time, here for very long."""
    ports = ("--admin-listen", "", "--http-listen", "127.0.0.1:0")
    with serving(policies, *ports, "--debounce-quiet", "20s", "--debounce-max", "20s") as log:
        port = log.wait("metrics and probes")["port"]

        assert get(port, "/healthz") == (200, "alive\n")
        assert get(port, "/readyz") == (503, "the policies were not read and compiled yet\n")


@pytest.mark.parametrize(("host", "count"), [("127.0.0.1", 0), ("localhost", 0), ("0.0.0.0", 1)])
def test_client_status_for_everybody_is_warned_of(policies: Path, host: str, count: int) -> None:
    with serving(policies, "--admin-listen", f"{host}:0", "--http-listen", "") as log:
        log.wait("listening")

        warnings = [entry for entry in log.events() if "client status is not for sidecars" in str(entry["event"])]
        assert len(warnings) == count


def test_ports_for_operators_can_be_switched_off(policies: Path) -> None:
    with serving(policies, "--admin-listen", "", "--http-listen", "") as log:
        log.wait("listening")

        said = {entry["event"] for entry in log.events()}
        assert said.isdisjoint({"metrics and probes", "client status, health and reflection"})


@pytest.mark.parametrize("option", ["--admin-listen", "--http-listen"])
def test_an_address_for_operators_that_somebody_chose_must_be_had(policies: Path, option: str) -> None:
    others = {"--admin-listen": "", "--http-listen": ""}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = [word for pair in {**others, option: address}.items() for word in pair]
        command = [*XDS, "serve", str(policies), *COMMON, *options]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert finished.returncode == 3
    assert f"can't listen on {address}" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_default_address_that_is_taken_is_done_without_and_told(policies: Path) -> None:
    """Whoever has the ports by now, another test or this one: the server that comes later serves all the same."""
    with contextmanager(_take)(18001), contextmanager(_take)(18002), serving(policies) as log:
        log.wait("listening")

        said = [entry for entry in log.events() if entry["event"] == "an address for operators is not served"]
        assert [(entry["level"], entry["address"]) for entry in said] == [
            ("warning", "127.0.0.1:18001"),
            ("warning", "127.0.0.1:18002"),
        ]


def _take(port: int) -> Iterator[None]:
    """Have `port` taken, by this socket or by whoever was quicker."""
    try:
        taken = socket.create_server(("127.0.0.1", port))
    except OSError:
        yield
        return
    with taken:
        yield
