"""Whatever those say that a bundle is collected from: the bundle is written, and the other parts are in it."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.support.bundles import leaks, read_bundle
from tests.support.command_line import Runner
from xds.cli import parts
from xds.cli.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = ("--admin", "127.0.0.1:1", "--http", "127.0.0.1:1", "--timeout", "2s")
CANARY = "s3cr3t-canary"


@pytest.fixture
def xds(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@contextmanager
def admin(body: str) -> Iterator[str]:
    """Answer every page with `body`, but one that is good."""

    class Admin(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}" if self.path == "/server_info" else body.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Admin) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("depth", [150, 300, 480, 600, 900, 5_000, 100_000])
def test_json_that_is_nested_deeply_is_a_problem_at_most(xds: Runner, tmp_path: Path, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    (tmp_path / "dump.json").write_text(deep, encoding="utf-8")
    target = tmp_path / "bundle.tar.gz"
    with admin(deep) as envoy:
        outcome = xds("collect", *NOBODY, "-o", target, "--envoy", envoy, "--config-dump", tmp_path / "dump.json")

    assert outcome.code == 1
    members = read_bundle(target)
    assert any(name.endswith("server_info.json") for name in members)
    problems = members["problems.txt"].decode()
    parts_of_envoys = [name for name in members if name.startswith(("dumps/", "envoys/"))]
    assert len(parts_of_envoys) > 2 or "nested too deeply" in problems or "it is not JSON" in problems


def test_half_of_a_surrogate_pair_is_kept_as_it_was_written(xds: Runner, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    with admin('{"name": "\\ud800"}') as envoy:
        xds("collect", *NOBODY, "-o", target, "--envoy", envoy)

    (found,) = [content for name, content in read_bundle(target).items() if name.endswith("config_dump.json")]
    assert json.loads(found) == {"name": "\ud800"}


def test_a_mistake_in_one_part_costs_the_others_nothing(
    xds: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError(CANARY)

    for part in ("_describe_versions", "_collect_policies", "_collect_status", "_collect_capture", "_collect_envoy"):
        monkeypatch.setattr(parts, part, fail)
    target = tmp_path / "bundle.tar.gz"
    (tmp_path / "policies").mkdir()

    outcome = xds("collect", *NOBODY, "-o", target, "--capture", "--envoy", "127.0.0.1:1", tmp_path / "policies")

    members = read_bundle(target)
    assert outcome.code == 1
    assert "settings-of-this-command.json" in members
    assert members["problems.txt"].decode().count("it can't be collected (KeyError)") == 5
    assert leaks(members, CANARY) == []


def test_problems_are_told_without_credentials() -> None:
    bundle = Bundle(taken=1.0)
    bundle.miss(f"http://me:{CANARY}@here", f"no: Authorization: Basic {CANARY}, password={CANARY}, Bearer {CANARY}")
    bundle.miss("half \ud800", "half \udfff")

    assert leaks(bundle.members(), CANARY) == []
    assert b"half \\ud800" in bundle.members()["problems.txt"]
