"""`xds dump --kubernetes`: what a pod of the cluster gets, by what the cluster knows of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import HOME, namespace, pod, policy, secret
from tests.support.command_line import Outcome, Runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CANARY = "s3cr3t-canary"
CORP = """
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: corp}
spec:
  proxies:
    corp:
      endpoints: [{url: "http://192.0.2.2:3128"}]
      auth: {basic: {secretRef: {name: login}}}
  default: {action: tunnel, proxy: corp}
  dialect: go
"""
WEB = """
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: web}
spec:
  selector: {podLabels: {matchLabels: {app: web}}}
  default: {action: direct}
"""


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
async def server() -> AsyncIterator[ApiServerEmulation]:
    async with ApiServerEmulation() as emulation:
        emulation.put(namespace(HOME))
        emulation.put(namespace("shop", {"team": "a"}))
        emulation.put(pod("shop", "web-0", {"app": "web"}, injected="true"))
        emulation.put(pod("shop", "batch-0"))
        emulation.put(policy(HOME, "corp", CORP))
        emulation.put(policy(HOME, "web", WEB))
        emulation.put(secret(HOME, "login", username="me", password=CANARY))
        yield emulation


@pytest.fixture
def runner(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


async def dump(runner: Runner, server: ApiServerEmulation, directory: Path, *arguments: object) -> Outcome:
    cluster = ("--kubernetes", "--kubeconfig", server.write_kubeconfig(directory), "--namespace", HOME)
    return await asyncio.to_thread(runner, "dump", *cluster, "--no-resolve", "--resolv-conf", "", *arguments)


async def test_a_pod_is_selected_by_what_the_cluster_knows_of_it(
    runner: Runner, server: ApiServerEmulation, tmp_path: Path
) -> None:
    web = await dump(runner, server, tmp_path, "--node", "web-0.shop", "-o", "json")
    batch = await dump(runner, server, tmp_path, "--node", "batch-0.shop", "-o", "json")

    assert (web.code, "policy in force: web" in web.err) == (0, True), web.err
    assert (batch.code, "policy in force: corp" in batch.err) == (0, True), batch.err
    assert "secret" in {item["type"] for item in json.loads(batch.out)}
    assert CANARY not in batch.out + batch.err


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
