"""What the completion scripts do in the shells that they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).resolve().parents[2]
_ASK = {
    "bash": (
        "source ./script; COMP_WORDS=({line}); COMP_CWORD={index}; _xds_completion xds;"
        'printf "%s\\n" "${{COMPREPLY[@]}}"'
    ),
    # Completion functions of zsh run inside its line editor only; what they would offer there is printed instead.
    "zsh": (
        "compdef() {{ : }}; _describe() {{ print -l -- ${{(P)argv[-2]}} ${{(P)argv[-1]}} }};"
        "compadd() {{ print -l -- ${{(P)argv[-1]}} }};"
        "words=({line}); CURRENT=$(({index} + 1)); source ./script; _xds_completion"
    ),
    "fish": "source ./script; complete --do-complete '{line}'",
}


def _offers(shell: str, directory: Path, line: str) -> set[str]:
    """Return what `shell` offers for the last word of `line`."""
    if shutil.which(shell) is None:
        reason = f"{shell} is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    program = directory / "xds"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from xds.cli import main; main()' \"$@\"\n")
    program.chmod(0o755)
    environment = {"PATH": f"{directory}:{os.environ['PATH']}", "PYTHONPATH": str(_ROOT), "HOME": str(directory)}
    script = subprocess.run(
        ["xds", "completion", shell], env=environment, capture_output=True, check=True, executable=program
    )
    (directory / "script").write_bytes(script.stdout)
    words = line.split(" ")
    command = _ASK[shell].format(line=line, index=len(words) - 1)
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *options, "-c", command], env=environment, cwd=directory, capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    return {offer.split("\t")[0].split(":")[0] for offer in done.stdout.splitlines() if offer}


@pytest.mark.parametrize("shell", _ASK)
def test_a_verb_is_completed(shell: str, tmp_path: Path) -> None:
    assert _offers(shell, tmp_path, "xds val") >= {"validate"}


@pytest.mark.parametrize("shell", _ASK)
def test_an_option_is_completed(shell: str, tmp_path: Path) -> None:
    assert _offers(shell, tmp_path, "xds schema --he") >= {"--help"}


@pytest.mark.parametrize("shell", _ASK)
def test_a_choice_is_completed(shell: str, tmp_path: Path) -> None:
    assert _offers(shell, tmp_path, "xds completion fi") >= {"fish"}


@pytest.mark.parametrize("shell", _ASK)
def test_a_code_is_completed(shell: str, tmp_path: Path) -> None:
    assert _offers(shell, tmp_path, "xds explain EX10") >= {"EX101", "EX102"}
