"""The API server takes every manifest of `deploy/`, as a dry run with strict fields shows."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.cluster.deployed import ACCOUNT, placed
from tests.cluster.place import NOT_FOUND
from tests.support.manifests import CHART, KUSTOMIZE, build, read_manifests
from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.cluster.place import Place
    from tests.support.manifests import Manifest

OVERLAYS = sorted(path.name for path in (KUSTOMIZE / "overlays").iterdir())
SINGLE = sorted((KUSTOMIZE / "examples").glob("*.yaml")) + sorted(KUSTOMIZE.glob("components/*/cluster-role.yaml"))


async def judge(place: Place, objects: Iterable[Manifest]) -> None:
    """Apply without effect; skip at the end if the cluster does not know some of the groups."""
    place.need_real_server("server-side dry run")
    unknown = []
    for item in objects:
        if "cert-manager.io" in item["apiVersion"] and not await is_known(place, item["apiVersion"]):
            unknown.append(f"{item['kind']} {item['metadata']['name']}")
        else:
            await place.apply(placed(item, place), dryRun="All", fieldValidation="Strict")
    if unknown:
        pytest.skip(f"this cluster has no cert-manager; all else was taken, these were not tried: {unknown}")


async def is_known(place: Place, group: str) -> bool:
    """Whether the API server has a group."""
    try:
        await place.ask("GET", f"/apis/{group}")
    except ApiError as error:
        if error.status == NOT_FOUND:
            return False
        raise
    return True


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_an_overlay_is_taken(place: Place, overlay: str) -> None:
    await judge(place, build(KUSTOMIZE / "overlays" / overlay))


@pytest.mark.parametrize("file", SINGLE, ids=lambda path: path.relative_to(KUSTOMIZE).as_posix())
async def test_an_example_and_a_component_are_taken(place: Place, file: Path) -> None:
    await judge(place, read_manifests(file))


async def test_the_chart_is_taken(place: Place) -> None:
    place.need_real_server("server-side dry run")
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("there is no helm on PATH")
    command = [helm, "template", "egress-xds", str(CHART), "--namespace", "egress-system"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)  # noqa: ASYNC221  # nothing else runs
    await judge(place, filter(None, yaml.safe_load_all(done.stdout)))


async def test_a_namespace_with_restricted_pods_takes_the_pods_of_the_deployment(place: Place) -> None:
    place.need_real_server("admission of pods")
    objects = {item["kind"]: item for item in build(KUSTOMIZE / "overlays" / "generated")}
    await place.apply(placed(objects["ServiceAccount"], place))
    template = objects["Deployment"]["spec"]["template"]
    metadata = {**template["metadata"], "name": ACCOUNT, "namespace": place.home}
    found = await place.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]},
        dryRun="All",
        fieldValidation="Strict",
    )

    assert found["spec"]["serviceAccountName"] == ACCOUNT
