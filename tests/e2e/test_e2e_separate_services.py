"""
Envoys that take their configuration from the services of one type each, and not, or not only, from the aggregated one.

Served resources refer to routes and secrets as `ads: {}`. So an Envoy may take clusters and listeners from services of
their own, but needs the aggregated one beside them. One without it can't take the listener for captured connections: no
connection is made, and nothing goes out directly. What an Envoy refers to by itself, routes or secrets, it may take
from their services, too. No endpoints are served to anybody: clusters carry theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from tests.e2e.harness import API, POLICY_FILE, ProxyKind, World, hold, open_world, render_policy
from tests.e2e.secured_proxies import basic, describe_proxy, put
from xds import names
from xds.demo.cast import ENVOY_UID, Sidecar, save_policy
from xds.demo.envoy_admin import EnvoyAdmin
from xds.demo.errors import LabError
from xds.demo.lab import Namespace
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.e2e

Tree = dict[str, "Tree | list[Tree] | str | int | bool"]

DENY_API = f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]"
GREETING = b"api.example.com greets you over TLS.\n"
PASSWORD = "unspeakable"
PORT = 15020
"""Of a listener that the bootstrap itself has."""
REFUSAL = "ADS must be configured to support an ADS config source"
API_TYPES = pytest.mark.parametrize(
    "api_type", [pytest.param("DELTA_GRPC", id="incremental"), pytest.param("GRPC", id="state of the world")]
)
_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_CONNECTIONS = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class Services(NamedTuple):
    """How an Envoy may reach the control plane."""

    aggregated: Tree
    """An `ads_config`."""
    separate: Tree
    """A `ConfigSource` for the service of whatever type it stands at."""


@pytest.fixture(scope="module")
def separate_world() -> Iterator[World]:
    with open_world(ProxyKind.EMBEDDED) as world:
        yield world


@pytest.fixture
def world(separate_world: World) -> Iterator[World]:
    """The world with a policy that tunnels everything; whatever a test does, nothing may leave the pod directly."""
    publish(separate_world, render_policy())
    yield separate_world
    assert separate_world.leaked == 0, "the pod sent packets towards the Internet by itself"


def publish(world: World, policy: str) -> None:
    """Save a policy that differs from the one before, and return once it is served."""
    said = len(world.control_plane.text())
    save_policy(world.lab, POLICY_FILE, policy)
    world.control_plane.wait_for("published", after=said)


def start_envoy(world: World, api_type: str, arrange: Callable[[Tree, Services], None]) -> Sidecar:
    """Replace the pod's Envoy by one whose bootstrap was arranged anew: `arrange` gets it without dynamic resources."""
    world.envoy.program.stop()
    lab = world.lab
    home = lab.directory / "envoy"
    bootstrap = yaml.safe_load((home / "bootstrap.yaml").read_text(encoding="utf-8"))
    source = {**bootstrap.pop("dynamic_resources")["ads_config"], "api_type": api_type}
    separate: Tree = {"api_config_source": source, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    arrange(bootstrap, Services(source, separate))
    (home / "separate.yaml").write_text(yaml.safe_dump(bootstrap), encoding="utf-8")
    command = [lab.envoy, "--disable-hot-restart", "--component-log-level", "misc:error"]
    program = lab.start(
        *("separate-envoy", Namespace.POD),
        [*command, "--config-path", str(lab.inside / home.name / "separate.yaml")],
        user=ENVOY_UID if lab.has_users else None,
    )
    world.envoy = Sidecar(program, EnvoyAdmin(home / "admin.sock"))
    return world.envoy


def beside_aggregated(bootstrap: Tree, services: Services) -> None:
    """Clusters and listeners on streams of their own, all else on the aggregated one."""
    bootstrap["dynamic_resources"] = {
        "ads_config": services.aggregated,
        "cds_config": services.separate,
        "lds_config": services.separate,
    }


def without_aggregated(bootstrap: Tree, services: Services) -> None:
    """Clusters and listeners on streams of their own, and nothing else."""
    bootstrap["dynamic_resources"] = {"cds_config": services.separate, "lds_config": services.separate}


def connected(sidecar: Sidecar) -> Mapping[str, int]:
    """Which streams an Envoy has: the empty scope is the aggregated one's."""
    word = "control_plane.connected_state"
    return {name.removesuffix(word).rstrip("."): count for name, count in sidecar.admin.counters(f"{word}$").items()}


@API_TYPES
def test_clusters_and_listeners_on_streams_of_their_own_make_tunnels_and_follow_the_policy(
    world: World, api_type: str
) -> None:
    start_envoy(world, api_type, beside_aggregated).wait_until_live()
    mark = world.proxy.mark()

    assert world.curl(f"https://{API}/").expect() == GREETING
    assert world.proxy.wait_for(f"{API}:443", mark)
    assert connected(world.envoy) == {"": 1, "cluster_manager.cds": 1, "listener_manager.lds": 1}

    world.set_policy(DENY_API)
    assert world.curl(f"https://{API}/").exit_code == 35
    world.set_policy()
    assert world.curl(f"https://{API}/").expect() == GREETING


@API_TYPES
def test_without_the_aggregated_service_clusters_are_taken_but_nothing_is_listened_on(
    world: World, api_type: str
) -> None:
    said = len(world.control_plane.text())
    envoy = start_envoy(world, api_type, without_aggregated)

    wait_until(lambda: has_refused(envoy), "Envoy refusing the listener", 30)
    assert REFUSAL in world.control_plane.wait_for("response rejected", after=said)
    assert envoy.admin.counter("cluster_manager.cds.update_success") == 1
    assert names.OUTBOUND_LISTENER not in envoy.admin.get("/listeners")
    assert world.curl(f"https://{API}/").exit_code == 7
    hold(lambda: envoy.admin.counter("listener_manager.lds.update_rejected") == 1, "it was sent again", 2)
    assert not envoy.admin.is_live()


def has_refused(envoy: Sidecar) -> bool:
    """Whether it has refused listeners; an Envoy that is still starting has not."""
    try:
        return envoy.admin.counter("listener_manager.lds.update_rejected") > 0
    except LabError:
        return False


@API_TYPES
def test_routes_and_a_login_come_from_services_of_their_own_to_a_listener_that_refers_to_them_so(
    world: World, api_type: str
) -> None:
    path = put(world.lab, "login", f"alice:{PASSWORD}")
    publish(world, render_policy(DENY_API, proxy=describe_proxy(auth=basic(path))))
    secret = names.proxy_login("corp", path)

    def arrange(bootstrap: Tree, services: Services) -> None:
        bootstrap["static_resources"] = {
            **_tree(bootstrap["static_resources"]),
            "listeners": [build_listener(services.separate, secret)],
        }

    envoy = start_envoy(world, api_type, arrange)
    envoy.wait_until_live()

    assert ask(world).startswith(b"HTTP/1.1 403 "), "the policy's own route refuses it"
    assert set(connected(envoy)) == {f"http.own.rds.{names.HTTP_ROUTES}", f"sds.{secret}"}
    assert envoy.admin.counter(f"sds.{secret}.update_success") == 1
    assert PASSWORD not in envoy.admin.get("/config_dump")


def _tree(value: object) -> Tree:
    assert isinstance(value, dict)
    return value


def ask(world: World) -> bytes:
    """Ask the bootstrap's own listener for a page, and return the answer."""
    return world.exchange("127.0.0.1", PORT, f"GET / HTTP/1.1\r\nHost: {API}\r\n\r\n".encode())


def build_listener(source: Tree, secret: str) -> Tree:
    """Return a listener whose routes, and a login that it adds to requests, come from `source`."""
    generic: Tree = {
        "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
        "credential": {"name": secret, "sds_config": source},
        "header": "proxy-authorization",
    }
    injector: Tree = {
        "@type": f"{_HTTP}.credential_injector.v3.CredentialInjector",
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
    }
    router: Tree = {"@type": f"{_HTTP}.router.v3.Router"}
    manager: Tree = {
        "@type": _CONNECTIONS,
        "stat_prefix": "own",
        "rds": {"route_config_name": names.HTTP_ROUTES, "config_source": source},
        "http_filters": [
            {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    filters: list[Tree] = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": "own",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": PORT}},
        "filter_chains": [{"filters": filters}],
    }
