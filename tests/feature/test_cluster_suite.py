"""The tests of a real API server, run as an operator runs them but against the emulation, so that they stay true."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.place import LABEL
from tests.support.api_server import EmulationProcess, emulation_process
from tests.support.cluster import namespace, policy

ROOT = Path(__file__).resolve().parents[2]
MAKE = ["make", "-C", str(ROOT), "DEV=", f"BIN={Path(sys.executable).parent}", "test-cluster"]
QUIET = "ARGS=-p no:cacheprovider -p no:cov"
PATIENCE = 240.0
MADE = ("namespaces", "pods", "configmaps", "secrets", "serviceaccounts")


def environment(kubeconfig: Path | None) -> dict[str, str]:
    """Return what make is given: nothing of a make or a measurement that this test may run in."""
    passed = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "COV"))}
    passed.pop("KUBECONFIG", None)
    return passed | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})


def run(kubeconfig: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the suite to its end."""
    command, given = [*MAKE, *words], environment(kubeconfig)
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=PATIENCE)


def left(process: EmulationProcess) -> list[str]:
    """Return what was made by the suite and is still there."""
    lists = [process.request("GET", f"/api/v1/{plural}?labelSelector={LABEL}") for plural in MADE]
    return [item["metadata"]["name"] for found in lists for item in found["items"]]


def test_the_suite_passes_leaves_nothing_and_skips_only_what_an_emulation_lacks(tmp_path: Path) -> None:
    with emulation_process(tmp_path) as process:
        done = run(process.kubeconfig, QUIET)

        assert done.returncode == 0, done.stdout + done.stderr
        assert left(process) == []
    skipped = re.findall(r"^SKIPPED .*$", done.stdout, re.MULTILINE)
    assert [line for line in skipped if "the emulation has no" not in line] == []
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupted", "told to end"])
def test_a_run_that_is_cut_short_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    pytest_command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:cov"]
    # A shell has what it runs in the background ignore an interrupt, and that is inherited.
    command = ["env", "--default-signal=INT", *pytest_command, "tests/cluster", "-k", "dies"]
    with emulation_process(tmp_path) as process:
        given = environment(process.kubeconfig)
        with subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, text=True) as suite:
            deadline = time.monotonic() + PATIENCE
            while "corp" not in left(process):
                assert suite.poll() is None, "the suite ended"
                assert time.monotonic() < deadline, "the suite makes nothing"
                time.sleep(0.05)
            suite.send_signal(number)
            said, _ = suite.communicate(timeout=PATIENCE)

        assert suite.returncode == pytest.ExitCode.INTERRUPTED, said
        assert left(process) == []


def test_without_a_kubeconfig_it_says_so() -> None:
    done = run(None)

    assert done.returncode == 2
    assert "KUBECONFIG must name one file" in done.stderr


def test_a_cluster_with_policies_of_others_is_left_alone(tmp_path: Path) -> None:
    with emulation_process(tmp_path, namespace("prod"), policy("prod", "corp", "")) as process:
        before = process.request("GET", "/api/v1/namespaces")
        done = run(process.kubeconfig, QUIET)

        assert done.returncode == 2
        assert "this cluster has policies, which the tests would judge and mark: prod/corp" in done.stdout + done.stderr
        assert process.request("GET", "/api/v1/namespaces") == before


def test_a_run_of_all_tests_has_none_of_it() -> None:
    """Other directories are looked through for files whose names begin alike."""
    pattern = "--ignore-glob=*/test_[!c]*"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:cov",
        pattern,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE)

    assert "tests/feature/test_cluster_suite.py" in done.stdout
    assert "tests/cluster/" not in done.stdout
