"""A pod that Istio captures: its egress goes by our sidecar and then by Istio's, all else by Istio's alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.e2e.harness import API, FILES
from tests.e2e.istio import IMAGE, ISTIO_IMAGE, ISTIO_UID, OUTBOUND, capture_by_istio
from tests.e2e.pod_world import PodWorld, make_pod, open_pod_world
from tests.e2e.secured_proxies import put
from tests.support.cluster import HOME, namespace, policy
from xds.demo.cast import xds_command
from xds.demo.lab import CONTROL_PLANE_ADDRESS, FILES_ADDRESS, PROXY_ADDRESS, Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.support.api_store import Object
    from tests.support.pod_runner import RunningPod

pytestmark = pytest.mark.e2e

POLICY = f"httpProxy: http://{PROXY_ADDRESS}:3128\nhttpsProxy: http://{PROXY_ADDRESS}:3128\nmode: explicit\n"
POLICY_BY_NAME = POLICY.replace(PROXY_ADDRESS, "proxy.corp.example")
ORDERS = "orders.shop.svc"
SIDECAR_UID = 1338
EXPLICIT_PORT = 15002


@pytest.fixture(scope="module")
def shared_world() -> Iterator[PodWorld]:
    """A cluster in which Istio lets out only what it knows, with a Service `orders`."""
    labels = {"egress-xds/inject": "true", "istio-injection": "enabled"}
    objects = [namespace("shop", labels), namespace("named", labels), policy("named", "named", POLICY_BY_NAME)]
    objects.append(policy(HOME, "corp", POLICY))
    with open_pod_world(*objects, images={IMAGE: ISTIO_IMAGE}, hosts={ORDERS: FILES_ADDRESS}) as world:
        yield world


def generate(shared_world: PodWorld, text: str, of: str) -> list[Mapping[str, Any]]:
    """Return the ServiceEntries that our side generates of a policy."""
    command = xds_command("inject", "--service-entry", put(shared_world.lab, "corp.yaml", text), "--pod-namespace", of)
    done = shared_world.lab.run(Namespace.CORP, command, environment=python_environment())
    assert done.returncode == 0, done.stderr.decode()
    return list(yaml.safe_load_all(done.stdout))


def create(shared_world: PodWorld, pod: Object, entries: Iterable[Mapping[str, Any]]) -> RunningPod:
    """
    Create a pod that our webhook changes, and Istio's after it, and return it once our sidecar listens.

    No probe waits for that beside a mesh: the application may start before its sidecar has a configuration.
    """
    services = [(FILES_ADDRESS, 80), (FILES_ADDRESS, 443), (CONTROL_PLANE_ADDRESS, 18000)]
    running = shared_world.run(capture_by_istio(shared_world.admit(pod), services, entries))
    wait_until(lambda: listeners(running, EXPLICIT_PORT), "our sidecar's listener", 60)
    return running


@pytest.fixture(scope="module")
def pod(shared_world: PodWorld) -> RunningPod:
    """A pod whose proxy Istio knows by its address."""
    return create(shared_world, make_pod("meshed"), generate(shared_world, POLICY, "shop"))


def taken_by_ours(pod: RunningPod) -> int:
    """Return how many connections our sidecar has taken from the application."""
    return sum(pod.admin().counters(r"^listener\..*_15002\.downstream_cx_total$").values())


def listeners(pod: RunningPod, port: int) -> set[int]:
    """Return the users that listen on a TCP port in the pod, on whichever address."""
    rows = pod.execute("app", "cat", "/proc/net/tcp", "/proc/net/tcp6").expect().splitlines()
    fields = [row.split() for row in rows]
    return {int(row[7]) for row in fields if row[3] == "0A" and row[1].endswith(f":{port:04X}")}


def test_egress_goes_by_our_sidecar_and_then_by_istios(world: PodWorld, pod: RunningPod) -> None:
    ours, istios = taken_by_ours(pod), len(pod.programs["istio-proxy"].text())
    mark = world.proxy.mark()

    assert "greets you over TLS" in pod.curl("app", f"https://{API}/").expect()
    assert "greets you over plain HTTP" in pod.curl("app", f"http://{API}/").expect()

    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert world.proxy.wait_for(f"GET http://{API}/", mark)
    assert f"{PROXY_ADDRESS}:3128 by outbound|3128||" in pod.programs["istio-proxy"].wait_for(":3128 by", after=istios)
    assert taken_by_ours(pod) == ours + 2


def test_traffic_inside_the_cluster_goes_by_istio_alone(world: PodWorld, pod: RunningPod) -> None:
    ours, istios = taken_by_ours(pod), len(pod.programs["istio-proxy"].text())
    mark = world.proxy.mark()

    assert FILES in pod.curl("app", f"http://{ORDERS}/").expect()

    assert f"service|80||{FILES_ADDRESS}" in pod.programs["istio-proxy"].wait_for(f"{FILES_ADDRESS}:80", after=istios)
    assert taken_by_ours(pod) == ours
    assert ORDERS not in world.proxy.text(mark)


def test_what_comes_in_goes_by_istio_to_the_application(pod: RunningPod) -> None:
    seen = len(pod.programs["istio-proxy"].text())

    assert pod.fetch(8080).expect() == "the application"
    assert pod.programs["istio-proxy"].wait_for("by InboundPassthroughCluster", after=seen)


def test_what_goes_past_our_sidecar_ends_in_istios_black_hole(pod: RunningPod) -> None:
    done = pod.curl("app", f"https://{API}/", "--noproxy", "*")

    assert done.exit_code != 0
    assert "BlackHoleCluster" in pod.programs["istio-proxy"].wait_for("BlackHoleCluster")


def test_our_sidecar_is_a_user_that_istio_sees_and_takes_nothing_that_is_istios(pod: RunningPod) -> None:
    assert pod.containers["egress-envoy"].security.uid == SIDECAR_UID
    assert pod.containers["egress-envoy"].security.gid == SIDECAR_UID
    assert listeners(pod, OUTBOUND) == {ISTIO_UID}
    assert not listeners(pod, 15053)
    assert listeners(pod, EXPLICIT_PORT) == {SIDECAR_UID}
    assert "egress-capture" not in pod.containers


def test_a_capture_beside_istios_is_refused_with_the_reason(world: PodWorld) -> None:
    answer = world.review(make_pod("twice", mode="transparent"))

    assert not answer["allowed"]
    assert "Istio" in answer["status"]["message"]
    assert "explicit" in answer["status"]["message"]


def test_a_proxy_that_is_known_by_its_name_is_reached_too(world: PodWorld) -> None:
    """Without TLS there is no name in the bytes: Istio knows the port alone, and resolves the name itself."""
    by_name = create(world, make_pod("by-name", "named"), generate(world, POLICY_BY_NAME, "named"))
    mark = world.proxy.mark()

    assert "greets" in by_name.curl("app", f"https://{API}/").expect()

    assert by_name.address in world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert by_name.programs["istio-proxy"].wait_for("by outbound|3128||proxy.corp.example")
    world.delete(by_name)


def test_without_the_generated_entry_istio_lets_nothing_of_it_out(world: PodWorld) -> None:
    """So it is the entry that counts, and not the stand-in's laxness."""
    unknown = create(world, make_pod("unknown"), [])
    mark = world.proxy.mark()

    assert unknown.curl("app", f"https://{API}/").exit_code != 0

    assert API not in world.proxy.text(mark)
    assert "BlackHoleCluster" in unknown.programs["istio-proxy"].wait_for(":3128 by")
    world.delete(unknown)
