"""`xds collect` beside a running control plane, Envoys and a cluster; a canary login is in no part of a bundle."""

from __future__ import annotations

import asyncio
import json
import threading
from base64 import b64encode
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.support.api_server import ApiServerEmulation
from tests.support.bundles import leaks, read_bundle
from tests.support.cluster import CLUSTER_SETTINGS, HOME, following, namespace, pod, policy, secret
from tests.support.command_line import GOOD, Outcome, Runner
from tests.support.control_plane import METHOD, PATIENCE, open_stream, running_control_plane, wait_until
from xds.gen import discovery_pb2 as pb
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

CANARY = "c4n4ry-4711-Zz"
LOGIN = f"user:{CANARY}"
BASIC = b64encode(LOGIN.encode()).decode()
LDS = ResourceType.LISTENER.type_url
POLICY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: corp}}
spec:
  dialect: go
  proxies:
    corp:
      endpoints: [{{url: "http://192.0.2.2:3128"}}]
      auth: {{basic: {auth}}}
  default: {{action: tunnel, proxy: corp}}
"""


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """What the control plane in this process logs is not the command's."""
    with capture_logs():
        yield


@pytest.fixture
def xds(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


async def collect(xds: Runner, target: Path, *words: object) -> Outcome:
    async with asyncio.timeout(2 * PATIENCE):
        return await asyncio.to_thread(xds, "collect", "-o", target, "--timeout", "5s", *words)


@asynccontextmanager
async def refusing(address: str, node: str, message: str) -> AsyncIterator[None]:
    """Subscribe to listeners, and refuse them."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            METHOD,
            request_serializer=pb.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=pb.DeltaDiscoveryResponse.FromString,
        )()
        await call.write(pb.DeltaDiscoveryRequest(node=pb.Node(id=node), type_url=LDS))
        response = await call.read()
        assert isinstance(response, pb.DeltaDiscoveryResponse)
        refusal = pb.Status(code=13, message=message)
        await call.write(pb.DeltaDiscoveryRequest(type_url=LDS, response_nonce=response.nonce, error_detail=refusal))
        yield
        call.cancel()


DUMP = {
    "configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "static_secrets": [
                {
                    "name": "login",
                    "secret": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                        "name": "login",
                        "generic_secret": {"secret": {"inline_string": CANARY[::-1]}},
                    },
                }
            ],
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": {
                "node": {"id": "web-0.shop"},
                "static_resources": {
                    "clusters": [
                        {
                            "name": "other",
                            "metadata": {"headers": [{"key": "authorization", "value": f"Token {CANARY[::-1]}"}]},
                            "url": f"http://someone:{CANARY[::-1]}@other.example/",
                            "login": f"Basic {b64encode(CANARY[::-1].encode()).decode()}",
                            "text": LOGIN,
                        }
                    ]
                },
            },
        },
    ]
}
JSON_NAMES = json.loads(
    json.dumps(DUMP).replace("generic_secret", "genericSecret").replace("inline_string", "inlineString")
)


class Admin(BaseHTTPRequestHandler):
    """Answers as the admin interface of an Envoy would that was given credentials inline."""

    def do_GET(self) -> None:
        bodies = {
            "/config_dump?include_eds": json.dumps(DUMP),
            "/server_info": json.dumps(
                {"version": "1.40.0", "command_line_options": {"config_yaml": f"password: {CANARY}"}}
            ),
            "/listeners?format=json": json.dumps({"listener_statuses": []}),
            "/stats?usedonly": f"cluster.http://u:{CANARY}@x.total: 1\n",
        }
        body = bodies.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write((body or "no").encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def admin() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Admin) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


async def test_no_part_of_a_bundle_holds_a_login(xds: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies, dump = tmp_path / "policies", tmp_path / "dump.json"
    policies.mkdir()
    (tmp_path / "login").write_text(f"{LOGIN}\n", encoding="utf-8")
    (policies / "corp.yaml").write_text(POLICY.format(auth=f"{{file: {tmp_path / 'login'}}}"), encoding="utf-8")
    dump.write_text(json.dumps(JSON_NAMES), encoding="utf-8")
    target = tmp_path / "bundle.tar.gz"
    refusal = f"no: http://user:{CANARY}@proxy, {CANARY}, Basic {BASIC}, x{BASIC}"
    async with running_control_plane(policies) as running, open_stream(running.address, "web-0.shop"):
        administration = running.parts.administration
        where = ["--admin", f"127.0.0.1:{administration.admin_port}", "--http", f"127.0.0.1:{administration.http_port}"]
        async with refusing(running.address, "bad-0.shop", refusal):
            await wait_until(lambda: any(client.is_rejecting for client in running.parts.clients.connected()))
            (policies / "mistake.yaml").write_text(
                f"# {LOGIN} {BASIC}, Kennwort {CANARY[::-1]}\nhttpProxy: http://{LOGIN}@x\n", encoding="utf-8"
            )
            monkeypatch.setenv("EGRESS_XDS_ADDRESS_FILE", f"/run/user:{CANARY[::-1]}@there")
            with admin() as envoy:
                outcome = await collect(xds, target, policies, *where, "--envoy", envoy, "--config-dump", dump)

    assert outcome.code == 1, outcome.err
    members = read_bundle(target)
    assert leaks(members, CANARY) == []
    assert leaks(members, CANARY[::-1]) == [], "nor one that nobody told of"
    assert CANARY not in outcome.out + outcome.err
    assert [item["part"].rpartition("/")[2] for item in json.loads(members["MANIFEST.json"])["problems"]] == [
        "clusters.json"
    ]
    told = {side["node"]: side["state"] for side in json.loads(members["status.json"])["sidecars"]}
    assert told["bad-0.shop"] == "refused"
    assert any(name.endswith("metrics.txt") and b"egress_xds_" in content for name, content in members.items())
    assert any(b'"static_secrets"' in content for name, content in members.items() if name.startswith("dumps/"))
    assert b"[redacted]@there" in members["settings-of-this-command.json"]


async def test_a_cluster_is_collected_with_its_pods_and_without_its_secrets(xds: Runner, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    async with ApiServerEmulation() as server:
        for item in (namespace(HOME), namespace("shop"), pod("shop", "web-0", {"app": "web"}, injected="true")):
            server.put(item)
        server.put(policy(HOME, "corp", POLICY.format(auth="{secretRef: {name: login}}")))
        server.put(secret(HOME, "login", username="user", password=CANARY))
        where = ["--kubernetes", "--kubeconfig", str(server.write_kubeconfig(tmp_path)), "--namespace", HOME]

        outcome = await collect(xds, target, *where)

    members = read_bundle(target)
    assert outcome.code == 1, "no replica runs in this cluster"
    assert "kubectl get pods -n egress-system -l app.kubernetes.io/name=egress-xds" in members["problems.txt"].decode()
    assert leaks(members, CANARY) == []
    (found,) = json.loads(members["pods.json"])
    assert (found["node"], found["policy"], found["hasSidecar"]) == ("web-0.shop", "corp", True)
    assert any(name.startswith("resources/") for name in members)


async def test_the_replicas_of_a_cluster_are_asked_one_by_one(xds: Runner, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    async with ApiServerEmulation() as server, AsyncExitStack() as stack:
        for item in (namespace(HOME), namespace("shop"), pod("shop", "web-0", injected="true")):
            server.put(item)
        server.put(policy(HOME, "corp", GOOD))
        for name, has_pages in (("egress-xds-0", True), ("egress-xds-1", False)):
            settings = replace(CLUSTER_SETTINGS, identifier=name)
            administration = (
                await stack.enter_async_context(following(server, tmp_path, settings))
            ).parts.administration
            assert administration.admin_port is not None
            assert administration.http_port is not None
            server.listening[HOME, name, 18001] = administration.admin_port
            if has_pages:
                server.listening[HOME, name, 18002] = administration.http_port
            server.put(pod(HOME, name, {"app.kubernetes.io/name": "egress-xds"}))
        where = ["--kubernetes", "--kubeconfig", str(server.write_kubeconfig(tmp_path)), "--namespace", HOME]

        await collect(xds, target, *where)

    members = read_bundle(target)
    status = json.loads(members["status.json"])
    assert [(replica["replica"], replica["answered"]) for replica in status["replicas"]] == [
        ("egress-xds-0", True),
        ("egress-xds-1", True),
    ]
    assert [(side["node"], side["state"]) for side in status["sidecars"]] == [("web-0.shop", "offline")]
    assert b"egress_xds_" in members["replicas/001-egress-xds-0/metrics.txt"]
    problems = {item["part"] for item in json.loads(members["MANIFEST.json"])["problems"]}
    assert problems
    assert all("egress-xds-1" in part for part in problems)


async def test_a_cluster_that_is_away_costs_the_rest_nothing(xds: Runner, tmp_path: Path) -> None:
    async with ApiServerEmulation() as gone:
        kubeconfig = gone.write_kubeconfig(tmp_path)
    target = tmp_path / "bundle.tar.gz"

    outcome = await collect(xds, target, "--kubernetes", "--kubeconfig", kubeconfig, "--namespace", HOME)

    assert outcome.code == 1
    members = read_bundle(target)
    assert {"versions.json", "settings-of-this-command.json", "problems.txt"} <= set(members)
    assert {item["part"] for item in json.loads(members["MANIFEST.json"])["problems"]} == {
        "policies",
        "status",
        "metrics",
    }
