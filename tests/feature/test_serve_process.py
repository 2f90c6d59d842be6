"""`xds serve` as the operator starts it: a process with signals, exit codes and a log on stderr."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 30.0
XDS = [sys.executable, "-c", "from xds.cli import main; main()"]
POLICY = "httpProxy: http://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\ndialect: go\n"
SMALL = ["--resolv-conf", "", "--listen", "127.0.0.1:0"]


def xds(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*XDS, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Serving:
    """A running `xds serve`; what it logs is in a file."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self.log = directory / "log"
        self._address = directory / "address"

    @property
    def address(self) -> str:
        wait_until(lambda: self._address.exists() or self.process.poll() is not None)
        return self._address.read_text(encoding="utf-8").strip()

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@contextmanager
def serving(policies: Path, directory: Path, *more: str) -> Iterator[Serving]:
    """Start `xds serve` with a log of JSON lines; it is gone afterwards."""
    options = ["--address-file", str(directory / "address"), "--log-format", "json", *SMALL, *more]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*XDS, "serve", str(policies), *options], stdout=subprocess.PIPE, stderr=log)
    try:
        yield Serving(process, directory)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    (path / "default.yaml").write_text(POLICY)
    return path


def test_a_dump_of_the_server_is_the_dump_of_its_directory(policies: Path, tmp_path: Path) -> None:
    with serving(policies, tmp_path) as server:
        online = xds("dump", "--server", server.address, "--node", "web-0.shop", "-o", "json")
    offline = xds("dump", policies, "--resolv-conf", "", "-o", "json")

    assert (online.returncode, offline.returncode) == (0, 0)
    assert online.stdout == offline.stdout
    assert len(json.loads(online.stdout)) >= 4


@pytest.mark.parametrize(("options", "count"), [((), 1), (("--cluster-cidr", "10.96.0.0/12"), 0)])
def test_names_of_the_cluster_that_anybody_may_claim_are_told_of_once(
    policies: Path, tmp_path: Path, options: tuple[str, ...], count: int
) -> None:
    with serving(policies, tmp_path, *options) as server:
        assert server.address
        assert sum("--cluster-cidr" in str(event["event"]) for event in server.events()) == count


@pytest.mark.parametrize(("listen", "count"), [("127.0.0.1:0", 0), ("0.0.0.0:0", 1)])
def test_an_address_that_others_reach_is_warned_of_once(
    policies: Path, tmp_path: Path, listen: str, count: int
) -> None:
    with serving(policies, tmp_path, "--listen", listen) as server:
        assert server.address
        assert sum("not authenticated" in str(event["event"]) for event in server.events()) == count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(policies: Path, tmp_path: Path, number: signal.Signals) -> None:
    with serving(policies, tmp_path) as server:
        assert server.address
        server.process.send_signal(number)
        stdout, _ = server.process.communicate(timeout=PATIENCE)

        assert (server.process.returncode, stdout) == (0, b"")
        assert [event["event"] for event in server.events()][-1] == "stopped"


def test_the_log_says_which_file_broke_where_and_what_stays(policies: Path, tmp_path: Path) -> None:
    with serving(policies, tmp_path) as server:
        assert server.address
        (policies / "default.yaml").write_text(f"{POLICY}noproxy: [a.example]\n")
        wait_until(lambda: any(event["event"] == "finding" for event in server.events()))

        refused, finding = server.events()[-2:]
        assert refused["event"] == "document refused; its last good version stays in force"
        assert finding["where"] == f"{policies}/default.yaml:4 noproxy"
        assert finding["hint"]


def test_a_missing_directory_is_wrong_usage(tmp_path: Path) -> None:
    finished = xds("serve", tmp_path / "none", *SMALL)

    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith(f"xds: {tmp_path}/none does not exist; ")
    assert "Traceback" not in finished.stderr


def test_an_address_that_is_taken_is_named(policies: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        finished = xds("serve", policies, *SMALL[:2], "--listen", f"127.0.0.1:{taken.getsockname()[1]}")

    assert finished.returncode == 3
    assert "can't listen on 127.0.0.1" in finished.stderr
    assert "is in use" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param("198.51.100.7:18000", "no address of this machine", id="an address of another machine"),
        pytest.param("nowhere.invalid:18000", "does not resolve", id="a name that does not resolve"),
    ],
)
def test_an_address_that_is_not_ours_is_told_from_one_that_is_taken(policies: Path, address: str, reason: str) -> None:
    finished = xds("serve", policies, *SMALL[:2], "--listen", address)

    assert finished.returncode == 3
    assert finished.stderr.splitlines()[-1].startswith(f"xds: can't listen on {address}: ")
    assert reason in finished.stderr
    assert not [line for line in finished.stderr.splitlines() if line.startswith("E")], "gRPC complains, too"


def test_an_address_file_that_can_not_be_written_is_named(policies: Path, tmp_path: Path) -> None:
    finished = xds("serve", policies, *SMALL, "--address-file", tmp_path / "none" / "address")

    assert finished.returncode == 3
    assert "--address-file" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_server_that_does_not_answer_has_exit_code_3() -> None:
    finished = xds("dump", "--server", "127.0.0.1:1", "--node", "a.b")

    assert (finished.returncode, finished.stdout) == (3, "")
    assert finished.stderr.startswith("xds: 127.0.0.1:1 can't be reached")
