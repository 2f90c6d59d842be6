"""
Banzai Cloud's "Pod level external HTTP(S) proxy configuration with Istio", step by step, with this project's means.

The article wants each pod to have HTTP_PROXY, HTTPS_PROXY and NO_PROXY without its owner's doing, sets them once for
the mesh, has its webhook write them into pods, and sees Tinyproxy's log. Here the same is the mode `env`, with no mesh
needed; and the same policy then does without the variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, FILES
from tests.e2e.pod_world import TINYPROXY_PORT, PodWorld, make_pod, open_pod_world, start_tinyproxy
from tests.support.cluster import namespace
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api_store import Object
    from tests.support.pod_runner import RunningPod

pytestmark = pytest.mark.e2e

PROXY = f"http://proxy.corp.example:{TINYPROXY_PORT}"
POLICY = f"httpProxy: {PROXY}\nhttpsProxy: {PROXY}\nnoProxy: [.corp.example]\n"
WANTED = {"egress-xds/inject": "true"}


@pytest.fixture(scope="module")
def shared_world() -> Iterator[PodWorld]:
    """Step 1: Tinyproxy runs outside of the cluster; step 2: the proxy is written down once, for everybody."""
    with open_pod_world(namespace("default", WANTED, mode="env"), start_proxy=start_tinyproxy) as world:
        world.put_policy("corp", POLICY)
        yield world


@pytest.fixture(scope="module")
def pod(shared_world: PodWorld) -> RunningPod:
    """Step 3: a pod is made as ever."""
    return shared_world.create(make_pod("alpine", "default"))


def test_step_3_the_webhook_writes_the_variables_in_both_cases(pod: RunningPod) -> None:
    found = {name: value for name, value in pod.environment("app").items() if "PROXY" in name.upper()}

    assert found.keys() == {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
    assert {found[name].rstrip("/") for name in found if "no" not in name.lower()} == {PROXY}
    assert found["NO_PROXY"] == found["no_proxy"]
    assert {".corp.example", ".svc", ".cluster.local", "127.0.0.1"} <= {*found["NO_PROXY"].split(",")}
    assert [*pod.programs] == ["app"], "and no sidecar"


def test_step_4_the_proxy_logs_what_the_application_asks_for(world: PodWorld, pod: RunningPod) -> None:
    mark = world.proxy.mark()

    assert "greets you over TLS" in pod.curl("app", f"https://{API}/").expect()
    assert "greets you over plain HTTP" in pod.curl("app", f"http://{API}/").expect()

    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert world.proxy.wait_for(f"GET http://{API}/", mark)


def test_step_5_what_is_inside_the_company_is_reached_without_the_proxy(world: PodWorld, pod: RunningPod) -> None:
    mark = world.proxy.mark()

    assert FILES in pod.curl("app", f"https://{FILES}/").expect()

    assert FILES not in world.proxy.text(mark)


def test_beyond_the_article_the_same_policy_needs_no_variable_at_all(world: PodWorld) -> None:
    """The namespace's annotation changes, and new pods have a sidecar; a client that reads no variable is carried."""
    world.apply(namespace("default", WANTED, mode="transparent"))
    own = make_pod("transparent", "default")
    stored = wait_until(lambda: _with_a_sidecar(world.admit(own)), "the namespace's new annotation", timeout=10)
    pod, mark = world.run(stored), world.proxy.mark()

    assert not [name for name in pod.environment("app") if "PROXY" in name.upper()]
    assert "greets" in pod.curl("app", f"https://{API}/", "--noproxy", "*").expect()
    assert FILES in pod.curl("app", f"https://{FILES}/").expect()

    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert FILES not in world.proxy.text(mark)
    world.delete(pod)
    world.apply(namespace("default", WANTED, mode="env"))


def _with_a_sidecar(stored: Object) -> Object | None:
    return stored if any(item["name"] == "egress-envoy" for item in stored["spec"].get("initContainers", ())) else None
