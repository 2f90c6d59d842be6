"""How `xds status` is called, and what it needs before it asks anybody."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.command_line import Runner

CANARY = "s3cr3t-canary"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--kubernetes", "--kubeconfig", "k", "--namespace", "n", "--admin", "127.0.0.1:1"],
            "give either --admin, or --kubernetes",
            id="addresses and a cluster at once",
        ),
        pytest.param(["--namespace", "n"], "means nothing without --kubernetes", id="a namespace without a cluster"),
        pytest.param(["--kubernetes", "--kubeconfig", "none"], "There is no kubeconfig none", id="no kubeconfig"),
        pytest.param(["--admin", f"user:{CANARY}@host:1"], "it must be HOST:PORT alone", id="a login in an address"),
        pytest.param(["--admin", "host:99999"], "from 1 to 65535", id="a port that there is not"),
        pytest.param(["--admin", "host:0"], "from 1 to 65535", id="a port that nobody can connect to"),
        pytest.param(["--timeout", "0"], "--timeout: it must be a duration", id="no time at all"),
        pytest.param(["--interval", "soon"], "--interval: it must be a duration", id="an interval that is none"),
        pytest.param(["-o", "yaml"], "'yaml' is not one of", id="a form that there is not"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], message: str, xds: Runner) -> None:
    outcome = xds("status", *arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert CANARY not in outcome.err


def test_help_needs_neither_grpc_nor_a_cluster() -> None:
    program = (
        "import sys; from xds.cli import run_command; code = run_command(['status', '--help']);"
        "heavy = {'grpc', 'google', 'kubernetes', 'aiohttp', 'envoy_data_plane', 'structlog'} & set(sys.modules);"
        "sys.exit(code or ', '.join(heavy) or 0)"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr


def test_without_the_packages_for_clusters_it_says_how_to_get_them() -> None:
    program = (
        "import sys; sys.modules['kubernetes'] = None; from xds.cli import run_command;"
        "sys.exit(run_command(['status', '--kubernetes', '--kubeconfig', 'k', '--namespace', 'n']))"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert finished.returncode == 2
    assert "pip install '.[kubernetes]'" in finished.stderr


def test_nobody_at_the_usual_address_is_unreachable_with_the_next_step(xds: Runner) -> None:
    outcome = xds("status", "--admin", "127.0.0.1:9")

    assert (outcome.code, outcome.out) == (3, "")
    assert "127.0.0.1:9 can't be reached" in outcome.err
    assert "--admin-listen" in outcome.err
