"""From `kubectl apply` to `CONNECT`: pods with their sidecars reach the Internet through Squid, run as specs say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API
from tests.e2e.pod_world import PodWorld, open_pod_world
from tests.support.cluster import HOME, namespace, policy
from tests.support.manifests import KUSTOMIZE, read_manifests

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

PROXY = "http://proxy.corp.example:3128"
POLICY = f"httpProxy: {PROXY}\nhttpsProxy: {PROXY}\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[PodWorld]:
    """A cluster with one policy for all."""
    labelled = namespace("shop", {"egress-xds/inject": "true"})
    with open_pod_world(labelled, policy(HOME, "corp", POLICY)) as world:
        yield world


@pytest.fixture
def world(cluster: PodWorld) -> Iterator[PodWorld]:
    """The cluster; whatever a pod does there, it must not reach for the Internet by itself."""
    before = cluster.leaked
    yield cluster
    assert cluster.leaked == before, "a pod sent packets towards the Internet by itself"


def test_the_pod_that_is_written_by_hand_reaches_the_internet(world: PodWorld) -> None:
    (example,) = read_manifests(KUSTOMIZE / "examples" / "pod.yaml")
    metadata = {"name": "egress-xds-ca", "namespace": "shop"}
    data = {"ca.crt": world.authority.certificate}
    world.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    mark = world.proxy.mark()

    pod = world.run(example)

    assert "greets you over TLS" in pod.curl("web", f"https://{API}/").expect()
    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert not {name for name in pod.environment("web") if "proxy" in name.lower()}
    assert world.delete(pod)["egress-envoy"] == 0
