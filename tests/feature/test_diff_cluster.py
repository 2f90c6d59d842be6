"""`xds diff --kubernetes`: what applying a ConfigMap would change for the pods of a cluster."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import structlog
import yaml

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import HOME, namespace, pod, policy
from xds.cli import run_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.api_store import Object

SHORT = "httpProxy: http://192.0.2.{host}:3128\nhttpsProxy: http://192.0.2.{host}:3128\ndialect: go\n"
NO_PROXY = "noProxy: [corp.example]\nnoProxyVerify: none\n"


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
async def server() -> AsyncIterator[ApiServerEmulation]:
    async with ApiServerEmulation() as emulation:
        for item in (namespace(HOME), namespace("shop"), namespace("lab")):
            emulation.put(item)
        for number in range(3):
            emulation.put(pod("shop", f"web-{number}"))
        emulation.put(pod("lab", "try-0"))
        emulation.put(policy(HOME, "corp", SHORT.format(host=2)))
        yield emulation


async def diff(
    server: ApiServerEmulation, directory: Path, *words: object, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, object]]:
    """Run the command beside the server, in a thread of its own."""
    where = ["--kubernetes", "--kubeconfig", str(server.write_kubeconfig(directory)), "--namespace", HOME]
    command = ["diff", *where, "--no-resolve", "-o", "json", *map(str, words)]
    code = await asyncio.to_thread(run_command, command)
    captured = capsys.readouterr()
    assert captured.out, captured.err
    found = json.loads(captured.out)
    assert isinstance(found, dict)
    return code, found


def save(directory: Path, *objects: Object) -> Path:
    path = directory / "manifest.yaml"
    path.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    return path


def groups(found: dict[str, object]) -> list[tuple[str | None, str | None, list[str]]]:
    pods = found["pods"]
    assert isinstance(pods, dict)
    return [(group["before"]["policy"], group["after"]["policy"], group["pods"]) for group in pods["groups"]]


async def test_pods_are_told_of_whose_policy_changes(
    server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = save(tmp_path, policy(HOME, "corp", SHORT.format(host=2) + NO_PROXY))

    code, found = await diff(server, tmp_path, "-f", new, capsys=capsys)

    assert code == 1
    assert groups(found) == [("corp", "corp", ["try-0.lab", "web-0.shop", "web-1.shop", "web-2.shop"])]
    assert found["documents"] == [
        {
            "change": "replaced",
            "source": f"configmap/{HOME}/corp/policy.yaml",
            "replaces": f"configmap/{HOME}/corp/policy.yaml",
        }
    ]
    policies = found["policies"]
    assert isinstance(policies, list)
    (change,) = policies
    assert [rule["change"] for rule in change["rules"]] == ["added"]
    assert change["connections"]["untouched"] is True


async def test_pods_are_told_of_that_get_another_policy(
    server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = save(tmp_path, policy("lab", "own", SHORT.format(host=3)))

    _, found = await diff(server, tmp_path, "-f", new, capsys=capsys)

    assert groups(found) == [("corp", "lab/own", ["try-0.lab"])]


async def test_a_new_policy_is_younger_than_those_that_are_there(
    server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = policy(HOME, "old", SHORT.format(host=2))
    server.remove("ConfigMap", HOME, "corp")
    server.put({**old, "metadata": {**old["metadata"], "creationTimestamp": "2026-01-01T00:00:00Z"}})
    new = save(tmp_path, policy(HOME, "a-name-that-sorts-first", SHORT.format(host=3)))

    _, found = await diff(server, tmp_path, "-f", new, capsys=capsys)

    assert groups(found) == []


async def test_what_a_manifest_no_longer_holds_is_removed(
    server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = save(tmp_path, policy(HOME, "corp", SHORT.format(host=2), key="other.yaml"))

    _, found = await diff(server, tmp_path, "-f", new, capsys=capsys)

    documents = found["documents"]
    assert isinstance(documents, list)
    assert [(item["change"], item["source"].rpartition("/")[2]) for item in documents] == [
        ("added", "other.yaml"),
        ("removed", "policy.yaml"),
    ]


@pytest.mark.parametrize(
    "name", ["corp", f"{HOME}/corp", f"{HOME}/corp/policy.yaml", f"configmap/{HOME}/corp/policy.yaml"]
)
async def test_a_config_map_may_be_removed_by_its_name(
    server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, found = await diff(server, tmp_path, "--remove", name, capsys=capsys)

    assert code == 1
    assert [(before, after) for before, after, _ in groups(found)] == [("corp", None)]


async def test_only_pods_with_a_sidecar_count_where_some_are_known(
    server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put(pod("shop", "web-1", injected="true"))
    new = save(tmp_path, policy(HOME, "corp", SHORT.format(host=2) + NO_PROXY))

    _, found = await diff(server, tmp_path, "-f", new, capsys=capsys)

    assert groups(found) == [("corp", "corp", ["web-1.shop"])]


async def test_what_was_predicted_is_what_applying_it_does(
    server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Applied for real, the same edit changes nothing any more."""
    edited = policy(HOME, "corp", SHORT.format(host=2) + NO_PROXY)
    new = save(tmp_path, edited)
    before, _ = await diff(server, tmp_path, "-f", new, capsys=capsys)
    server.put(edited)

    after, found = await diff(server, tmp_path, "-f", new, capsys=capsys)

    assert (before, after) == (1, 0)
    assert found["policies"] == []


async def test_people_are_told_which_pods_first_in_sum_and_then_by_name(
    server: ApiServerEmulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = save(
        tmp_path,
        policy(HOME, "corp", SHORT.format(host=2) + NO_PROXY),
        policy("lab", "own", SHORT.format(host=3)),
    )
    where = ["--kubernetes", "--kubeconfig", str(server.write_kubeconfig(tmp_path)), "--namespace", HOME]

    code = await asyncio.to_thread(run_command, ["diff", *where, "--no-resolve", "--limit", "2", "-f", str(new)])

    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"~ document configmap/{HOME}/corp/policy.yaml",
        "+ document configmap/lab/own/policy.yaml",
    ]
    assert lines[3].startswith("2 policies change; 4 of 4 pods would be told something else; open connections: ")
    assert lines[5] == "~ policy corp: 1 rule added; 4 pods"
    assert "  pods: web-0.shop, web-1.shop, and 1 more" in lines
    assert "1 pod: policy corp → policy lab/own" in lines
    assert "  try-0.lab" in lines


async def test_a_cluster_that_does_not_answer_is_unreachable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with ApiServerEmulation() as gone:
        kubeconfig = gone.write_kubeconfig(tmp_path)
    new = save(tmp_path, policy(HOME, "corp", SHORT.format(host=2)))

    words = ["diff", "--kubernetes", "--kubeconfig", str(kubeconfig), "--namespace", HOME, "-f", str(new)]
    code = await asyncio.to_thread(run_command, words)

    assert code == 3
    assert capsys.readouterr().out == ""
