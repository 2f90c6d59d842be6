"""Policies that change, break and come back while connections are open: nothing is cut, nothing is widened."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    API,
    FILES,
    MAIL,
    POLICY_FILE,
    SERVER,
    ProxyKind,
    World,
    hold,
    open_world,
    read_response,
    render_policy,
)
from xds.demo.cast import save_policy, start_control_plane
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

CHANGES = 100
TUNNELS = 20
BLOCK = 16384


@pytest.fixture(scope="module")
def live() -> Iterator[World]:
    """A world behind Squid whose Envoy gives up drained connections after a second, and not after ten minutes."""
    with open_world(ProxyKind.SQUID, envoy_options=("--drain-time-s", "1")) as world:
        yield world
        assert world.leaked == 0, "the pod sent packets towards the Internet by itself"


class Tunnel(threading.Thread):
    """Sends random blocks through one tunnel, and reads each one back before it sends the next."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        super().__init__(daemon=True)
        self.blocks = 0
        self.failure = ""
        self._connection = connection
        self._is_over = threading.Event()

    def run(self) -> None:
        """Go on until told to stop, or until something is wrong."""
        try:
            while not self._is_over.is_set():
                self._send_one()
        except OSError as error:
            self.failure = f"cut after {self.blocks} blocks: {error!r}"
        finally:
            self._connection.close()

    def stop(self) -> None:
        """Finish the block at hand and close."""
        self._is_over.set()
        self.join(20)

    def _send_one(self) -> None:
        sent, received = os.urandom(BLOCK), bytearray()
        self._connection.sendall(sent)
        while len(received) < BLOCK:
            more = self._connection.recv(BLOCK)
            if not more:
                raise ConnectionError("closed by the other side")
            received += more
        if hashlib.sha256(received).digest() != hashlib.sha256(sent).digest():
            raise ConnectionError("the bytes that came back are not those that were sent")
        self.blocks += 1
        # A pace that twenty tunnels can keep up with on a small machine, and that ends at once when told to.
        self._is_over.wait(0.02)


@pytest.fixture
def tunnels(live: World) -> Iterator[list[Tunnel]]:
    """Twenty tunnels that carry data all the time."""
    running = [Tunnel(live.connect_tls(MAIL)) for _ in range(TUNNELS)]
    for tunnel in running:
        tunnel.start()
    yield running
    for tunnel in running:
        tunnel.stop()


def test_a_hundred_rule_changes_cut_none_of_twenty_tunnels_and_change_no_byte(
    live: World, tunnels: list[Tunnel]
) -> None:
    before = live.envoy.admin.counters("listener_manager")
    actions = ("{action}, proxy: corp", "{action}", "{action}")
    for number in range(CHANGES):
        action = ("tunnel", "deny", "direct")[number % 3]
        words = actions[number % 3].format(action=action)
        live.set_policy(f"[{{name: files, to: {{domains: [{FILES}, '*.{number}.example']}}, action: {words}}}]")
    after = live.envoy.admin.counters("listener_manager")
    carried = sum(tunnel.blocks for tunnel in tunnels)
    # Drained chains would be closed after one second of drain time.
    hold(lambda: not any(tunnel.failure for tunnel in tunnels), str([tunnel.failure for tunnel in tunnels]), 3)
    assert sum(tunnel.blocks for tunnel in tunnels) > carried, "the tunnels still carry data"
    assert all(tunnel.blocks > 0 for tunnel in tunnels)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert grown["listener_manager.listener_in_place_updated"] == CHANGES
    assert grown["listener_manager.lds.update_success"] == CHANGES
    assert after["listener_manager.lds.update_rejected"] == 0
    assert after["listener_manager.total_filter_chains_draining"] == 0
    assert after["listener_manager.listener_added"] == before["listener_manager.listener_added"]


def test_a_rule_holds_for_new_connections_while_an_open_one_goes_on_under_the_old_one(live: World) -> None:
    live.set_policy()
    request = f"GET /old HTTP/1.1\r\nHost: {FILES}\r\n\r\n".encode()
    with live.connect_tls(FILES) as connection:
        for action, succeeds in (("deny", False), ("direct", True)):
            live.set_policy(f"[{{name: files, to: {{domains: [{FILES}]}}, action: {action}}}]")
            assert (live.curl(f"https://{FILES}/").exit_code == 0) is succeeds
            connection.sendall(request)
            assert read_response(connection).endswith(b"files.corp.example greets you over TLS.\n")


def test_a_broken_policy_leaves_the_last_good_one_in_force_and_says_so(live: World) -> None:
    live.set_policy(f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]")
    before = live.updates()
    said = len(live.control_plane.text())
    save_policy(live.lab, POLICY_FILE, render_policy("[{name: api, to: {domains: [x.example]}, action: alow}]"))
    live.control_plane.wait_for("EX109", after=said)
    assert "last good version stays in force" in live.control_plane.text()[said:]
    assert f"{POLICY_FILE}:" in live.control_plane.text()[said:]
    hold(lambda: live.updates() == before, "Envoy got an update for a policy that was refused")
    assert live.curl(f"https://{API}/").exit_code == 35
    live.set_policy()
    assert live.curl(f"https://{API}/").exit_code == 0


def test_saving_the_same_text_again_and_reordering_files_causes_no_update(live: World) -> None:
    text = render_policy()
    before = live.updates()
    save_policy(live.lab, POLICY_FILE, text)
    live.wait_for_updates(before)
    settled = live.updates()
    save_policy(live.lab, POLICY_FILE, text)
    save_policy(live.lab, "another.yaml", text.replace("name: main", "name: another, namespace: elsewhere"))
    (live.lab.directory / "policies" / "another.yaml").replace(live.lab.directory / "policies" / "zzz.yaml")
    hold(lambda: live.updates() == settled, "Envoy got an update although nothing changed for it", 2)
    (live.lab.directory / "policies" / "zzz.yaml").unlink()
    hold(lambda: live.updates() == settled, "Envoy got an update although nothing changed for it")


def test_a_control_plane_that_restarts_is_not_noticed(live: World) -> None:
    live.set_policy()
    request = f"GET /restart HTTP/1.1\r\nHost: {API}\r\n\r\n".encode()

    def counters() -> dict[str, int]:
        changes = "(cluster_added|cluster_modified|cluster_removed|listener_.*|update_success|update_rejected)$"
        return dict(live.envoy.admin.counters(f"^(cluster_manager|listener_manager|http).*{changes}"))

    with live.connect_tls(API) as connection:
        before = counters()
        assert live.control_plane.stop() == 0
        wait_until(lambda: not _is_connected(live), "Envoy noticing that the control plane is gone", 20)
        assert live.curl(f"https://{API}/").exit_code == 0
        live.control_plane = start_control_plane(live.lab, SERVER)
        wait_until(lambda: _is_connected(live), "Envoy connected again", 30)
        live.control_plane.wait_for("stream opened")
        hold(lambda: counters() == before, "the restart changed something for Envoy", 3)
        connection.sendall(request)
        assert read_response(connection).endswith(b"api.example.com greets you over TLS.\n")
    live.set_policy(f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]")
    assert live.curl(f"https://{API}/").exit_code == 35


def _is_connected(world: World) -> bool:
    return world.envoy.admin.counter("control_plane.connected_state") == 1


def test_without_the_proxy_connections_are_refused_and_never_go_out_directly(live: World) -> None:
    """The last test of this world: its proxy does not come back."""
    live.set_policy()
    live.proxy.program.kill()
    assert live.curl(f"https://{API}/").exit_code == 35
    answer = live.curl(f"http://{API}/", "--include").expect()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert live.leaked == 0
