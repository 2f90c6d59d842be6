"""From a file that is saved to what an open stream is told, with nothing in between replaced."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.support.control_plane import (
    PATIENCE,
    SETTINGS,
    open_stream,
    running_control_plane,
    wait_until,
    with_port,
)
from xds.app import build_control_plane, read_directory, run_control_plane
from xds.errors import ListenError, SourceError
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xds.judge import DocumentState

LISTENER = ResourceType.LISTENER

OTHER = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: other}
spec:
  selector: {namespaces: [elsewhere]}
  default: {action: direct}
"""


def short(*no_proxy: str, port: int = 3128) -> str:
    """Write a policy in the short form."""
    proxy = f"http://192.0.2.10:{port}"
    return f"httpProxy: {proxy}\nhttpsProxy: {proxy}\ndialect: go\nnoProxy: [{', '.join(no_proxy)}]\n"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    (path / "default.yaml").write_text(short("corp.example"))
    return path


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]  # structlog's event dictionaries are mutable mappings


async def test_a_saved_change_reaches_an_open_stream(policies: Path) -> None:
    async with running_control_plane(policies) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: bool(stream.version(LISTENER)))
        before = stream.version(LISTENER)

        (policies / "default.yaml").write_text(short("corp.example", "partner.example"))

        await wait_until(lambda: stream.version(LISTENER) != before)


async def test_a_broken_file_changes_nothing_says_so_and_can_be_mended(
    policies: Path, logs: list[dict[str, object]]
) -> None:
    async with running_control_plane(policies) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: bool(stream.version(LISTENER)))
        before, responses = stream.version(LISTENER), stream.responses
        reconciler = running.parts.reconciler

        def state() -> DocumentState:
            return reconciler.state.documents[0]

        (policies / "default.yaml").write_text("httpProxy: [")
        await wait_until(lambda: not state().is_good)

        assert state().has_last_good
        assert state().diagnostics[0].where.source == str(policies / "default.yaml")
        assert "document refused; its last good version stays in force" in {entry["event"] for entry in logs}
        async with open_stream(running.address, "web-1.shop") as newcomer:
            await wait_until(lambda: bool(newcomer.version(LISTENER)))
            assert newcomer.version(LISTENER) == before
        assert (stream.version(LISTENER), stream.responses) == (before, responses)

        (policies / "default.yaml").write_text(short("partner.example"))
        await wait_until(lambda: stream.version(LISTENER) != before)
        assert state().is_good


async def test_touching_and_renaming_files_sends_nothing(policies: Path) -> None:
    """What did change, later, is the proof that the silence before it was not deafness."""
    (policies / "a.yaml").write_text(OTHER)
    async with running_control_plane(policies) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: bool(stream.version(LISTENER)))
        passes, responses = running.parts.reconciler.state.passes, stream.responses

        os.utime(policies / "default.yaml")
        (policies / "a.yaml").replace(policies / "z.yaml")
        await wait_until(lambda: running.parts.reconciler.state.passes > passes)
        (policies / "default.yaml").write_text(f"# a comment\n{short('corp.example')}")
        await wait_until(lambda: running.parts.reconciler.state.passes > passes + 1)
        assert stream.responses == responses

        (policies / "default.yaml").write_text(short("partner.example"))
        await wait_until(lambda: stream.responses > responses)


async def test_two_processes_give_the_same_versions(policies: Path) -> None:
    seen: list[dict[tuple[ResourceType, str], str]] = []
    for _ in range(2):
        async with running_control_plane(policies) as running, open_stream(running.address, "a.b") as stream:
            await wait_until(lambda stream=stream: bool(stream.version(LISTENER)))  # type: ignore[misc]  # bound now
            seen.append({key: resource.version for key, resource in stream.resources.items()})

    assert seen[0] == seen[1]


async def test_a_truncated_file_changes_nothing_and_says_so(policies: Path, logs: list[dict[str, object]]) -> None:
    async with running_control_plane(policies) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: bool(stream.version(LISTENER)))
        before, responses = stream.version(LISTENER), stream.responses

        os.truncate(policies / "default.yaml", 0)
        await wait_until(lambda: any(entry.get("code") == "EX112" for entry in logs))

        assert running.parts.reconciler.state.documents[0].has_last_good
        assert (stream.version(LISTENER), stream.responses) == (before, responses)


async def test_a_removed_policy_leaves_everything_refused_and_not_open(
    policies: Path, logs: list[dict[str, object]]
) -> None:
    async with running_control_plane(policies) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: bool(stream.version(LISTENER)))
        tunnelling = stream.resources[LISTENER, "egress-outbound"].resource

        (policies / "default.yaml").unlink()
        await wait_until(lambda: stream.resources[LISTENER, "egress-outbound"].resource != tunnelling)

        assert b"tunnel-tls" not in stream.resources[LISTENER, "egress-outbound"].resource
        (said,) = [entry for entry in logs if str(entry["event"]).startswith("no policy is in force")]
        assert said["log_level"] == "warning"


async def test_a_removed_directory_changes_nothing_until_it_is_back(policies: Path) -> None:
    async with running_control_plane(policies) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: bool(stream.version(LISTENER)))
        before, responses = stream.version(LISTENER), stream.responses

        policies.rename(policies.with_name("away"))  # noqa: ASYNC240  # one rename
        await wait_until(lambda: running.parts.reconciler.state.problem is not None)
        assert (stream.version(LISTENER), stream.responses) == (before, responses)

        policies.with_name("away").rename(policies)
        (policies / "default.yaml").write_text(short("partner.example"))
        await wait_until(lambda: stream.version(LISTENER) != before)
        await wait_until(lambda: running.parts.reconciler.state.problem is None)


async def test_a_missing_directory_ends_the_start(tmp_path: Path) -> None:
    parts = build_control_plane(read_directory(tmp_path / "none", SETTINGS), SETTINGS, clock=lambda: 0.0)

    with pytest.raises(SourceError, match="does not exist"):
        await run_control_plane(parts, asyncio.Event(), lambda _: None)


async def test_a_taken_address_ends_the_start(policies: Path) -> None:
    async with running_control_plane(policies) as running:
        settings = with_port(SETTINGS, running.address)
        parts = build_control_plane(read_directory(policies, settings), settings, clock=lambda: 0.0)

        with pytest.raises(ListenError, match="another address"):
            await run_control_plane(parts, asyncio.Event(), lambda _: None)


async def test_stopping_tells_clients_to_go_elsewhere_and_leaves_nothing_running(policies: Path) -> None:
    async with running_control_plane(policies) as running:
        async with open_stream(running.address, "web-0.shop") as stream:
            await wait_until(lambda: bool(stream.version(LISTENER)))
            running.stop.set()
            async with asyncio.timeout(PATIENCE):
                await running.task

        async with grpc.aio.insecure_channel(running.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/any/Method", bytes)(b"")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(running.parts.clients) == 0


async def test_a_stop_during_the_first_pass_listens_nowhere(policies: Path) -> None:
    stop, announced = asyncio.Event(), list[object]()
    stop.set()

    await run_control_plane(
        build_control_plane(read_directory(policies, SETTINGS), SETTINGS, clock=lambda: 0.0), stop, announced.append
    )

    assert announced == []
