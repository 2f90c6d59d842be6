"""
Canaries that are real Envoys: what the first one refuses, the other never hears of.

Two sidecars are under one policy. The policy opens a listener for applications that keep their proxy settings, and a
change moves it to a port that another program holds in both places, so that whichever Envoy is asked first must refuse.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, POLICY_FILE, PROXY, SERVER, ProxyKind, World, hold, open_world
from xds.demo.cast import ENVOY_UID, Sidecar, save_policy, xds_command
from xds.demo.envoy_admin import EnvoyAdmin
from xds.demo.lab import Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.demo.lab import Lab

pytestmark = pytest.mark.e2e

OTHER_NODE = "web-1.shop"
PORT, NEXT_PORT, TAKEN_PORT = 15010, 15011, 15012
GREETING = b"api.example.com greets you over TLS.\n"
REJECTED = "listener_manager.lds.update_rejected"
MAX_ROUNDS = 12
"""Who is asked first is settled by a hash of the policy and the node: in so many rounds each Envoy is."""
_HOLD_PORT = (
    "import socket, time; s = socket.create_server(('127.0.0.1', {})); print('held', flush=True); time.sleep(1e6)"
)


@dataclass(slots=True)
class Pair:
    """Two sidecars of one policy: one in the pod, which is captured, and one in the corporate network."""

    world: World
    other: Sidecar

    @property
    def sidecars(self) -> tuple[Sidecar, Sidecar]:
        return self.world.envoy, self.other

    def save(self, edition: int, port: int) -> None:
        """Save a policy that differs from every other, with its listener at `port`."""
        save_policy(self.world.lab, POLICY_FILE, render(edition, port))

    def curl(self, namespace: Namespace, port: int) -> bytes:
        """Ask for an origin on the Internet through the listener at `port`; empty if there is no answer."""
        lab = self.world.lab
        command = ["curl", "--silent", "--max-time", "30", "--cacert", str(lab.inside / "ca.pem"), f"https://{API}/"]
        proxy = ["--proxy", f"http://127.0.0.1:{port}"]
        return lab.run(namespace, ["env", "-i", *command, *proxy]).stdout

    def is_served(self, port: int) -> bool:
        """Whether both carry traffic at `port`."""
        return all(self.curl(namespace, port) == GREETING for namespace in (Namespace.POD, Namespace.CORP))

    def rejected(self) -> tuple[int, ...]:
        """How many listener updates each has refused."""
        return tuple(sidecar.admin.counter(REJECTED) for sidecar in self.sidecars)


def render(edition: int, port: int) -> str:
    rule = f"{{name: edition, to: {{domains: [edition-{edition}.invalid]}}, action: deny}}"
    body = [PROXY, f"rules: [{rule}]", "default: {action: tunnel, proxy: corp}", "dialect: go"]
    lines = ["apiVersion: egress-xds/v1alpha1", "kind: EgressPolicy", "metadata: {name: main}", "spec:"]
    return "\n".join([*lines, *(f"  {line}" for line in [*body, f"explicit: {{port: {port}}}"]), ""])


def counters(sidecar: Sidecar) -> dict[str, int]:
    """All that counts what an Envoy was sent, and what it made of that."""
    pattern = "(update_success|update_rejected|cluster_added|cluster_modified|cluster_removed|listener_.*)$"
    return dict(sidecar.admin.counters(f"^(cluster_manager|listener_manager|http).*{pattern}"))


def start_other(lab: Lab) -> Sidecar:
    """Start a second Envoy, in the corporate network, and return once it is live."""
    user = ENVOY_UID if lab.has_users else None
    home = lab.owned_directory("other-envoy", user)
    inside = lab.inside / home.name
    arguments = ["--node", OTHER_NODE, "--server", SERVER, "--admin", str(inside / "admin.sock")]
    printed = lab.run(Namespace.CORP, xds_command("bootstrap", *arguments), environment=python_environment())
    assert printed.returncode == 0, printed.stderr.decode()
    (home / "bootstrap.yaml").write_bytes(printed.stdout)
    command = [lab.envoy, "--disable-hot-restart", "--config-path", str(inside / "bootstrap.yaml")]
    sidecar = Sidecar(lab.start("other-envoy", Namespace.CORP, command, user=user), EnvoyAdmin(home / "admin.sock"))
    sidecar.wait_until_live()
    return sidecar


@pytest.fixture
def pair() -> Iterator[Pair]:
    options = ("--canary", "1", "--canary-timeout", "300s")
    with open_world(ProxyKind.EMBEDDED, server_options=options) as world:
        for namespace in (Namespace.POD, Namespace.CORP):
            command = [sys.executable, "-c", _HOLD_PORT.format(TAKEN_PORT)]
            holder = world.lab.start(f"holder-{namespace.value}", namespace, command, environment=python_environment())
            holder.wait_for("held")
        yield Pair(world, start_other(world.lab))
        assert world.leaked == 0, "the pod sent packets towards the Internet by itself"


def test_what_one_envoy_refuses_the_other_never_hears_of_and_what_is_mended_reaches_both(pair: Pair) -> None:
    pair.save(0, PORT)
    wait_until(lambda: pair.is_served(PORT), "both Envoys under the first policy", 60)
    asked_first = set()
    current = PORT
    for edition in range(1, MAX_ROUNDS):
        asked_first.add(refuse_one(pair, edition, current))
        current = NEXT_PORT if current == PORT else PORT
        pair.save(1000 + edition, current)
        wait_until(lambda port=current: pair.is_served(port), "both Envoys under the mended policy", 60)  # type: ignore[misc]  # the port of this round
        if len(asked_first) == len(pair.sidecars):
            break
    assert len(asked_first) == len(pair.sidecars), "only one of the two was ever asked first"


def refuse_one(pair: Pair, edition: int, port: int) -> int:
    """Save a policy that no Envoy can take, watch what becomes of it, and return which one was asked."""
    world = pair.world
    rejected, before = pair.rejected(), [counters(sidecar) for sidecar in pair.sidecars]
    said = len(world.control_plane.text())
    pair.save(edition, TAKEN_PORT)
    world.control_plane.wait_for("a canary refused the policy", timeout=40, after=said)
    wait_until(lambda: pair.rejected() != rejected, "a refusal", 20)
    (asked,) = [number for number, count in enumerate(pair.rejected()) if count > rejected[number]]
    spared = 1 - asked

    def is_spared() -> bool:
        return counters(pair.sidecars[spared]) == before[spared]

    hold(is_spared, "the other Envoy was told of what the first one refused", 3)
    assert pair.rejected()[asked] == rejected[asked] + 1, "it was sent again"
    assert pair.is_served(port), "the last good policy is in force for both"
    assert world.curl(f"https://{API}/").expect() == GREETING
    assert is_spared()
    return asked
