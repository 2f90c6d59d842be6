"""How commands read a cluster: once, completely, and never as an empty one when it can't be read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.cluster import CLUSTER_SETTINGS, HOME
from tests.support.small_cluster import CANARY, open_small_cluster
from xds.cli.world import choose_place, open_world
from xds.errors import SettingsError, UnreachableError
from xds.facts import FileContent, FileProblem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.api_server import ApiServerEmulation
    from xds.cli.world import Place


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
async def server() -> AsyncIterator[ApiServerEmulation]:
    async with open_small_cluster() as emulation:
        yield emulation


def place(server: ApiServerEmulation, directory: Path) -> Place:
    settings = replace(CLUSTER_SETTINGS, kubeconfig=server.write_kubeconfig(directory))
    return choose_place((), settings, resolves=False)


async def test_a_cluster_is_read_with_its_pods_policies_and_secrets(server: ApiServerEmulation, tmp_path: Path) -> None:
    async with open_world(place(server, tmp_path)) as world:
        judgement, facts = await world.judge()

    assert [document.source for document in world.read.documents] == [
        f"configmap/{HOME}/corp/policy.yaml",
        f"configmap/{HOME}/web/policy.yaml",
    ]
    assert set(world.pods) == {"web-0.shop", "batch-0.shop"}
    assert world.injected == {"web-0.shop"}
    assert (None, "corp") in judgement.served
    assert facts.files[f"secret:{HOME}/login/login"] == FileContent(f"me:{CANARY}")


async def test_a_secret_that_does_not_exist_is_found(server: ApiServerEmulation, tmp_path: Path) -> None:
    server.remove("Secret", HOME, "login")

    async with open_world(place(server, tmp_path)) as world:
        judgement, facts = await world.judge()

    assert set(judgement.served) == {(None, "web")}
    problem = facts.files[f"secret:{HOME}/login/login"]
    assert isinstance(problem, FileProblem)
    assert "does not exist" in problem.message
    assert any("login" in finding.message for finding in judgement.diagnostics if finding.is_error)


async def test_a_cluster_that_forbids_is_no_empty_cluster(server: ApiServerEmulation, tmp_path: Path) -> None:
    server.refuse(403, times=1000)

    with pytest.raises(UnreachableError, match="can't be read"):
        async with open_world(place(server, tmp_path)):
            pass


async def test_an_api_server_that_is_away_is_unreachable(server: ApiServerEmulation, tmp_path: Path) -> None:
    there = place(server, tmp_path)
    await server.go_away()

    with pytest.raises(UnreachableError, match="can't be read"):
        async with open_world(there):
            pass


async def test_a_namespace_that_there_is_not_is_named(server: ApiServerEmulation, tmp_path: Path) -> None:
    there = place(server, tmp_path)

    with pytest.raises(SettingsError, match="elsewhere"):
        async with open_world(replace(there, settings=replace(there.settings, namespace="elsewhere"))):
            pass
