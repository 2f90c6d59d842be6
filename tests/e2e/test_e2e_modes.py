"""One policy, three ways of delivery: what reaches the company's proxy is the same, and so is what does not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, FILES
from tests.e2e.pod_world import PodWorld, make_pod, open_pod_world
from tests.support.cluster import HOME, namespace, policy
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pod_runner import Done, RunningPod

pytestmark = pytest.mark.e2e

PROXY = "http://proxy.corp.example:3128"
POLICY = f"httpProxy: {PROXY}\nhttpsProxy: {PROXY}\nnoProxy: [{FILES}]\nmode: explicit\n"
DENYING = f"""\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: denying}}
spec:
  proxies: {{corp: {{endpoints: [{{url: "{PROXY}"}}]}}}}
  rules: [{{name: api, to: {{domains: [{API}]}}, action: deny}}]
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""
MODES = ("transparent", "explicit", "env")
NAMES = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}


@pytest.fixture(scope="module")
def shared_world() -> Iterator[PodWorld]:
    """A cluster with one policy for all, and another that denies in one namespace."""
    wanted = {"egress-xds/inject": "true"}
    objects = [namespace("shop", wanted), namespace("strict", wanted), policy("strict", "strict", DENYING)]
    with open_pod_world(*objects, policy(HOME, "corp", POLICY)) as world:
        yield world


@pytest.fixture(scope="module")
def pods(shared_world: PodWorld) -> dict[str, RunningPod]:
    """One pod of each mode, by its annotation."""
    return {mode: shared_world.create(make_pod(f"web-{mode}", mode=mode)) for mode in MODES}


def requests_of(world: PodWorld, pod: RunningPod, *urls: str) -> tuple[list[Done], list[str]]:
    """Fetch URLs one after the other; return what came of it, and the requests that the proxy logged of this pod."""
    mark = world.proxy.mark()
    done = [pod.curl("app", url) for url in urls]
    pod.curl("app", f"http://{API}/last").expect()
    world.proxy.wait_for(f"{pod.address} TCP_MISS/200", mark)
    world.proxy.wait_for(f"http://{API}/last", mark)
    lines = [line.split() for line in world.proxy.text(mark).splitlines()]
    return done, [" ".join(line[5:7]) for line in lines if line[2] == pod.address]


def test_what_goes_to_the_proxy_is_the_same_in_every_mode(world: PodWorld, pods: dict[str, RunningPod]) -> None:
    urls = [f"https://{API}/", f"http://{API}/", f"https://{FILES}/", f"http://{FILES}/"]

    seen = {mode: requests_of(world, pod, *urls) for mode, pod in pods.items()}

    for mode, (done, logged) in seen.items():
        assert ["greets" in one.expect() for one in done] == [True] * len(urls), mode
        assert sorted(logged) == [f"CONNECT {API}:443", f"GET http://{API}/", f"GET http://{API}/last"], mode


def test_each_mode_adds_what_it_needs_and_nothing_else(pods: dict[str, RunningPod]) -> None:
    ours = {mode: [item.name for item in pod.pod.init] for mode, pod in pods.items()}
    told = {mode: {name for name in pod.environment("app") if "PROXY" in name.upper()} for mode, pod in pods.items()}

    assert ours == {
        "transparent": ["egress-bootstrap", "egress-envoy", "egress-capture"],
        "explicit": ["egress-bootstrap", "egress-envoy"],
        "env": [],
    }
    assert told == {"transparent": set(), "explicit": NAMES, "env": NAMES}
    assert pods["explicit"].environment("app")["https_proxy"] == "http://127.0.0.1:15002"
    assert pods["env"].environment("app")["https_proxy"].rstrip("/") == PROXY
    assert FILES in pods["env"].environment("app")["no_proxy"]
    assert FILES not in pods["explicit"].environment("app")["no_proxy"]


def test_no_mode_but_transparent_needs_a_right_that_namespaces_forbid(pods: dict[str, RunningPod]) -> None:
    """The Pod Security Standard `restricted` allows no capability, and nobody to be root."""
    for mode in ("explicit", "env"):
        ours = [item for item in pods[mode].pod.init if item.name.startswith("egress-")]
        assert all(not item.security.capabilities and item.security.uid for item in ours), mode


def test_what_ignores_the_variables_is_still_captured_in_transparent_mode_alone(
    world: PodWorld, pods: dict[str, RunningPod]
) -> None:
    mark = world.proxy.mark()

    assert "greets" in pods["transparent"].curl("app", f"https://{API}/", "--noproxy", "*").expect()
    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)

    before = world.leaked
    assert pods["env"].curl("app", f"https://{API}/", "--noproxy", "*", "--connect-timeout", "1").exit_code == 28
    assert world.leaked > before
    world.expected += world.leaked - before


def test_what_variables_can_not_say_is_refused_with_a_remedy(world: PodWorld) -> None:
    answer = world.review(make_pod("web", "strict", mode="env"))

    assert not answer["allowed"]
    assert "mode" in answer["status"]["message"]
    assert "denying" in answer["status"]["message"] or "deny" in answer["status"]["message"]


def test_a_change_of_the_policy_reaches_running_pods_that_have_a_sidecar(
    world: PodWorld, pods: dict[str, RunningPod]
) -> None:
    """Without a sidecar the variables stay what they were when the pod was made."""
    world.apply(policy(HOME, "corp", POLICY.replace(FILES, "other.corp.example")))
    try:
        for mode in ("transparent", "explicit"):
            wait_until(partial(is_tunnelled, world, pods[mode]), f"the new policy in {mode}", timeout=15)
        assert not is_tunnelled(world, pods["env"])
    finally:
        world.apply(policy(HOME, "corp", POLICY))


def is_tunnelled(world: PodWorld, pod: RunningPod) -> bool:
    """Whether a pod reaches what is inside the company by the proxy."""
    return f"CONNECT {FILES}:443" in requests_of(world, pod, f"https://{FILES}/")[1]
