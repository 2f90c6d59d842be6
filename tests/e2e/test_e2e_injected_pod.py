"""From `kubectl apply` to `CONNECT`: pods with their sidecars reach the Internet through Squid, run as specs say."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.e2e.harness import API, FILES, SIX
from tests.e2e.pod_world import DEPLOYED, RECORDED, PodWorld, make_pod, open_pod_world
from tests.e2e.secured_proxies import put
from tests.support.certificates import Authority
from tests.support.cluster import HOME, namespace, policy
from tests.support.manifests import KUSTOMIZE, read_manifests
from tests.support.pod_runner import PodError
from xds.demo.cast import xds_command
from xds.demo.lab import FILES_ADDRESS, Namespace, python_environment
from xds.demo.polling import wait_until
from xds.names import XDS_CLUSTER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api_store import Object
    from tests.support.pod_runner import RunningPod

pytestmark = pytest.mark.e2e

PROXY = "http://proxy.corp.example:3128"
POLICY = f"httpProxy: {PROXY}\nhttpsProxy: {PROXY}\n"
FETCH = ("curl", "--silent", "--show-error", "--max-time", "20", "--cacert", "/etc/lab-ca.pem", f"https://{API}/")
IMAGE = "registry.corp.example/shop/app:1"
SIDECAR = "egress-envoy"


def config_map(name: str, of: str, **data: str) -> Object:
    """Return a ConfigMap; `_` in a key stands for a dot."""
    entries = {key.replace("_", "."): value for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": of}, "data": entries}


@pytest.fixture(scope="module")
def shared_world() -> Iterator[PodWorld]:
    """A cluster with one policy for all, and two namespaces that asked for sidecars."""
    wanted = {"egress-xds/inject": "true"}
    namespaces = [namespace("shop", wanted), namespace("payments", wanted), namespace("plain")]
    root = config_map("kube-root-ca.crt", "payments", ca_crt="the authority of the API server")
    with open_pod_world(*namespaces, root, policy(HOME, "corp", POLICY)) as world:
        yield world


@pytest.fixture(scope="module")
def shared(shared_world: PodWorld) -> RunningPod:
    """The pod of the recorded AdmissionReview, as the webhook left it, running."""
    recorded = json.loads((RECORDED / "admission-pod-plain.json").read_text(encoding="utf-8"))
    return shared_world.create(recorded["body"]["request"]["object"])


def test_the_example_is_applied_as_it_stands_and_reaches_the_internet(world: PodWorld) -> None:
    of, example = read_manifests(KUSTOMIZE / "examples" / "pod.yaml")
    world.apply(of)
    mark = world.proxy.mark()

    pod = world.create(example)

    assert "greets you over TLS" in pod.curl("web", f"https://{API}/").expect()
    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert world.delete(pod)[SIDECAR] == 0


def test_a_plain_pod_that_the_webhook_changed_reaches_the_internet_and_knows_of_no_proxy(
    world: PodWorld, shared: RunningPod
) -> None:
    mark = world.proxy.mark()

    assert "greets you over TLS" in shared.curl("app", f"https://{API}/").expect()
    assert "greets you over plain HTTP" in shared.curl("app", f"http://{API}/").expect()

    assert f"CONNECT {API}:443" in world.proxy.wait_for(f"{shared.address} TCP_TUNNEL/200", mark)
    assert world.proxy.wait_for(f"GET http://{API}/", mark)
    assert shared.environment("app") == {
        "A": "b",
        "PATH": shared.environment("app")["PATH"],
        "HOME": "/",
        "HOSTNAME": "s-plain",
    }
    assert [*shared.programs] == [SIDECAR, "app"]


def test_what_comes_in_reaches_the_application_unchanged(shared: RunningPod) -> None:
    """So do the kubelet's probes, which the pod was ready by."""
    assert shared.fetch(8080).expect() == "the application"
    assert shared.is_ready()


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param("import os; os.setuid(1337)", id="to become the sidecar's user"),
        pytest.param("import os; os.setgid(1337)", id="to join its group"),
        pytest.param("import socket; socket.socket().setsockopt(1, 36, 1337)", id="to mark a connection"),
        pytest.param("import socket; socket.socket(2, socket.SOCK_RAW, 6)", id="to send packets of its own making"),
        pytest.param("open('/run/egress-xds/admin.sock')", id="to find the admin interface"),
        pytest.param("open('/var/run/secrets/egress-xds/token')", id="to find the sidecar's token"),
    ],
)
def test_an_application_can_not_get_past_the_capture(shared: RunningPod, attempt: str) -> None:
    done = shared.execute("app", "python3", "-c", attempt)

    assert done.exit_code == 1
    assert "PermissionError" in done.complaint or "FileNotFoundError" in done.complaint


def test_an_application_can_not_take_the_capture_away(world: PodWorld, shared: RunningPod) -> None:
    for program in ("iptables", "ip6tables"):
        assert shared.execute("app", program, "-t", "nat", "-F").exit_code != 0
    mark = world.proxy.mark()

    assert "greets" in shared.curl("app", f"https://{API}/").expect()
    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)


def test_the_control_plane_knows_the_pod_by_its_token_over_tls(world: PodWorld, shared: RunningPod) -> None:
    assert "stream opened" in world.control_plane.wait_for("node=s-plain.payments")

    identity = shared.directory / "volumes" / "egress-identity"
    assert (identity / "ca.crt").read_text(encoding="utf-8") == world.authority.certificate
    assert shared.admin().counter(f"cluster.{XDS_CLUSTER}.ssl.handshake") > 0


def test_init_containers_of_the_application_have_egress_too(world: PodWorld) -> None:
    migrate = {"name": "migrate", "image": IMAGE, "command": [*FETCH]}
    own = make_pod("with-init")
    own["spec"]["initContainers"] = [migrate]
    mark = world.proxy.mark()

    pod = world.create(own)

    assert "greets you over TLS" in pod.told["migrate"]
    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    world.delete(pod)


def test_a_job_ends_and_its_sidecar_after_it(world: PodWorld) -> None:
    own = make_pod("job", spec={"restartPolicy": "Never", "containers": [{"name": "app", "image": IMAGE, "args": []}]})
    own["spec"]["containers"][0]["command"] = [*FETCH]

    pod = world.create(own)

    assert pod.wait_for_end() == {"app": 0, SIDECAR: 0}
    assert "greets you over TLS" in pod.programs["app"].text()


def test_both_address_families_are_captured(world: PodWorld, shared: RunningPod) -> None:
    mark = world.proxy.mark()

    assert "greets" in shared.curl("app", f"https://{SIX}/", "-6").expect()
    assert world.proxy.wait_for(f"CONNECT {SIX}:443", mark)


def test_what_is_excluded_by_an_annotation_goes_past_the_sidecar(world: PodWorld) -> None:
    own = make_pod("excluding", exclude_cidrs=f"{FILES_ADDRESS}/32", exclude_ports="7001")
    # Its volumes are for one group alone, which the sidecar must be in to read its token.
    own["spec"]["securityContext"] = {"fsGroup": 2000}
    pod = world.create(own)
    mark = world.proxy.mark()

    assert FILES in pod.curl("app", f"https://{FILES}/").expect()
    assert "greets" in pod.curl("app", f"https://{API}/").expect()

    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert FILES not in world.proxy.text(mark)
    assert taken(pod) == 1
    world.delete(pod)


def taken(pod: RunningPod) -> int:
    """Return how many captured connections the sidecar has taken."""
    return sum(pod.admin().counters(r"^listener\..*_15001\.downstream_cx_total$").values())


def test_without_native_sidecars_the_application_has_egress_once_the_sidecar_is_ready(world: PodWorld) -> None:
    pod = world.create(make_pod("older", native_sidecar="false"))

    assert not any(item.is_sidecar for item in pod.pod.init)
    assert pod.pod.containers[0].name == SIDECAR
    assert "greets" in pod.curl("app", f"https://{API}/").expect()
    world.delete(pod)


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(make_pod("elsewhere", "plain"), id="of a namespace that did not ask"),
        pytest.param(make_pod("by-label", labels={"egress-xds/inject": "false"}), id="whose label opts out"),
        pytest.param(make_pod("by-annotation", inject="false"), id="whose annotation opts out"),
        pytest.param(make_pod("on-the-node", spec={"hostNetwork": True}), id="that uses its node's network"),
    ],
)
def test_a_pod_is_stored_as_it_was(world: PodWorld, own: Object) -> None:
    assert world.admit(own) == own


def test_what_xds_inject_makes_of_a_manifest_is_what_the_webhook_makes(world: PodWorld) -> None:
    """`xds inject -f pod.yaml | kubectl apply -f -` and the label of a namespace come to the same pod."""
    own = make_pod("offline", "payments")
    files = [put(world.lab, name, text) for name, text in (("pod.json", json.dumps(own)), ("corp.yaml", POLICY))]
    authority = put(world.lab, "server-ca.pem", world.authority.certificate)
    images = [word.replace("--inject-", "--") for word in DEPLOYED if word.startswith("--inject-")]
    command = xds_command("inject", "-f", files[0], "--server-ca", authority, *images, files[1])

    done = world.lab.run(Namespace.CORP, command, environment=python_environment())

    assert done.returncode == 0, done.stderr.decode()
    assert yaml.safe_load(done.stdout) == world.admit(own)


def test_a_control_plane_of_another_authority_is_not_believed(world: PodWorld) -> None:
    """Envoy waits for its configuration for ever; the application never starts."""
    changed = world.admit(make_pod("deceived"))
    changed["metadata"]["annotations"]["egress-xds/server-ca"] = Authority("others").certificate

    with never_started(world, changed) as pod:
        refusals = f"cluster.{XDS_CLUSTER}.ssl.fail_verify_error"
        wait_until(lambda: pod.admin().counter(refusals) > 0, "a certificate that is refused", timeout=10)
        assert "node=deceived" not in world.control_plane.text()


def test_a_pod_that_says_it_is_another_is_refused_by_its_token(world: PodWorld) -> None:
    changed = world.admit(make_pod("pretender"))
    bootstrap = next(item for item in changed["spec"]["initContainers"] if item["name"] == "egress-bootstrap")
    bootstrap["args"] = ["--node=other.shop" if word.startswith("--node=") else word for word in bootstrap["args"]]
    seen = len(world.control_plane.text())

    with never_started(world, changed):
        assert "claims to be 'other'" in world.control_plane.wait_for("stream refused", after=seen)
        assert "stream opened" not in world.control_plane.text()[seen:]


@contextmanager
def never_started(world: PodWorld, pod: Object) -> Iterator[RunningPod]:
    """Run a pod whose sidecar is given a second, and does not become ready in it."""
    sidecar = next(item for item in pod["spec"]["initContainers"] if item["name"] == SIDECAR)
    sidecar["startupProbe"] |= {"failureThreshold": 1, "periodSeconds": 1}
    with pytest.raises(PodError, match="not seen within 1 s") as told:
        world.run(pod)
    yield told.value.pod
    assert "app" not in told.value.pod.programs
    told.value.pod.programs[SIDECAR].kill()
