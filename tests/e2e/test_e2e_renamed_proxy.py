"""A proxy that leaves the policy while tunnels through it are open: they go on, and nothing happens when they end."""

from __future__ import annotations

import pytest

from tests.e2e.harness import API, POLICY_FILE, ProxyKind, World, read_response, render_policy
from xds.demo.cast import save_policy
from xds.demo.polling import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize("shared_world", [ProxyKind.TINYPROXY], indirect=True, ids=["tinyproxy"]),
]

REMOVED = "cluster_manager.cluster_removed"
REQUEST = f"GET /old HTTP/1.1\r\nHost: {API}\r\n\r\n".encode()
GREETING = b"api.example.com greets you over TLS.\n"


def rename_proxy(world: World) -> None:
    """Put a policy in force that knows the proxy by another name, and return once nothing of the old one is left."""
    before, removed = world.updates(), world.envoy.admin.counter(REMOVED)
    renamed = render_policy().replace("corp:", "other:").replace("proxy: corp", "proxy: other")
    save_policy(world.lab, POLICY_FILE, renamed)
    world.wait_for_updates(before)
    wait_until(lambda: world.envoy.admin.counter(REMOVED) > removed, "the end of the old cluster", timeout=30)


def test_the_tunnels_of_a_proxy_that_is_gone_go_on_and_their_end_harms_nobody(world: World) -> None:
    """Envoy 1.40 would die at the end of the first if upstream filters saw tunnels (a run-time flag)."""
    world.set_policy()
    with world.connect_tls(API) as first, world.connect_tls(API) as second:
        rename_proxy(world)

        for connection in (first, second):
            connection.sendall(REQUEST)
            assert read_response(connection).endswith(GREETING)
            connection.close()
            assert world.curl(f"https://{API}/").expect() == GREETING
            assert world.curl(f"http://{API}/").expect()

    assert world.envoy.program.exit_code is None
    world.set_policy()
