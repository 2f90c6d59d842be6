"""Beside another mesh: a sidecar in explicit mode opens its own port and no other, and the rest works as ever."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    API,
    FILES,
    POLICY_FILE,
    SERVER,
    CorporateProxy,
    World,
    open_lab,
    render_policy,
    start_broker,
    start_embedded,
    start_origins,
)
from xds.demo.cast import save_policy, start_control_plane, start_envoy
from xds.demo.lab import Lab, Namespace, envoy_user
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

EXPLICIT, CAPTURED, NAMES = 15002, 15001, 15053
LISTENS = "0A"
"""State of a socket in /proc/net/tcp (Linux, include/net/tcp_states.h)."""
FILES_DIRECT = f"[{{name: files, to: {{domains: [{FILES}]}}, action: direct}}]"
CAPTURING = "dns: {mode: capture, syntheticRange: 198.18.0.0/15}"
PROXIES = {f"{scheme}_proxy": f"http://127.0.0.1:{EXPLICIT}" for scheme in ("http", "https")}
MESH = b"the other mesh\n"


def neighbour_bootstrap() -> str:
    """Return the bootstrap of another mesh's Envoy, on all addresses, as Istio's is."""
    answer = {
        "name": "envoy.filters.network.direct_response",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config",
            "response": {"inline_string": MESH.decode()},
        },
    }
    listeners = [
        {
            "name": f"mesh-{port}",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
            "filter_chains": [{"filters": [answer]}],
        }
        for port in (CAPTURED, NAMES)
    ]
    return json.dumps({"static_resources": {"listeners": listeners}})


@dataclass(slots=True)
class Site:
    """A pod with two Envoys."""

    world: World

    @property
    def lab(self) -> Lab:
        return self.world.lab

    def put(self, extra: str) -> None:
        """Put a policy in force, without waiting for anything."""
        save_policy(self.lab, POLICY_FILE, render_policy(FILES_DIRECT, extra=extra))

    def sockets(self) -> set[int]:
        """Return the ports that something on loopback listens on."""
        return {port for address, port in self._listening() if address in ("0100007F", f"{'0' * 24}01000000")}

    def _listening(self) -> Iterator[tuple[str, int]]:
        shown = self.lab.run(Namespace.POD, ["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout.decode()
        for line in shown.splitlines():
            fields = line.split()
            if fields[3] == LISTENS:
                address, _, port = fields[1].partition(":")
                yield address, int(port, 16)

    def listeners(self) -> set[str]:
        """Return the sidecar's listeners that have a socket: others are for its own tunnels."""
        shown = self.world.envoy.admin.get("/listeners").splitlines()
        return {line.partition("::")[0] for line in shown if "envoy://" not in line}

    def mesh_answers(self, port: int) -> bytes:
        """Return what a connection to `port` of the pod is told."""
        with self.world.connect("127.0.0.1", port) as connection:
            return connection.recv(100)


@pytest.fixture(scope="module")
def opened() -> Iterator[Site]:
    """A mesh's Envoy, and then a sidecar of the same user in explicit mode."""
    with open_lab() as lab:
        proxy: CorporateProxy = start_embedded(lab)
        start_origins(lab)
        save_policy(lab, POLICY_FILE, render_policy(FILES_DIRECT, extra=f"mode: explicit\n{CAPTURING}"))
        control_plane = start_control_plane(lab, SERVER)
        home = lab.owned_directory("mesh", envoy_user(lab))
        (home / "mesh.json").write_text(neighbour_bootstrap(), encoding="utf-8")
        command = [lab.envoy, "--disable-hot-restart", "--config-path", str(lab.inside / "mesh" / "mesh.json")]
        lab.start("mesh", Namespace.POD, command, user=envoy_user(lab)).wait_for("starting main dispatch loop")
        sidecar = start_envoy(lab, SERVER, bootstrap_options=["--mode", "explicit"])
        sidecar.wait_until_live()
        start_broker(lab)
        yield Site(World(lab, proxy, control_plane, sidecar, lab.leaked_packets()))


@pytest.fixture
def site(opened: Site) -> Iterator[Site]:
    """The pod; whatever happens there, it must not reach for the Internet by itself."""
    opened.put(f"mode: explicit\n{CAPTURING}")
    wait_until(lambda: EXPLICIT in opened.sockets(), "the port of explicit mode", 15)
    yield opened
    assert opened.world.leaked == 0, "the pod sent packets towards the Internet by itself"


def test_only_the_port_of_explicit_mode_is_open_though_the_policy_captures_names(site: Site) -> None:
    assert EXPLICIT in site.sockets()
    assert not {CAPTURED, NAMES} & site.sockets()
    assert site.listeners() == {"egress-explicit"}


def test_the_other_mesh_keeps_every_connection_of_its_ports(site: Site) -> None:
    """The kernel prefers a socket on 127.0.0.1 to one on all addresses, where both allow to share the port."""
    assert {site.mesh_answers(port) for port in (CAPTURED, NAMES) for _ in range(20)} == {MESH}


def test_the_proxy_is_reached_and_the_rules_hold(site: Site) -> None:
    mark = site.world.proxy.mark()
    for scheme in ("https", "http"):
        assert API.encode() in site.world.curl(f"{scheme}://{API}/", environment=PROXIES).expect()
    assert FILES.encode() in site.world.curl(f"https://{FILES}/", environment=PROXIES).expect()

    assert f"CONNECT {API}:443" in site.world.proxy.wait_for(f"CONNECT {API}", mark)
    assert FILES not in site.world.proxy.text(mark)


def test_without_a_port_for_explicit_mode_nothing_listens_and_the_control_plane_says_why(site: Site) -> None:
    site.put(CAPTURING)
    wait_until(lambda: EXPLICIT not in site.sockets(), "the port closed", 30)

    assert not {CAPTURED, NAMES} & site.sockets()
    assert site.listeners() == set()
    assert site.world.curl(f"https://{API}/", environment=PROXIES).exit_code == 7, "nobody to connect to"
    site.world.control_plane.wait_for("its policy has no port for that")


def test_a_sidecar_that_starts_without_a_port_is_ready_and_gets_one_later(site: Site) -> None:
    site.put(CAPTURING)
    wait_until(lambda: EXPLICIT not in site.sockets(), "the port closed", 30)
    assert site.world.envoy.program.stop() == 0

    site.world.envoy = start_envoy(site.lab, SERVER, bootstrap_options=["--mode", "explicit"])
    site.world.envoy.wait_until_live()
    assert not {EXPLICIT, CAPTURED, NAMES} & site.sockets()

    site.put("mode: explicit")
    wait_until(lambda: EXPLICIT in site.sockets(), "the port of explicit mode", 15)
    assert not {CAPTURED, NAMES} & site.sockets()
