"""`xds explain --kubernetes`: which way a connection of a pod of the cluster goes, by what the cluster knows of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.cluster import HOME, pod, policy
from tests.support.command_line import Outcome, Runner
from tests.support.small_cluster import CANARY, CORP, open_small_cluster, run_beside

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


async def explain(runner: Runner, server: ApiServerEmulation, directory: Path, *arguments: object) -> Outcome:
    return await run_beside(server, runner, directory, "explain", *arguments)


async def test_a_pod_has_the_policy_that_its_labels_choose(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    web = await explain(runner, server, tmp_path, "web-0.shop", "https://api.example/", "-o", "json")
    batch = await explain(runner, server, tmp_path, "batch-0.shop", "https://api.example/", "-o", "json")

    assert (web.code, batch.code) == (0, 0), web.err + batch.err
    of_web, of_batch = json.loads(web.out), json.loads(batch.out)
    assert (of_web["policy"]["name"], of_web["answers"][0]["action"]) == ("web", "direct")
    assert (of_batch["policy"]["name"], of_batch["answers"][0]["action"]) == ("corp", "proxy")
    assert of_batch["answers"][0]["source"] == f"configmap/{HOME}/corp/policy.yaml"
    assert of_batch["answers"][0]["line"] == 9
    assert of_batch["answers"][0]["proxy"]["login"] == {"secret": {"namespace": HOME, "name": "login"}}


async def test_a_login_of_a_secret_is_named_and_not_shown(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    for target in ("https://api.example/", "http://api.example/"):
        outcome = await explain(runner, server, tmp_path, "batch-0.shop", target)

        assert f"Basic, of the Secret {HOME}/login" in outcome.out
        assert CANARY not in outcome.out + outcome.err


async def test_a_pod_in_explicit_mode_is_told_apart_and_so_is_a_policy_that_has_no_port_for_it(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    server.put(pod("shop", "explicit-0", injected="true", mode="explicit"))
    without = await explain(runner, server, tmp_path, "explicit-0.shop", "https://api.example/")
    server.put(policy(HOME, "corp", CORP + "  mode: explicit\n"))
    having = await explain(runner, server, tmp_path, "explicit-0.shop", "https://api.example/")
    asked = await explain(runner, server, tmp_path, "explicit-0.shop", "https://api.example/", "--explicit")
    other = await explain(runner, server, tmp_path, "batch-0.shop", "https://api.example/")

    assert "the policy corp has no port for that" in without.err
    assert "nothing is captured" in having.err
    assert (asked.code, "explicit listener" in asked.out) == (0, True)
    assert "explicit" not in other.err


async def test_a_pod_that_the_cluster_does_not_know_is_a_finding(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    outcome = await explain(runner, server, tmp_path, "nobody.shop", "https://api.example/")

    assert (outcome.code, outcome.out) == (1, "")
    assert "kubectl get pods --namespace shop" in outcome.err
    assert "Usage:" not in outcome.err


async def test_labels_of_a_pod_are_the_clusters_to_know(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    outcome = await explain(runner, server, tmp_path, "batch-0.shop", "https://api.example/", "--label", "app=web")

    assert outcome.code == 2
    assert "leave them out" in outcome.err


async def test_a_cluster_that_does_not_answer_is_unreachable(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    kubeconfig = server.write_kubeconfig(tmp_path)
    kubeconfig.write_text(kubeconfig.read_text().replace(str(server.port), "1"))
    arguments = ("--kubernetes", "--kubeconfig", kubeconfig, "--namespace", HOME, "--resolv-conf", "", "--no-resolve")

    outcome = await asyncio.to_thread(runner, "explain", *arguments, "web-0.shop", "https://api.example/")

    assert (outcome.code, outcome.out) == (3, "")
