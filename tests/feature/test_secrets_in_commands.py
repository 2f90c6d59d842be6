"""Logins, keys and tokens of a cluster are in nothing that `diff`, `dump` and errors say, even where they change."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import structlog
import yaml

from tests.support.api_server import ApiServerEmulation
from tests.support.bundles import leaks
from tests.support.certificates import Authority
from tests.support.cluster import HOME, namespace, pod, policy, secret
from tests.support.command_line import Outcome, Runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.certificates import Issued

OLD, NEW, TOKEN = "c4n4ry-old-4711", "c4n4ry-new-4712", "c4n4ry-token-4713"
CORP = """
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: corp}}
spec:
  proxies:
    corp:
      endpoints: [{{url: "https://192.0.2.2:3128"}}]
      auth: {{basic: {{secretRef: {{name: login-{which}}}}}}}
      tls:
        serverName: proxy.example
        ca: {{secretRef: {{name: authority}}}}
        clientCertificate: {{secretRef: {{name: own-{which}}}}}
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def runner(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture(scope="module")
def own() -> dict[str, Issued]:
    authority = Authority()
    return {which: authority.issue("client.example") for which in ("old", "new")}


@pytest.fixture
async def server(own: dict[str, Issued]) -> AsyncIterator[ApiServerEmulation]:
    async with ApiServerEmulation() as emulation:
        for item in (namespace(HOME), namespace("shop"), pod("shop", "web-0", injected="true")):
            emulation.put(item)
        for which, password in (("old", OLD), ("new", NEW)):
            emulation.put(secret(HOME, f"login-{which}", username="me", password=password))
            emulation.put(secret(HOME, f"own-{which}", tls_crt=own[which].certificate, tls_key=own[which].key))
        emulation.put(secret(HOME, "authority", ca_crt=Authority().certificate))
        emulation.put(policy(HOME, "corp", CORP.format(which="old")))
        yield emulation


async def run(runner: Runner, kubeconfig: Path, verb: str, *arguments: object) -> Outcome:
    cluster = ("--kubernetes", "--kubeconfig", kubeconfig, "--namespace", HOME)
    return await asyncio.to_thread(runner, verb, *cluster, *arguments)


def found_in(outcome: Outcome, own: dict[str, Issued]) -> list[str]:
    """Return the secrets that a command told."""
    said = {"said": (outcome.out + outcome.err).encode()}
    lines = [line for issued in own.values() for line in issued.key.splitlines() if not line.startswith("-----")]
    parts = [line[start : start + 16] for line in lines for start in range(0, len(line) - 15, 16)]
    assert parts
    return [wanted for wanted in (OLD, NEW, TOKEN, *parts) if leaks(said, wanted)]


@pytest.mark.parametrize("output", ["table", "json"])
async def test_a_login_and_a_key_that_change_are_told_of_and_not_told(
    runner: Runner, server: ApiServerEmulation, own: dict[str, Issued], tmp_path: Path, output: str
) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(yaml.safe_dump(policy(HOME, "corp", CORP.format(which="new"))), encoding="utf-8")
    kubeconfig = server.write_kubeconfig(tmp_path, token=TOKEN)

    outcome = await run(runner, kubeconfig, "diff", "--no-resolve", "--resources", "-o", output, "-f", new)

    assert outcome.code == 1, outcome.err
    assert "secret" in outcome.out
    assert "[redacted]" in outcome.out
    assert found_in(outcome, own) == []


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
@pytest.mark.parametrize("has_json_names", [False, True], ids=["proto names", "JSON names"])
async def test_an_envoy_with_another_login_and_key_is_compared_without_either(
    runner: Runner,
    server: ApiServerEmulation,
    own: dict[str, Issued],
    tmp_path: Path,
    output: str,
    has_json_names: bool,
) -> None:
    inline, private = ("inlineString", "privateKey") if has_json_names else ("inline_string", "private_key")
    prefix = "type.googleapis.com/envoy"
    held = {"@type": f"{prefix}.extensions.transport_sockets.tls.v3.Secret", "name": "proxy-login/corp"}
    cluster = {
        "@type": f"{prefix}.config.cluster.v3.Cluster",
        "name": "proxy/corp",
        "transport_socket": {"typed_config": {private: {inline: own["new"].key}}},
    }
    configs = [
        {"@type": f"{prefix}.admin.v3.BootstrapConfigDump", "bootstrap": {"node": {"id": "web-0.shop"}}},
        {
            "@type": f"{prefix}.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": [
                {"name": "proxy-login/corp", "secret": {**held, "generic": {"secret": {inline: NEW}}}}
            ],
        },
        {"@type": f"{prefix}.admin.v3.ClustersConfigDump", "dynamic_active_clusters": [{"cluster": cluster}]},
    ]
    (tmp_path / "dump.json").write_text(json.dumps({"configs": configs}), encoding="utf-8")
    kubeconfig = server.write_kubeconfig(tmp_path, token=TOKEN)
    dump = ("--no-resolve", "--resolv-conf", "", "--config-dump", tmp_path / "dump.json")

    outcome = await run(runner, kubeconfig, "dump", "--diff", *dump, "-o", output)

    assert outcome.code == 1, outcome.err
    assert "differs" in outcome.out
    assert found_in(outcome, own) == []


@pytest.mark.parametrize("verb", [("dump", "--node", "web-0.shop"), ("diff", "--remove", "corp"), ("validate",)])
@pytest.mark.parametrize("status", [401, 403, 500])
async def test_no_error_of_a_cluster_repeats_the_token_for_it(
    runner: Runner, server: ApiServerEmulation, own: dict[str, Issued], tmp_path: Path, verb: tuple[str], status: int
) -> None:
    server.refuse(status, times=1000)
    kubeconfig = server.write_kubeconfig(tmp_path, token=TOKEN)

    outcome = await run(runner, kubeconfig, *verb)

    assert outcome.code == 3
    assert outcome.err
    assert found_in(outcome, own) == []
