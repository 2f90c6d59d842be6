"""Control planes are replaced one after the other, forwards and back, and no sidecar notices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    API,
    MAIL,
    POLICY_FILE,
    CorporateProxy,
    ProxyKind,
    World,
    hold,
    open_lab,
    render_policy,
    start_broker,
    start_embedded,
    start_origins,
)
from tests.e2e.test_e2e_live_changes import Tunnel
from xds.demo.cast import apply_capture, save_policy, start_envoy, xds_command
from xds.demo.lab import Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.demo.lab import Lab
    from xds.demo.processes import Program

pytestmark = pytest.mark.e2e

SERVICE = "10.78.0.200"
"""The address of the Service: nobody has it, and new connections to it end at a replica, as kube-proxy does it."""
PORT = 18000
DENY_API = f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]"


@dataclass(slots=True)
class Rollout:
    """A world whose control plane is replaced; `replica` is the one that new connections reach."""

    world: World
    replica: Program
    started: int = 1
    tunnels: list[Tunnel] = field(default_factory=list)

    def replace(self, *options: str) -> None:
        """Start another replica, lead new connections there, and end the one before."""
        self.started += 1
        before, self.replica = self.replica, start_replica(self.world.lab, self.started, *options)
        assert before.stop() == 0
        self.replica.wait_for("stream opened", timeout=30)
        wait_until(self._is_connected, "Envoy connected again", 30)

    def _is_connected(self) -> bool:
        return self.world.envoy.admin.counter("control_plane.connected_state") == 1

    def updates(self) -> dict[str, int]:
        """How often Envoy was sent something that it took, or did not take."""
        pattern = (
            r"^(listener_manager|cluster_manager|http).*(update_success|update_rejected|_modified|_added|_removed)$"
        )
        return dict(self.world.envoy.admin.counters(pattern))

    def carries_on(self) -> bool:
        """Whether all tunnels carry more than they did."""
        before = [tunnel.blocks for tunnel in self.tunnels]
        wait_until(lambda: all(_grown(self.tunnels, before)), "blocks in every tunnel", 20)
        return not any(tunnel.failure for tunnel in self.tunnels)


def _grown(tunnels: list[Tunnel], before: list[int]) -> list[bool]:
    return [tunnel.blocks > blocks for tunnel, blocks in zip(tunnels, before, strict=True)]


def start_replica(lab: Lab, number: int, *options: str) -> Program:
    """Start `xds serve` in a network namespace of its own, and send new connections to the Service there."""
    place = f"replica-{number}"
    into = ["nsenter", f"--net=/run/netns/{place}", *([] if lab.has_users else ["--preserve-credentials"]), "--"]
    prepare(lab, "sh", "-c", _NETWORK, "network", place, str(number))
    command = xds_command("serve", str(lab.inside / "policies"), "--listen", f"0.0.0.0:{PORT}", *options)
    program = lab.start(place, Namespace.CORP, [*into, *command], environment=python_environment())
    program.wait_for("listening", timeout=30)
    rule = ["-d", SERVICE, "-p", "tcp", "--dport", str(PORT), "-j", "DNAT", "--to-destination", f"10.80.{number}.10"]
    prepare(lab, "iptables", "-t", "nat", "-I", "PREROUTING", *rule)
    return program


_NETWORK = """\
set -eu
echo 1 >/proc/sys/net/ipv4/ip_forward
ip netns add "$1"
ip -n "$1" link set lo up
ip link add "r$2" type veth peer name eth0 netns "$1"
ip link set "r$2" up
ip -n "$1" link set eth0 up
ip addr add "10.80.$2.1/24" dev "r$2"
ip -n "$1" addr add "10.80.$2.10/24" dev eth0
ip -n "$1" route add default via "10.80.$2.1"
"""


def prepare(lab: Lab, *command: str) -> None:
    done = lab.run(Namespace.CORP, command)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def opened() -> Iterator[Rollout]:
    """A pod whose sidecar knows its control plane by the address of a Service."""
    with open_lab() as lab:
        proxy: CorporateProxy = start_embedded(lab)
        assert proxy.kind is ProxyKind.EMBEDDED
        start_origins(lab)
        save_policy(lab, POLICY_FILE, render_policy())
        replica = start_replica(lab, 1)
        sidecar = start_envoy(lab, f"{SERVICE}:{PORT}", envoy_options=("--drain-time-s", "1"))
        sidecar.wait_until_live()
        apply_capture(lab)
        start_broker(lab)
        world = World(lab, proxy, replica, sidecar, lab.leaked_packets())
        yield Rollout(world, replica)
        assert world.leaked == 0, "the pod sent packets towards the Internet by itself"


@pytest.fixture
def rollout(opened: Rollout) -> Iterator[Rollout]:
    """The pod with tunnels that carry data all the time."""
    opened.tunnels = [Tunnel(opened.world.connect_tls(MAIL)) for _ in range(2)]
    for tunnel in opened.tunnels:
        tunnel.start()
    assert opened.carries_on()
    yield opened
    for tunnel in opened.tunnels:
        tunnel.stop()


def test_sidecars_move_to_the_next_replica_which_sends_nothing_again_but_what_changes(rollout: Rollout) -> None:
    updates = rollout.updates()

    rollout.replace()

    hold(lambda: rollout.updates() == updates, "the new replica sent something", 2)
    assert rollout.carries_on()
    assert rollout.world.curl(f"https://{API}/").exit_code == 0
    rollout.world.set_policy(DENY_API)
    assert rollout.world.curl(f"https://{API}/").exit_code == 35
    rollout.world.set_policy()
    assert rollout.world.curl(f"https://{API}/").exit_code == 0
    assert rollout.carries_on()


def test_a_replica_that_compiles_otherwise_cuts_nothing_and_can_be_taken_back(rollout: Rollout) -> None:
    """A bypass stands for what a release may decide anew about rules."""
    for options in (("--always-direct", "192.0.2.0/24"), ()):
        before = rollout.updates()
        rollout.replace(*options)
        wait_until(lambda: rollout.updates() != before, "what is compiled otherwise", 20)  # noqa: B023 -- called at once
        # Drained chains would be closed after one second of drain time.
        hold(lambda: not any(tunnel.failure for tunnel in rollout.tunnels), "a tunnel was cut", 2)
    assert rollout.carries_on()
    assert not any(rollout.world.envoy.admin.counters(r"update_rejected$").values())
