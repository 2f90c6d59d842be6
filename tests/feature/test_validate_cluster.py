"""`xds validate --kubernetes`: the policies of a cluster and the Secrets that they name."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import HOME, namespace, policy, secret
from tests.support.command_line import GOOD, Outcome
from xds.cli import run_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

WITH_LOGIN = """
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: corp}
spec:
  proxies:
    corp:
      endpoints: [{url: "https://proxy.example:3128"}]
      auth: {basic: {secretRef: {name: login}}}
  default: {action: tunnel}
"""


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
async def server() -> AsyncIterator[ApiServerEmulation]:
    async with ApiServerEmulation() as emulation:
        emulation.put(namespace(HOME))
        emulation.put(namespace("shop"))
        yield emulation


class Validate:
    """Runs the command beside the emulated cluster."""

    def __init__(self, server: ApiServerEmulation, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._kubeconfig = server.write_kubeconfig(directory)
        self._capsys = capsys

    async def __call__(self, *options: str) -> Outcome:
        arguments = ["validate", "--kubernetes", "--kubeconfig", str(self._kubeconfig), "--namespace", HOME, *options]
        code = await asyncio.to_thread(run_command, arguments)
        captured = self._capsys.readouterr()
        return Outcome(code, captured.out, captured.err)


@pytest.fixture
def validate(server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Validate:
    return Validate(server, tmp_path, capsys)


async def test_good_policies_of_a_cluster_are_no_findings(server: ApiServerEmulation, validate: Validate) -> None:
    server.put(policy(HOME, "corp", GOOD))
    server.put(policy("shop", "own", GOOD))

    outcome = await validate()

    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("2 documents: 2 good policies")


async def test_a_mistake_is_told_at_its_line_of_the_config_map(server: ApiServerEmulation, validate: Validate) -> None:
    server.put(policy("shop", "own", "httpProxy: deny\nhttpsProxy: nonsense\n"))

    outcome = await validate("-o", "json")

    (finding,) = json.loads(outcome.out)["diagnostics"]
    source = "configmap/shop/own/policy.yaml"
    assert outcome.code == 1
    assert finding["code"] == "EX301"
    assert (finding["source"], finding["line"], finding["document"], finding["file"]) == (source, 2, source, None)


async def test_sarif_of_a_cluster_names_the_config_map(server: ApiServerEmulation, validate: Validate) -> None:
    server.put(policy("shop", "own", "httpProxy: deny\nhttpsProxy: nonsense\n"))

    outcome = await validate("-o", "sarif")

    (result,) = json.loads(outcome.out)["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "configmap/shop/own/policy.yaml"
    assert place["region"]["startLine"] == 2


async def test_a_secret_that_there_is_not_is_an_error_with_its_remedy(
    server: ApiServerEmulation, validate: Validate
) -> None:
    server.put(policy("shop", "corp", WITH_LOGIN))

    outcome = await validate()

    assert outcome.code == 1
    assert "error[EX320]" in outcome.out
    assert "the Secret shop/login: it does not exist" in outcome.out
    assert "kubectl -n shop create secret" in outcome.out


async def test_a_secret_that_there_is_is_judged_and_never_shown(server: ApiServerEmulation, validate: Validate) -> None:
    server.put(policy("shop", "corp", WITH_LOGIN))
    server.put(secret("shop", "login", username="canaryuser", password="canarypass"))
    good = await validate()
    server.put(secret("shop", "login", username="canaryuser", password="canary\npass"))
    bad = await validate("-o", "json")

    assert (good.code, bad.code) == (0, 1)
    assert "EX322" in bad.out
    assert "canary" not in good.out + good.err + bad.out + bad.err


async def test_a_secret_that_may_not_be_read_is_told_as_such(server: ApiServerEmulation, validate: Validate) -> None:
    server.put(policy("shop", "corp", WITH_LOGIN))
    server.put(secret("shop", "login", username="user", password="canary"))
    server.forbid("list", "secrets")

    outcome, without = await validate(), await validate("--no-files")

    assert (outcome.code, without.code) == (1, 0)
    assert "the Secret shop/login: it can't be read" in outcome.out
    assert 'cannot list resource "secrets"' in outcome.out


async def test_a_cluster_that_is_away_is_unreachable(server: ApiServerEmulation, validate: Validate) -> None:
    await server.go_away()

    outcome = await validate()

    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith("xds: ")


async def test_a_policy_that_another_one_always_comes_before_is_told(
    server: ApiServerEmulation, validate: Validate
) -> None:
    text = "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {}}}\nspec:\n  priority: {}\n"
    text += "  default: {{action: deny}}\n"
    server.put(policy(HOME, "one", text.format("one", 1)))
    server.put(policy(HOME, "two", text.format("two", 2)))

    outcome, strict = await validate(), await validate("--strict")

    assert (outcome.code, strict.code) == (0, 1)
    assert f"configmap/{HOME}/one/policy.yaml:1: warning[EX409]: `one` is never in force" in outcome.out
