"""`xds dump --kubernetes`: what a pod of the cluster gets, by what the cluster knows of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.cluster import HOME, pod, policy
from tests.support.command_line import Outcome, Runner
from tests.support.small_cluster import CANARY, CORP, open_small_cluster, run_beside
from xds.names import EXPLICIT_LISTENER, OUTBOUND_LISTENER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.api_server import ApiServerEmulation


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
async def server() -> AsyncIterator[ApiServerEmulation]:
    async with open_small_cluster() as emulation:
        yield emulation


@pytest.fixture
def runner(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


async def dump(runner: Runner, server: ApiServerEmulation, directory: Path, *arguments: object) -> Outcome:
    return await run_beside(server, runner, directory, "dump", *arguments)


async def test_a_pod_is_selected_by_what_the_cluster_knows_of_it(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    web = await dump(runner, server, tmp_path, "--node", "web-0.shop", "-o", "json")
    batch = await dump(runner, server, tmp_path, "--node", "batch-0.shop", "-o", "json")

    assert (web.code, "policy in force: web" in web.err) == (0, True), web.err
    assert (batch.code, "policy in force: corp" in batch.err) == (0, True), batch.err
    assert "secret" in {item["type"] for item in json.loads(batch.out)}
    assert CANARY not in batch.out + batch.err


async def test_a_pod_in_explicit_mode_has_no_listener_for_captured_connections(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    server.put(pod("shop", "explicit-0", injected="true", mode="explicit"))
    server.put(policy(HOME, "corp", CORP + "  mode: explicit\n"))
    names = {}
    for node in ("explicit-0.shop", "batch-0.shop"):
        outcome = await dump(runner, server, tmp_path, "--node", node, "-o", "json")
        names[node] = {item["name"] for item in json.loads(outcome.out)}

    assert EXPLICIT_LISTENER in names["explicit-0.shop"]
    assert names["batch-0.shop"] - names["explicit-0.shop"] == {OUTBOUND_LISTENER}


async def test_a_pod_that_the_cluster_does_not_know_is_wrong_usage(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    outcome = await dump(runner, server, tmp_path, "--node", "nobody.shop")

    assert (outcome.code, outcome.out) == (2, "")
    assert "kubectl get pods --namespace shop" in outcome.err


async def test_an_envoy_of_the_cluster_is_compared_with_what_its_pod_should_have(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    prefix = "type.googleapis.com/envoy.admin.v3"
    bootstrap = {"@type": f"{prefix}.BootstrapConfigDump", "bootstrap": {"node": {"id": "web-0.shop"}}}
    (tmp_path / "dump.json").write_text(json.dumps({"configs": [bootstrap]}))

    outcome = await dump(runner, server, tmp_path, "--diff", "--config-dump", tmp_path / "dump.json", "-o", "json")

    assert outcome.code == 1
    assert "policy in force: web" in outcome.err
    assert {item["verdict"] for item in json.loads(outcome.out)} == {"missing"}
