"""Progress is told to people who wait, and to nobody else."""

from __future__ import annotations

import sys
import threading

import pytest

from xds.cli import progress
from xds.cli.progress import working


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)


def _wait_until_said(capsys: pytest.CaptureFixture[str]) -> str:
    said = ""
    for _ in range(200):
        said += capsys.readouterr().err
        if said:
            return said
        threading.Event().wait(0.02)
    raise AssertionError("nothing was said")


@pytest.mark.usefixtures("impatient")
def test_a_step_that_takes_long_is_named_on_a_terminal_and_erased_when_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    with working("reading the cluster"):
        said = _wait_until_said(capsys)

    assert "reading the cluster" in said
    assert capsys.readouterr().err.startswith("\r")


@pytest.mark.usefixtures("impatient")
def test_nothing_is_said_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with working("reading the cluster"):
        threading.Event().wait(0.05)

    assert capsys.readouterr().err == ""


def test_a_quick_step_is_not_worth_a_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    with working("reading the cluster"):
        pass

    assert capsys.readouterr().err == ""
