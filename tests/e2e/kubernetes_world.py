"""A laboratory whose control plane follows a cluster: an API server beside it, and an operator who writes to that."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.harness import SERVER, World, open_lab, start_broker, start_origins
from tests.e2e.secured_proxies import Login, put, start_squid
from tests.support.api_store import KINDS
from tests.support.certificates import Authority
from tests.support.cluster import HOME
from tests.support.tokens import Issuer, claims
from xds.demo.cast import NODE, apply_capture, start_envoy, xds_command
from xds.demo.lab import Namespace, python_command, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.api_store import Object
    from xds.demo.lab import Lab
    from xds.demo.processes import Program

NAME = "control-plane.corp.example"
POD, _, NAMESPACE = NODE.rpartition(".")
_API = "http://127.0.0.1:6443"


@dataclass(frozen=True)
class KubernetesWorld:
    """The world of one proxy, and the cluster that the control plane follows."""

    world: World
    lab: Lab
    kubeconfig: str

    def apply(self, item: Object) -> Object:
        """Create an object, or replace what there is."""
        path = path_of(item)
        stored = self.get(item)
        if stored.get("kind") == "Status":
            return self.request("POST", path.rpartition("/")[0], item)
        version = stored["metadata"]["resourceVersion"]
        return self.request("PUT", path, {**item, "metadata": {**item["metadata"], "resourceVersion": version}})

    def get(self, item: Object) -> Object:
        """Return what is stored of an object."""
        return self.request("GET", path_of(item))

    def delete(self, item: Object) -> None:
        """Delete an object."""
        self.request("DELETE", path_of(item))

    def request(self, method: str, path: str, body: object = None) -> Object:
        """Ask the API server."""
        return ask(self.lab, method, path, body)


def path_of(item: Object) -> str:
    """Return the path of an object."""
    resource = KINDS[item["apiVersion"], item["kind"]]
    root = f"/apis/{item['apiVersion']}" if resource.group else f"/api/{item['apiVersion']}"
    scope = f"/namespaces/{item['metadata']['namespace']}" if resource.is_namespaced else ""
    return f"{root}{scope}/{resource.plural}/{item['metadata']['name']}"


def ask(lab: Lab, method: str, path: str, body: object = None) -> Object:
    """Ask the API server beside the control plane."""
    data = [] if body is None else ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--request", method, *data, f"{_API}{path}"]
    done = lab.run(Namespace.CORP, command)
    assert done.returncode == 0, done.stderr.decode()
    answer: Object = json.loads(done.stdout)
    return answer


def start_api_server(lab: Lab, objects: Sequence[Object]) -> str:
    """Start the emulated API server beside the control plane; return the path of its kubeconfig, as programs see it."""
    put(lab, "objects.yaml", "---\n".join(json.dumps(item) + "\n" for item in objects))
    files = ["--port", "6443", "--address-file", str(lab.inside / "api"), str(lab.inside / "objects.yaml")]
    command = python_command("tests.support.api_server", *files)
    program = lab.start("api-server", Namespace.CORP, command, environment=python_environment())
    program.wait_for_port(6443)
    wait_until((lab.directory / "api.kubeconfig").exists, "the kubeconfig", timeout=10)
    return str(lab.inside / "api.kubeconfig")


def start_server(lab: Lab, kubeconfig: str, *options: str) -> Program:
    """Start `xds serve --kubernetes` and wait until it listens."""
    where = ["--kubeconfig", kubeconfig, "--namespace", HOME, "--listen", SERVER]
    certificate = ["--tls-certificate", str(lab.inside / "tls.crt"), "--tls-key", str(lab.inside / "tls.key")]
    command = xds_command("serve", "--kubernetes", *where, *certificate, *options)
    program = lab.start("control-plane", Namespace.CORP, command, environment=python_environment())
    program.wait_for_port(int(SERVER.rpartition(":")[2]))
    return program


@contextmanager
def open_kubernetes_world(objects: Sequence[Object], *users: Login) -> Iterator[KubernetesWorld]:
    """Start a Squid that demands a login, the cluster, the control plane and an Envoy with its pod's token."""
    authority, issuer = Authority("servers"), Issuer("cluster", is_rsa=True)
    with open_lab() as lab:
        proxy = start_squid(lab, users=users)
        start_origins(lab)
        server = authority.issue(NAME)
        put(lab, "tls.crt", server.certificate)
        put(lab, "tls.key", server.key)
        token = put(lab, "token", issuer.sign(claims(NAMESPACE, "web", POD, iss=ISSUER)))
        kubeconfig = start_api_server(lab, objects)
        ask(lab, "POST", "/emulation", {"jwks": {"keys": [issuer.jwk]}})
        control_plane = start_server(lab, kubeconfig)
        trust = [
            "--server-ca",
            put(lab, "server-ca.pem", authority.certificate),
            "--server-name",
            NAME,
            "--token-file",
            token,
        ]
        envoy = start_envoy(lab, SERVER, bootstrap_options=trust)
        envoy.wait_until_live()
        apply_capture(lab)
        start_broker(lab)
        yield KubernetesWorld(World(lab, proxy, control_plane, envoy, lab.leaked_packets()), lab, kubeconfig)


ISSUER = "https://kubernetes.default.svc.cluster.local"
"""As the emulated API server tells it."""
