"""The demo as its users run it: it shows every step, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import open_lab
from xds.demo.cast import xds_command
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., subprocess.Popen[str]]

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def _lab_can_be_opened() -> None:
    open_lab().close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for temporary files in which the demo is alone; its name is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="demo-") as path:
        yield Path(path)


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Start a demo with the options given, in `directory`; it does not outlive the test."""
    started: list[subprocess.Popen[str]] = []
    environment = {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(directory),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONUNBUFFERED": "1",
    }

    def start_one(*options: str) -> subprocess.Popen[str]:
        with (directory / "output").open("w", encoding="utf-8") as output:
            # A shell has what it runs in the background ignore an interrupt, and that is inherited.
            command = ["env", "--default-signal=INT", *xds_command("demo", *options)]
            demo = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, text=True)
        started.append(demo)
        return demo

    yield start_one
    for demo in started:
        demo.kill()
        demo.wait()


def _processes_of(directory: Path) -> list[str]:
    """Command lines of running processes whose environment or arguments name `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in words:
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def _namespaces() -> set[str]:
    """Every network namespace that a process of this machine is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(link.readlink()))
        except OSError:
            continue
    return found


def _is_gone(directory: Path) -> bool:
    return not _processes_of(directory) and [path.name for path in directory.iterdir()] == ["output"]


def test_every_step_is_seen_to_work_and_nothing_is_left(directory: Path, start: Start) -> None:
    demo = start()
    assert demo.wait(90) == 0, (directory / "output").read_text(encoding="utf-8")
    text = (directory / "output").read_text(encoding="utf-8")
    assert "All 18 steps were seen to work" in text
    assert "CONNECT api.example.com:443" in text
    assert "GET http://api.example.com/hello" in text
    assert "✘" not in text
    wait_until(lambda: _is_gone(directory), "everything gone", 10)


def test_without_capture_it_says_what_can_not_be_shown_and_shows_the_rest(directory: Path, start: Start) -> None:
    demo = start("--no-capture")
    assert demo.wait(90) == 0, (directory / "output").read_text(encoding="utf-8")
    text = (directory / "output").read_text(encoding="utf-8")
    assert "no capture: the application connects to Envoy's listener directly" in text
    assert "'direct' can't be shown without capture" in text
    assert "All 12 steps were seen to work" in text
    wait_until(lambda: _is_gone(directory), "everything gone", 10)


@pytest.mark.parametrize(
    ("number", "options"),
    [
        pytest.param(signal.SIGINT, [], id="Ctrl-C"),
        pytest.param(signal.SIGKILL, [], id="kill -9"),
        pytest.param(signal.SIGINT, ["--no-capture"], id="Ctrl-C without capture"),
        pytest.param(signal.SIGKILL, ["--no-capture"], id="kill -9 without capture"),
    ],
)
def test_it_leaves_no_process_no_namespace_and_no_file_when_it_is_ended(
    directory: Path, start: Start, number: signal.Signals, options: list[str]
) -> None:
    namespaces = _namespaces()
    demo = start(*options)
    output = directory / "output"
    wait_until(lambda: "runs through the tunnel" in output.read_text(encoding="utf-8"), "a running download", 60)
    demo.send_signal(number)
    assert demo.wait(20) != 0
    wait_until(lambda: _is_gone(directory), f"everything gone: {_processes_of(directory)}", 10)
    assert _namespaces() <= namespaces


def test_a_step_that_fails_is_shown_and_ends_the_demo_with_an_error(directory: Path) -> None:
    """Here Envoy can't be started, because the control plane's command is broken."""
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(directory), "PYTHONPATH": str(Path(__file__).parents[2])}
    sabotage = (
        "import xds.demo.cast as cast; from xds.cli import main; import sys;"
        "cast.xds_command = lambda *words: ['sh', '-c', 'echo sabotage; exit 3'];"
        "sys.argv[1:] = ['demo']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", sabotage], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "✘ xds serve policies/" in done.stdout
    assert "control-plane ended with code 3" in done.stderr
    assert "sabotage" in done.stderr
    assert list(directory.iterdir()) == []
