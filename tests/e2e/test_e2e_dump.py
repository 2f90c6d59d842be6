"""What `xds dump` says of a real Envoy: nothing differs that should not, and what differs is shown."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterEdsClusterConfig
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy_data_plane.google.protobuf import Any as ProtoAny
from structlog.testing import capture_logs

from tests.e2e.harness import SERVER, open_lab
from tests.e2e.secured_proxies import put
from tests.golden.test_golden import compile_case
from tests.support.command_line import Outcome, Runner
from tests.support.other_control_plane import OtherControlPlane
from tests.support.validation import find_envoy
from xds.cli.comparison import compare
from xds.cli.resources import Filter as Wanted
from xds.cli.resources import show_compiled, show_held
from xds.demo.cast import NODE, save_policy, start_control_plane, start_envoy, xds_command
from xds.demo.lab import Namespace, python_environment
from xds.inspection.envoy_admin import ask_envoy, parse_place
from xds.resources import Resource, ResourceType, build_resource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from xds.demo.cast import Sidecar
    from xds.demo.lab import Lab

pytestmark = pytest.mark.e2e

CANARY = "canary-of-a-login"
POLICY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: shop}}
spec:
  selector: {{namespaces: [{namespace}], podLabels: {{matchLabels: {{app: web}}}}}}
  dialect: go
  proxies:
    corp:
      endpoints: [{{url: "http://192.0.2.1:3128"}}]
      auth: {{basic: {{file: {login}}}}}
    partner:
      endpoints: [{{url: "https://192.0.2.9:3129"}}]
      tls: {{serverName: proxy.example}}
  rules:
    - name: internal
      to: {{cidrs: [10.0.0.0/8, "2001:db8::/32"], domains: [.corp.example]}}
      verify: none
      action: direct
    - {{name: ads, to: {{domains: [ads.example]}}, action: deny}}
    - {{name: partner, to: {{domains: [.partner.example]}}, action: tunnel, proxy: partner}}
  default: {{action: tunnel, proxy: corp}}
"""
_PATIENCE = 30.0


@pytest.fixture(autouse=True)
def quiet_server() -> Iterator[None]:
    """Keep the server's lines from the output of the commands that run in the same process."""
    with capture_logs():
        yield
    structlog.reset_defaults()


@pytest.fixture
def xds(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@dataclass(frozen=True)
class Command:
    """Runs `xds` beside the loop of the test, in which its server runs."""

    runner: Runner

    async def __call__(self, *arguments: object) -> Outcome:
        return await asyncio.to_thread(self.runner, *arguments)


@pytest.fixture
def command(xds: Runner) -> Command:
    return Command(xds)


@dataclass(frozen=True)
class RunningEnvoy:
    """A real one, and where its admin interface is."""

    admin: str

    def get(self, target: str) -> str:
        host, _, port = self.admin.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        try:
            connection.request("GET", target)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    async def wait_for(self, target: str, words: str) -> None:
        """Wait until what the admin interface answers holds `words`."""
        answer = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while words not in answer:
                    await asyncio.sleep(0.1)
                    with suppress(OSError, http.client.HTTPException):
                        answer = await asyncio.to_thread(self.get, target)
        assert words in answer, answer[-2000:]


@asynccontextmanager
async def running_envoy(command: Command, server: str, directory: Path, *options: str) -> AsyncIterator[RunningEnvoy]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        admin = f"127.0.0.1:{free.getsockname()[1]}"
    written = await command("bootstrap", "--node", NODE, "--server", server, "--admin", admin, *options)
    assert written.code == 0, written.err
    (directory / "bootstrap.yaml").write_text(written.out)
    with (directory / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            find_envoy(),
            *("--config-path", str(directory / "bootstrap.yaml"), "--disable-hot-restart", "--concurrency", "1"),
            *("--log-level", "warn"),
            stdout=log,
            stderr=log,
        )
        try:
            yield RunningEnvoy(admin)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@dataclass(frozen=True)
class Site:
    """A control plane and an Envoy that has its policy."""

    lab: Lab
    envoy: Sidecar
    same: str
    """The verdict on what is as it should be."""

    def dump(self, *arguments: object) -> Outcome:
        """Run `xds dump` where files and servers are."""
        words = xds_command("dump", *map(str, arguments))
        done = self.lab.run(Namespace.CORP, words, environment=python_environment())
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    @property
    def socket(self) -> Path:
        """Where the admin interface is."""
        return self.lab.inside / self.envoy.admin.path.relative_to(self.lab.directory)

    def compare(self, *sides: object) -> tuple[int, dict[str, dict[str, Any]]]:
        """Run `dump --diff` with the answer of the Envoy in a file; return the exit code and what JSON says."""
        saved = put(self.lab, "config_dump.json", self.envoy.admin.get("/config_dump?include_eds"))
        outcome = self.dump(*sides, "--diff", "--config-dump", saved, "-o", "json")
        assert CANARY not in outcome.out + outcome.err
        assert outcome.out, outcome.err
        return outcome.code, {f"{item['type']} {item['name']}": item for item in json.loads(outcome.out)}

    def versions(self, directory: Path) -> dict[str, str]:
        """Return the version of every resource that is compiled of a directory."""
        items = json.loads(self.dump(directory, *FACTS, "--node", NODE, *WEB, "-o", "json").out)
        return {f"{item['type']} {item['name']}": item["version"] for item in items}

    def edit(self, old: str, new: str) -> Path:
        """Write the policies anew beside those that are served, with a change."""
        directory = self.lab.directory / "edited"
        directory.mkdir(exist_ok=True)
        text = (self.lab.directory / "policies" / "shop.yaml").read_text()
        assert old in text
        (directory / "shop.yaml").write_text(text.replace(old, new))
        return self.lab.inside / "edited"


FACTS = ("--listen", SERVER)
"""What a directory gives depends on where its server listens: that is always direct."""
WEB = ("--label", "app=web", "--service-account", "web")
VARIANTS = [pytest.param((), id="delta"), pytest.param(("--sotw",), id="the state of the world")]


@pytest.fixture(scope="module", params=VARIANTS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with open_lab() as lab:
        save_policy(
            lab, "shop.yaml", POLICY.format(namespace=NODE.rpartition(".")[2], login=put(lab, "login", f"me:{CANARY}"))
        )
        save_policy(lab, "default.yaml", "httpProxy: http://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\n")
        start_control_plane(lab, SERVER)
        sidecar = start_envoy(lab, SERVER, bootstrap_options=(*WEB, *request.param))
        sidecar.wait_until_live()
        yield Site(lab, sidecar, "same-content" if request.param else "same")


def test_an_envoy_that_has_its_policy_differs_in_nothing(site: Site) -> None:
    code, of_directory = site.compare(site.lab.inside / "policies", *FACTS)
    _, of_server = site.compare("--server", SERVER)
    table = site.dump(site.lab.inside / "policies", *FACTS, "--diff", "--admin", site.socket)

    assert {name for name, item in of_directory.items() if item["verdict"] != site.same} == set()
    assert code == 0
    assert {item["type"] for item in of_directory.values()} == {"cluster", "listener", "route", "secret"}
    assert {item["state"] for item in of_directory.values()} == {"active"}
    assert [(name, item["verdict"]) for name, item in of_server.items()] == [
        (name, item["verdict"]) for name, item in of_directory.items()
    ]
    assert (table.code, f"{len(of_directory)} {site.same}" in table.err) == (0, True), table.err


def test_what_an_envoy_has_is_shown_without_its_login(site: Site) -> None:
    admin = ("--admin", site.socket)
    shown = [site.dump(*admin, "-o", form) for form in ("table", "yaml")]
    named = site.dump(*admin, "--name", "proxy-login/*", "-o", "json")

    assert [item.code for item in shown] == [0, 0]
    assert not [item for item in shown if CANARY in item.out + item.err]
    (secret,) = json.loads(named.out)
    assert (secret["type"], secret["state"]) == ("secret", "active")
    assert secret["resource"]["generic_secret"] == "[redacted]"


@pytest.mark.parametrize("site", VARIANTS[:1], indirect=True)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("ads.example", "tracking.example", id="another name"),
        pytest.param(
            "[.partner.example]}, action: tunnel, proxy: partner",
            "[.partner.example]}, action: deny",
            id="a proxy less",
        ),
        pytest.param("192.0.2.1:3128", "192.0.2.7:3128", id="another address of a proxy"),
    ],
)
def test_an_edit_is_shown_and_nothing_else(site: Site, old: str, new: str) -> None:
    edited = site.edit(old, new)
    before, after = site.versions(site.lab.inside / "policies"), site.versions(edited)

    code, found = site.compare(edited, *FACTS)

    assert code == 1
    assert {name for name, item in found.items() if item["verdict"] == "missing"} == after.keys() - before.keys()
    assert {name for name, item in found.items() if item["verdict"] == "unexpected"} == before.keys() - after.keys()
    differing = {name: item["diff"] for name, item in found.items() if item["verdict"] == "differs"}
    assert differing.keys() == {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert "listener egress-outbound" in differing
    for diff in differing.values():
        lines = [line for line in diff if line[:1] in {"+", "-"} and line[:3] not in {"+++", "---"}]
        assert lines
        assert {line[0] for line in lines if old in line} <= {"+"}
        assert {line[0] for line in lines if new in line} <= {"-"}


@pytest.mark.parametrize(
    "case", ["connect-ports", "explicit", "https-proxy-with-ca", "names-without-dns", "verified-bypass"]
)
async def test_the_form_in_which_an_envoy_writes_resources_is_no_difference(
    command: Command, tmp_path: Path, case: str
) -> None:
    """The versions are others, so that contents are compared."""
    snapshot, _ = compile_case(case)
    assert snapshot is not None
    resources = {kind: dict(snapshot.of(kind)) for kind in ResourceType}
    for name, resource in resources[ResourceType.LISTENER].items():
        resources[ResourceType.LISTENER][name] = on_any_port(resource)
    compiled = [item for table in resources.values() for item in table.values()]
    packed = {kind: {name: item.any_body for name, item in table.items()} for kind, table in resources.items()}

    async with (
        OtherControlPlane(packed).serving() as address,
        running_envoy(command, address, tmp_path) as envoy,
    ):
        await envoy.wait_for("/ready", "LIVE")
        dump = await asyncio.to_thread(ask_envoy, parse_place(envoy.admin), within=10)

    compared = compare(show_compiled(compiled, Wanted()), show_held(dump.resources, Wanted()), versions_tell=True)
    assert [(item.kind, item.name, item.verdict.value, item.diff) for item in compared] == [
        (item.kind.name.lower(), item.name, "same-content", ()) for item in compiled
    ]


def on_any_port(resource: Resource) -> Resource:
    """Return a listener that takes the place of none that runs beside the test."""
    listener = Listener.parse(resource.body)
    if listener.address is not None and listener.address.socket_address is not None:
        listener.address.socket_address.port_value, listener.additional_addresses = 0, []
    return build_resource(ResourceType.LISTENER, resource.name, listener)


def at_any_port() -> Address:
    return Address(socket_address=SocketAddress(address="127.0.0.1", port_value=0))


ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def other_resources() -> dict[ResourceType, dict[str, ProtoAny]]:
    """Build endpoints, a listener that waits for routes which never come, and one that no Envoy takes."""
    address = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=9))
    endpoints = ClusterLoadAssignment(
        cluster_name="e",
        endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])],
    )
    cluster = Cluster(
        name="c",
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=ADS, service_name="e"),
    )
    manager = HttpConnectionManager(
        stat_prefix="x",
        rds=Rds(route_config_name="r", config_source=ADS),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=ProtoAny.pack(Router()))],
    )
    chain = FilterChain(
        filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=ProtoAny.pack(manager))]
    )
    return {
        ResourceType.CLUSTER: {"c": ProtoAny.pack(cluster)},
        ResourceType.ENDPOINT: {"e": ProtoAny.pack(endpoints)},
        ResourceType.LISTENER: {
            "waits": ProtoAny.pack(Listener(name="waits", address=at_any_port(), filter_chains=[chain])),
            "bad": ProtoAny.pack(Listener(name="bad", address=at_any_port())),
        },
        ResourceType.ROUTE: {},
    }


@pytest.mark.parametrize("speaks_delta", [True, False], ids=["delta", "the state of the world"])
async def test_what_an_envoy_refuses_and_what_it_waits_for_is_told(
    command: Command, tmp_path: Path, speaks_delta: bool
) -> None:
    packed = {kind: {name: bytes(item) for name, item in table.items()} for kind, table in other_resources().items()}
    server = OtherControlPlane(packed, speaks_delta=speaks_delta)
    options = () if speaks_delta else ("--sotw",)
    async with server.serving() as address, running_envoy(command, address, tmp_path, *options) as envoy:
        await envoy.wait_for("/config_dump?include_eds", "error_state")

        shown = await command("dump", "--admin", envoy.admin, "-o", "json")
        items = {f"{item['type']} {item['name']}": item for item in json.loads(shown.out)}
        assert shown.code == 1
        assert "refused by this Envoy: listener bad" in shown.err
        assert items["listener bad"]["state"] == "refused"
        assert "no filter chains" in items["listener bad"]["refused"]["text"]
        assert items["listener waits"]["state"] == "warming"
        assert items["endpoint e"]["state"] == "active"

        compared = await command(
            *("dump", "--server", address, "--timeout", "900ms", "--diff", "--admin", envoy.admin, "-o", "json")
        )
        verdicts = {f"{item['type']} {item['name']}": item["verdict"] for item in json.loads(compared.out)}
        assert compared.code == 1
        assert "route r" in compared.err
        assert verdicts == {
            "cluster c": "same",
            "endpoint e": "same-content",
            "listener bad": "missing",
            "listener waits": "same",
        }
