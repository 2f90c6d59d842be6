"""ConfigMap, Secret and pod in, tunnels out: a control plane in a cluster, a real Envoy and a proxy with a login."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, hold
from tests.e2e.kubernetes_world import NAMESPACE, POD, KubernetesWorld, open_kubernetes_world, start_server
from tests.e2e.secured_proxies import Login
from tests.support.cluster import HOME, namespace, pod, policy, secret
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ALICE, BOB = Login("alice", "canary-first"), Login("bob", "canary-second")
TEXT = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: corp}}
spec:
  proxies:
    corp:
      endpoints: [{{url: "http://proxy.corp.example:3128"}}]
      auth: {{basic: {{secretRef: {{name: corp-proxy-login}}}}}}
  rules: {rules}
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""
DENY = f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]"


def login(of: Login) -> dict[str, object]:
    """Return the Secret of a login."""
    return secret(HOME, "corp-proxy-login", username=of.user, password=of.password)


def corp(rules: str = "[]") -> dict[str, object]:
    """Return the ConfigMap of the policy."""
    return policy(HOME, "corp", TEXT.format(rules=rules))


@pytest.fixture(scope="module")
def cluster() -> Iterator[KubernetesWorld]:
    """Envoy proves with its pod's token who it is, and has the policy and the login."""
    own = pod(NAMESPACE, POD, {"app": "web"}, account="web")
    own["metadata"]["uid"] = "2"
    with open_kubernetes_world([namespace(HOME), namespace(NAMESPACE), own, login(ALICE), corp()], ALICE, BOB) as world:
        yield world


def reaches(cluster: KubernetesWorld, user: str) -> bool:
    """Whether a request reaches the Internet with this user's login."""
    mark = cluster.world.proxy.mark()
    done = cluster.world.curl(f"https://{API}/")
    return done.exit_code == 0 and f" {user} " in cluster.world.proxy.wait_for(f"CONNECT {API}:443", mark)


def test_a_config_map_reaches_envoy_within_seconds_and_a_broken_one_does_not(cluster: KubernetesWorld) -> None:
    world = cluster.world
    assert reaches(cluster, "alice")

    before, began = world.updates(), time.monotonic()
    cluster.apply(corp(DENY))
    world.wait_for_updates(before)
    took = time.monotonic() - began
    assert world.curl(f"https://{API}/").exit_code == 35
    assert took < 5

    before = world.updates()
    cluster.apply(corp("[{name: api, to: {domains: [a..b]}, action: direct}]"))
    world.control_plane.wait_for("its last good version stays in force")
    hold(lambda: world.updates() == before, "a broken policy reached Envoy", 1)
    wait_until(lambda: told(cluster, "accepted") == "false", "the verdict on the ConfigMap", timeout=10)
    assert "policy.yaml:9" in told(cluster, "problems")
    assert world.curl(f"https://{API}/").exit_code == 35

    cluster.apply(corp())
    wait_until(lambda: reaches(cluster, "alice"), "the policy as it was", timeout=10)
    wait_until(lambda: "1 acknowledged" in told(cluster, "status"), "the status on the ConfigMap", timeout=20)


def told(cluster: KubernetesWorld, name: str) -> str:
    """Return what operators read on the ConfigMap."""
    metadata = cluster.get(corp())["metadata"]
    return str({**metadata.get("annotations", {}), **metadata["labels"]}.get(f"egress-xds/{name}", ""))


def test_a_secret_that_is_rotated_is_in_the_next_tunnel(cluster: KubernetesWorld) -> None:
    before = cluster.world.updates()
    cluster.apply(login(BOB))
    wait_until(lambda: reaches(cluster, "bob"), "a tunnel with the new login", timeout=10)
    assert cluster.world.updates() == before

    cluster.apply(login(ALICE))
    wait_until(lambda: reaches(cluster, "alice"), "a tunnel with the old login again", timeout=10)
    assert "canary" not in cluster.world.control_plane.text()
    assert "canary" not in str(cluster.get(corp()))


def test_an_api_server_that_is_away_is_not_noticed(cluster: KubernetesWorld) -> None:
    world = cluster.world
    before = world.updates()
    cluster.request("POST", "/emulation", {"away": 3, "compact": True})
    world.control_plane.wait_for("collection can't be read")
    assert reaches(cluster, "alice")
    world.control_plane.wait_for("collection is read again")
    assert world.updates() == before

    cluster.apply(corp(DENY))
    world.wait_for_updates(before)
    cluster.apply(corp())
    wait_until(lambda: reaches(cluster, "alice"), "the policy as it was", timeout=10)


def test_another_replica_tells_envoy_nothing_again(cluster: KubernetesWorld) -> None:
    world = cluster.world
    before, seen = world.updates(), len(world.control_plane.text())
    world.control_plane.kill()
    replica = start_server(world.lab, cluster.kubeconfig, "--identifier", "another")
    replica.wait_for("stream opened", after=seen, timeout=40)

    assert reaches(cluster, "alice")
    hold(lambda: world.updates() == before, "the other replica told something again", 2)
    wait_until(lambda: "1 acknowledged" in told(cluster, "status"), "the new leader's status", timeout=40)
    world.control_plane = replica


def test_a_pod_that_is_deleted_is_served_no_more(cluster: KubernetesWorld) -> None:
    """Its Envoy keeps what it has; the stream ends, and the token of a pod that is gone opens no other."""
    control_plane, own = cluster.world.control_plane, pod(NAMESPACE, POD, {"app": "web"}, account="web")
    seen = len(control_plane.text())
    cluster.delete(own)
    assert "status=NOT_FOUND" in control_plane.wait_for("stream closed", after=seen)
    assert reaches(cluster, "alice")

    own["metadata"]["uid"], seen = "3", len(control_plane.text())
    cluster.apply(own)
    control_plane.wait_for("stream refused", after=seen, timeout=40)
    assert "stream opened" not in control_plane.text()[seen:]
