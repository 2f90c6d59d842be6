"""
From variables to the sidecar, one namespace after the other, and out again: the steps of docs/upgrades.md.

The application is the same all the time, and so is what the proxy sees of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.e2e.harness import API, FILES
from tests.e2e.pod_world import PodWorld, make_pod, open_pod_world
from tests.e2e.secured_proxies import put
from tests.support.cluster import HOME, namespace
from xds.demo.cast import xds_command
from xds.demo.lab import Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.api_store import Object
    from tests.support.pod_runner import RunningPod

pytestmark = pytest.mark.e2e

PROXY = "http://proxy.corp.example:3128"
VARIABLES = {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "http_proxy": PROXY, "https_proxy": PROXY}
VARIABLES |= dict.fromkeys(("NO_PROXY", "no_proxy"), f"{FILES},localhost,.svc,10.96.0.0/12")
MOVING, STAYING = "shop", "payments"
LABEL = {"egress-xds/inject": "true"}


@pytest.fixture(scope="module")
def shared_world() -> Iterator[PodWorld]:
    """A cluster with the control plane in it that nobody has asked for anything yet."""
    with open_pod_world(namespace(MOVING), namespace(STAYING)) as world:
        yield world


def application(name: str, of: str = MOVING, variables: Mapping[str, str] | None = None) -> Object:
    """Return the application's pod with variables in its manifest."""
    pod = make_pod(name, of)
    pod["spec"]["containers"][0]["env"] = [{"name": key, "value": value} for key, value in (variables or {}).items()]
    return pod


def label(world: PodWorld, labels: Mapping[str, str], mode: str = "") -> None:
    """Do what `kubectl label` and `kubectl annotate` do to the namespace, and wait until the webhook knows."""
    world.apply(namespace(MOVING, labels, **({"mode": mode} if mode else {})))
    pod = make_pod("nobody", MOVING)

    def look() -> bool:
        return bool(world.admit(pod)["metadata"]["annotations"].get("egress-xds/mode") == (mode or "transparent"))

    if labels:
        wait_until(look, "the webhook knowing of the namespace", 15)


def has_sidecar(pod: RunningPod) -> bool:
    return "egress-envoy" in pod.programs


def requests_of(world: PodWorld, pod: RunningPod) -> list[str]:
    """Fetch what an application fetches; return the requests that the proxy logged of it."""
    mark = world.proxy.mark()
    for url in (f"https://{API}/", f"https://{FILES}/", f"http://{API}/last"):
        assert "greets" in pod.curl("app", url).expect()
    world.proxy.wait_for(f"http://{API}/last", mark)
    lines = [line.split() for line in world.proxy.text(mark).splitlines()]
    return [" ".join(line[5:7]) for line in lines if line[2] == pod.address]


SEEN = [f"CONNECT {API}:443", f"GET http://{API}/last"]


def import_variables(world: PodWorld, pod: RunningPod) -> Object:
    """Run `xds import env` on what `env` prints in the pod; return the ConfigMap that it prints."""
    text = "".join(f"{name}={value}\n" for name, value in pod.environment("app").items())
    command = ["import", "env", put(world.lab, "variables", text), "--name", "corp", "--configmap"]
    done = world.lab.run(Namespace.CORP, xds_command(*command, "--namespace", HOME), environment=python_environment())
    assert done.returncode in {0, 1}, done.stderr.decode()
    found = yaml.safe_load(done.stdout)
    assert isinstance(found, dict)
    return found


def test_an_application_moves_from_variables_to_the_sidecar_and_back(world: PodWorld) -> None:
    """Step by step; the proxy never sees a difference."""
    before = world.run(application("before", variables=VARIABLES))
    neighbour = world.run(application("neighbour", STAYING, VARIABLES))
    assert requests_of(world, before) == SEEN

    # The policy says what the variables said.
    seen = len(world.control_plane.text())
    world.apply(import_variables(world, before))
    world.control_plane.wait_for("published", after=seen)

    # First the variables only: of the policy instead of the manifest.
    label(world, LABEL, mode="env")
    as_before = world.create(application("as-before"))
    assert not has_sidecar(as_before)
    assert as_before.environment("app")["HTTPS_PROXY"].rstrip("/") == PROXY
    assert requests_of(world, as_before) == SEEN
    kept = world.create(application("kept", variables=VARIABLES))
    assert {name: kept.environment("app")[name] for name in VARIABLES} == VARIABLES

    # Then the sidecar, beside variables that are still there: their requests are passed through.
    label(world, LABEL)
    both = world.create(application("both", variables=VARIABLES))
    assert has_sidecar(both)
    assert requests_of(world, both) == SEEN
    assert chains_of(both) == {"direct"}

    # At last without them: the sidecar asks the proxy.
    without = world.create(application("without"))
    assert not [name for name in without.environment("app") if "proxy" in name.lower()]
    assert requests_of(world, without) == SEEN
    assert "tunnel-tls/httpsproxy" in chains_of(without) or any(
        item.startswith("tunnel") for item in chains_of(without)
    )

    # All that ran before, and the other namespace, are as they were.
    assert requests_of(world, before) == requests_of(world, neighbour) == SEEN

    # And back: the label goes, new pods are left alone, and those with a sidecar keep it until they are replaced.
    label(world, {})
    after = world.create(application("after", variables=VARIABLES))
    assert not has_sidecar(after)
    assert requests_of(world, after) == requests_of(world, without) == SEEN


def chains_of(pod: RunningPod) -> set[str]:
    """Return what took the connections of a pod, of what its sidecar has logged."""

    def look() -> set[str]:
        lines = [line for line in pod.programs["egress-envoy"].text().splitlines() if line.startswith("{")]
        return {str(json.loads(line)["chain"]) for line in lines if line.endswith("}")}

    return wait_until(look, "lines in the access log", 20)


def test_a_forgotten_pod_keeps_its_last_configuration_without_a_control_plane(world: PodWorld) -> None:
    """The last test: the control plane does not come back."""
    label(world, LABEL)
    pod = world.create(application("forgotten"))
    assert requests_of(world, pod) == SEEN

    assert world.control_plane.stop() == 0

    assert requests_of(world, pod) == SEEN
    assert pod.is_ready()
