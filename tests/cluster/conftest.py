"""
Tests of a real API server, the one of `KUBECONFIG`; `make test-cluster` runs them, and nothing else does.

Whoever runs them must be an administrator there. Each test has namespaces of its own and removes what it made; what is
left at the end of a run, also of one that is interrupted, is found by its label and removed then.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest

from tests.cluster.deployed import grant
from tests.cluster.place import LABEL, NOT_FOUND, Place, Run, connected, delete, open_place
from xds.errors import SettingsError
from xds.kubernetes.connection import ApiError, ApiServer
from xds.kubernetes.objects import POLICY_LABEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_USAGE = 2
_LABELLED = (
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/api/v1/namespaces",
)


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """The run: looks whether the cluster is fit for it, and leaves nothing behind."""
    kubeconfig = Path(os.environ.get("KUBECONFIG", "")).absolute()
    if not kubeconfig.is_file():
        pytest.exit("KUBECONFIG must name one file: the kubeconfig of an administrator of a test cluster", _USAGE)
    name = token_hex(4)
    # Who is told to end ends as who is interrupted: fixtures are torn down.
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield Run(name, kubeconfig, is_emulation=asyncio.run(_look(kubeconfig)))
    finally:
        signal.signal(signal.SIGTERM, before)
        asyncio.run(_sweep(kubeconfig, name))


@pytest.fixture
async def place(run: Run) -> AsyncIterator[Place]:
    """Two namespaces of the test's own."""
    async with open_place(run) as found:
        yield found


@pytest.fixture(params=["as an administrator", "with the rights of deploy"])
async def kubeconfig(request: pytest.FixtureRequest, place: Place, tmp_path: Path) -> Path:
    """The credentials of the control plane."""
    if request.param == "as an administrator":
        return place.run.kubeconfig
    return (await grant(place, tmp_path)).kubeconfig


async def _look(kubeconfig: Path) -> bool:
    """Tell whether the API server is the emulation; end the run if it can't be asked, or has policies of others."""
    try:
        async with connected(kubeconfig) as api:
            await api.request("GET", "/version")
            found = await _list(api, "/api/v1/configmaps", POLICY_LABEL)
            if found:
                pytest.exit(
                    f"this cluster has policies, which the tests would judge and mark: {', '.join(found)}; use a "
                    f"cluster for tests, or remove what an earlier run left: kubectl delete namespaces -l {LABEL}",
                    _USAGE,
                )
            return await _is_emulation(api)
    except (ApiError, SettingsError) as error:
        pytest.exit(f"the API server of {kubeconfig} is of no use: {error}", _USAGE)


async def _is_emulation(api: ApiServer) -> bool:
    try:
        await api.request("POST", "/emulation", body={})
    except ApiError:
        return False
    return True


async def _sweep(kubeconfig: Path, name: str) -> None:
    """Remove what is left of a run."""
    async with connected(kubeconfig) as api:
        for path in _LABELLED:
            for found in await _list(api, path, f"{LABEL}={name}"):
                await delete(api, f"{path}/{found}")


async def _list(api: ApiServer, path: str, selector: str) -> list[str]:
    try:
        found = await api.request("GET", path, query={"labelSelector": selector}, timeout=30)
    except ApiError as error:
        if error.status == NOT_FOUND:
            return []
        raise
    items = found.get("items")
    metadata = [item["metadata"] for item in items] if isinstance(items, list) else []
    return ["/".join(filter(None, (each.get("namespace"), each["name"]))) for each in metadata]
