"""
AKS' "HTTP proxy support", step by step: its JSON becomes a policy, and pods are made as ever.

The page writes a file with `httpProxy`, `httpsProxy`, `noProxy` and `trustedCa`, creates a cluster with it, and looks
for the variables in a pod; later it updates the file and has nodes and pods renewed. Here `xds import aks` reads the
same file, and what it prints is applied.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.e2e.harness import API, FILES
from tests.e2e.pod_world import PodWorld, make_pod, open_pod_world
from tests.e2e.secured_proxies import PROXY_HOST, TLS_PORT, put, start_squid
from tests.support.certificates import Authority
from tests.support.cluster import HOME, namespace
from xds.demo.cast import xds_command
from xds.demo.lab import Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api_store import Object
    from tests.support.pod_runner import RunningPod

pytestmark = pytest.mark.e2e

COMPANY = Authority("the company")


def write_down(*no_proxy: str) -> str:
    """Return the page's file, with the company's own proxy in it."""
    config = {
        "httpProxy": f"http://{PROXY_HOST}:3128/",
        "httpsProxy": f"https://{PROXY_HOST}:{TLS_PORT}/",
        "noProxy": ["localhost", "127.0.0.1", *no_proxy],
        "trustedCa": base64.b64encode(COMPANY.certificate.encode()).decode(),
    }
    return json.dumps(config, indent=2)


def import_file(world: PodWorld, text: str) -> Object:
    """Run `xds import aks` on the file; return the ConfigMap that it prints."""
    command = ["import", "aks", put(world.lab, "aks-proxy-config.json", text), "--name", "corp", "--configmap"]
    done = world.lab.run(Namespace.CORP, xds_command(*command, "--namespace", HOME), environment=python_environment())
    told = done.stderr.decode()
    # What changed in meaning is told, and counted in the exit code; nothing may be lost.
    assert done.returncode in {0, 1}, told
    assert "0 losses" in told
    found = yaml.safe_load(done.stdout)
    assert isinstance(found, dict)
    return found


def apply(world: PodWorld, item: Object) -> None:
    """Apply a policy and return once it is in force."""
    seen = len(world.control_plane.text())
    world.apply(item)
    world.control_plane.wait_for("published", after=seen)


@pytest.fixture(scope="module")
def shared_world() -> Iterator[PodWorld]:
    """Step 1: the file is written; step 2: the cluster has it."""
    labelled = namespace("default", {"egress-xds/inject": "true"})
    certificate = COMPANY.issue(PROXY_HOST)
    with open_pod_world(labelled, start_proxy=lambda lab: start_squid(lab, certificate=certificate)) as world:
        apply(world, import_file(world, write_down(FILES)))
        yield world


@pytest.fixture(scope="module")
def pod(shared_world: PodWorld) -> RunningPod:
    """Step 3: a pod is made as ever."""
    return shared_world.create(make_pod("web", "default"))


def test_step_3_the_pod_has_none_of_the_six_variables_and_reaches_the_internet(
    world: PodWorld, pod: RunningPod
) -> None:
    """The HTTPS proxy of the file is one that speaks TLS; its authority is the file's."""
    mark = world.proxy.mark()

    assert "greets you over TLS" in pod.curl("app", f"https://{API}/").expect()
    assert "greets you over plain HTTP" in pod.curl("app", f"http://{API}/").expect()

    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert world.proxy.wait_for(f"GET http://{API}/", mark)
    assert not [name for name in pod.environment("app") if "PROXY" in name.upper()]


def test_step_3_what_no_proxy_says_goes_direct(world: PodWorld, pod: RunningPod) -> None:
    mark = world.proxy.mark()

    assert FILES in pod.curl("app", f"https://{FILES}/").expect()

    assert FILES not in world.proxy.text(mark)


def test_step_4_an_update_of_the_file_needs_neither_new_nodes_nor_new_pods(world: PodWorld, pod: RunningPod) -> None:
    mark = world.proxy.mark()

    apply(world, import_file(world, write_down("other.corp.example")))

    def look() -> bool:
        pod.curl("app", f"https://{FILES}/").expect()
        return f"CONNECT {FILES}:443" in world.proxy.text(mark)

    wait_until(look, "the updated file in force in the pod that runs", timeout=15)
    apply(world, import_file(world, write_down(FILES)))


def test_step_5_a_pod_that_is_to_have_the_variables_may_have_them(world: PodWorld) -> None:
    """As AKS writes them; a proxy that speaks TLS is one that few clients take, which is what AKS' pods get, too."""
    stored = world.admit(make_pod("told", "default", mode="env"))
    (container,) = stored["spec"]["containers"]
    told = {item["name"]: item["value"] for item in container["env"]}

    assert told["HTTPS_PROXY"].rstrip("/") == told["https_proxy"].rstrip("/") == f"https://{PROXY_HOST}:{TLS_PORT}"
    assert told["HTTP_PROXY"].rstrip("/") == f"http://{PROXY_HOST}:3128"
    assert FILES in told["NO_PROXY"].split(",")
