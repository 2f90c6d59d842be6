"""Runs the `xds` command inside the test's own process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from xds.cli import run_command

if TYPE_CHECKING:
    import pytest

GOOD = "httpProxy: http://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\ndialect: go\n"
"""A policy without findings."""


@dataclass(frozen=True)
class Outcome:
    """A command's end: its exit code and what it printed."""

    code: int
    out: str
    err: str


class Runner:
    """Runs the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        try:
            code = run_command([str(argument) for argument in arguments])
        finally:
            # A verb sends the log to this test's stderr, where no later test may find it.
            structlog.reset_defaults()
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err)
