"""How a command ends when its output or its input is not to be had: one message, one exit code, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command_line import Runner

NOBODY = 65534
XDS = f"{sys.executable} -c 'from xds.cli import main; main()'"
VERBS = [
    pytest.param("schema", id="schema"),
    pytest.param("explain", id="explain"),
    pytest.param("explain EX101", id="one code"),
    pytest.param("bootstrap --node a.b --server h:1", id="bootstrap"),
    pytest.param("capture --print", id="capture"),
    pytest.param("--help", id="help"),
    pytest.param("dump --help", id="help of a verb"),
]


def shell(script: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-o", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_a_failure_in_one_line(verb: str) -> None:
    done = shell(f"{XDS} {verb} > /dev/full")

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "xds: the output can't be written: No space left on device; write it to a place with room"
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_a_pipe_that_nobody_reads_ends_the_command_as_sigpipe_would_and_quietly(verb: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    command = [sys.executable, "-c", "from xds.cli import main; main()", *verb.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)

    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_under_stderr_is_survived() -> None:
    done = shell(f"{XDS} explain nonsense 2> /dev/full")

    assert done.returncode == 2


# ------------------------------------------------------------------------------------- paths to policies


def arguments(verb: str, path: Path) -> list[str]:
    return [verb, str(path), *(["--listen", "127.0.0.1:0"] if verb == "serve" else [])]


READERS = ["validate", "dump", "serve"]


@pytest.mark.parametrize("verb", READERS)
def test_a_link_that_leads_to_itself_is_named_with_its_remedy(xds: Runner, tmp_path: Path, verb: str) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)

    outcome = xds(*arguments(verb, loop))

    assert (outcome.code, outcome.out) == (2, "")
    assert f"xds: {loop} is a link that leads to itself; " in outcome.err
    assert "ls -l" in outcome.err


@pytest.mark.parametrize("verb", READERS)
def test_a_link_that_leads_nowhere_is_named_with_its_target(xds: Runner, tmp_path: Path, verb: str) -> None:
    link = tmp_path / "link"
    link.symlink_to("elsewhere")

    outcome = xds(*arguments(verb, link))

    assert (outcome.code, outcome.out) == (2, "")
    assert f"xds: {link} is a link to elsewhere, which does not exist; " in outcome.err
    assert "mkdir" not in outcome.err


@pytest.mark.parametrize("verb", READERS)
def test_a_missing_path_comes_with_a_remedy(xds: Runner, tmp_path: Path, verb: str) -> None:
    outcome = xds(*arguments(verb, tmp_path / "none"))

    assert (outcome.code, outcome.out) == (2, "")
    assert f"xds: {tmp_path / 'none'} does not exist; " in outcome.err


@contextmanager
def not_as_root() -> Iterator[None]:
    """Give up root's right to read everything for a while."""
    user = os.geteuid()
    os.seteuid(NOBODY if user == 0 else user)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("verb", READERS)
def test_a_directory_without_the_right_to_read_it_comes_with_a_remedy(xds: Runner, tmp_path: Path, verb: str) -> None:
    tmp_path.chmod(0)

    with not_as_root():
        outcome = xds(*arguments(verb, tmp_path))

    tmp_path.chmod(0o700)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Permission denied; check its owner and mode: ls -ld" in outcome.err


def test_a_loop_inside_a_directory_is_a_finding_of_its_own(xds: Runner, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")

    outcome = xds("validate", tmp_path)

    assert outcome.code == 1
    assert "loop.yaml: error[EX901]" in outcome.out


@pytest.mark.parametrize("name", ["none", "loop.yaml", "empty"])
def test_a_path_that_can_not_be_read_is_json_too_on_request(xds: Runner, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "empty").mkdir()

    outcome = xds("validate", tmp_path / name, "-o", "json")

    report = json.loads(outcome.out)
    (finding,) = report["diagnostics"]
    assert outcome.code == 2
    assert report["errors"] == 1
    assert finding["code"] == "EX901"
    assert str(tmp_path / name) in finding["message"]
    assert finding["hint"]
    assert outcome.err.startswith("xds: ")


def test_the_help_says_when_there_is_json(xds: Runner) -> None:
    assert "JSON" in xds("validate", "--help").out
    assert "nothing on stdout" in " ".join(xds("dump", "--help").out.split())


@pytest.mark.parametrize("verb", ["dump", "serve"])
def test_a_resolv_conf_that_was_asked_for_and_can_not_be_read_is_refused(
    xds: Runner, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)

    outcome = xds(*arguments(verb, tmp_path), "--resolv-conf", tmp_path / "none")

    assert (outcome.code, outcome.out) == (2, "")
    assert f"--resolv-conf {tmp_path / 'none'} can't be read: No such file or directory; " in outcome.err
    assert "--resolv-conf ''" in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["diff", "-f", "-", "POLICIES"], id="diff, new documents"),
        pytest.param(["diff", "-", "POLICIES"], id="diff, one of two"),
        pytest.param(["dump", "-"], id="dump"),
        pytest.param(["dump", "--config-dump", "-"], id="dump of an Envoy"),
        pytest.param(["validate", "-"], id="validate"),
        pytest.param(["import", "aks", "-"], id="import"),
        pytest.param(["collect", "-"], id="collect"),
    ],
)
def test_an_interrupt_ends_a_command_that_waits_for_what_is_piped_in(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "corp.yaml").write_text(GOOD, encoding="utf-8")
    words = [str(tmp_path) if word == "POLICIES" else word for word in words]
    # What is read is told, so that nobody is interrupted who has not begun to read.
    script = (
        "import io, sys\n"
        "class Told(io.FileIO):\n"
        "    def readinto(self, buffer):\n"
        "        print('reading', flush=True)\n"
        "        return super().readinto(buffer)\n"
        "sys.stdin = io.TextIOWrapper(io.BufferedReader(Told(0)))\n"
        "from xds.cli import main\n"
        "main()\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"reading\n"
        running.send_signal(signal.SIGINT)
        try:
            assert running.wait(30) == 130
        finally:
            running.kill()
