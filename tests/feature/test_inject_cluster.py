"""`xds inject --kubernetes`: the policies, the namespaces and the networks are those of a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog
import yaml

from tests.support.cluster import HOME, namespace, policy
from tests.support.command_line import Runner
from tests.support.small_cluster import open_small_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXPLICIT = "httpProxy: http://192.0.2.3:3128\nhttpsProxy: http://192.0.2.3:3128\nmode: explicit\n"
POD = (
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: NAMESPACE}\nspec: {containers: [{name: a, image: a}]}\n"
)
INJECT = "egress-xds/inject"
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\n-----END CERTIFICATE-----\n"


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


async def test_a_pod_gets_what_the_cluster_says_of_its_namespace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.crt").write_text(AUTHORITY)
    manifest = tmp_path / "pods.yaml"
    manifest.write_text(
        "---\n".join(POD.replace("NAMESPACE", name) for name in ("shop", "mesh", "unheard-of", "plain", HOME))
    )
    async with open_small_cluster() as server:
        server.put(namespace("mesh", {"istio-injection": "enabled", INJECT: "true"}))
        server.put(namespace("shop", {INJECT: "true"}))
        server.put(namespace("plain"))
        server.put(policy("mesh", "own", EXPLICIT))

        cluster = ("--kubernetes", "--kubeconfig", server.write_kubeconfig(tmp_path), "--namespace", HOME)
        done = await asyncio.to_thread(
            Runner(capsys), "inject", "-f", manifest, "--server-ca", tmp_path / "ca.crt", *cluster
        )

    assert done.code == 0, done.err
    pods = list(yaml.safe_load_all(done.out))
    modes = [pod["metadata"].get("annotations", {}).get("egress-xds/mode") for pod in pods]
    assert modes == ["transparent", "explicit", "transparent", None, None]
    assert "its namespace plain does not have the label" in done.err
    assert f"it is of {HOME}" in done.err
