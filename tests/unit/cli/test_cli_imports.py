"""What a command need not import, it does not: that is most of the time that it takes to answer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import GOOD
from xds.cli import VERBS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLUSTERS = {"kubernetes", "aiohttp"}
SERVERS = {"grpc", "prometheus_client", "h11"}
LOGS = {"structlog", "rich"}
MESSAGES = {"envoy_data_plane", "betterproto2"}
HEAVY = {*CLUSTERS, *SERVERS, *LOGS, *MESSAGES, "cryptography", "watchfiles", "anyio"}
DOCUMENTS = {"pydantic"}

_PROGRAM = """
import contextlib, io, json, sys
from xds.cli import run_command
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    code = run_command(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

_LOGGING = """
import sys
from xds.cli.logs import configure_logging
from xds.settings import Settings
configure_logging(Settings(log_level="error"))
configure_logging(Settings(log_format="json"))
assert "structlog" not in sys.modules
import structlog
structlog.get_logger().warning("said", url="http://user:canary@proxy.example")
"""


def imported_by(arguments: Sequence[str], directory: Path) -> set[str]:
    """Run one command as a process of its own and return the packages that it imported."""
    program = [sys.executable, "-c", _PROGRAM, *arguments]
    finished = subprocess.run(program, capture_output=True, text=True, check=False, cwd=directory)
    assert finished.returncode == 0, finished.stderr
    code, modules = json.loads(finished.stdout)
    assert code in {0, 1}
    return set(modules)


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        pytest.param(["explain", "EX101"], {*HEAVY, *DOCUMENTS, "yaml", "asyncio"}, id="explain of a code"),
        pytest.param(["bootstrap", "--node", "shop-0.payments", "--server", "192.0.2.1:18000"],
                     {*HEAVY, *DOCUMENTS, "yaml"}, id="bootstrap"),
        pytest.param(["capture", "--print"], {*HEAVY, *DOCUMENTS, "yaml"}, id="capture"),
        pytest.param(["completion", "bash"], {*HEAVY, *DOCUMENTS, "yaml"}, id="completion"),
        pytest.param(["schema"], HEAVY, id="schema"),
        pytest.param(["validate", "policies"], {*HEAVY, "asyncio"}, id="validate"),
        pytest.param(["import", "env", "env"], {*HEAVY, "asyncio"}, id="import"),
        pytest.param(["dump", "policies"], HEAVY - MESSAGES, id="dump of documents"),
        pytest.param(["explain", "shop-0.payments", "192.0.2.7:443", "policies"], HEAVY - MESSAGES,
                     id="explain of a connection"),
        pytest.param(["diff", "policies", "policies"], HEAVY - MESSAGES, id="diff of documents"),
    ],
)  # fmt: skip
def test_a_command_imports_nothing_that_it_has_no_use_for(
    tmp_path: Path, arguments: list[str], unwanted: set[str]
) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "good.yaml").write_text(GOOD)
    (tmp_path / "env").write_text("HTTPS_PROXY=http://192.0.2.2:3128\n")

    assert imported_by(arguments, tmp_path) & unwanted == set()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in {"serve", "demo"}])
def test_help_imports_nothing_heavy(tmp_path: Path, verb: str) -> None:
    assert imported_by([verb, "--help"], tmp_path) & HEAVY == set()


def test_who_logs_first_finds_logging_set_up_as_it_was_last_wanted() -> None:
    finished = subprocess.run([sys.executable, "-c", _LOGGING], capture_output=True, text=True, check=False)

    assert (finished.returncode, finished.stdout) == (0, ""), finished.stderr
    said = json.loads(finished.stderr)
    assert said["event"] == "said"
    assert "canary" not in said["url"]
