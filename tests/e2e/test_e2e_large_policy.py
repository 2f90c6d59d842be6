"""Ten thousand names and ten thousand networks: Envoy takes them, and routes by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, ECHO_PORT, FILES, SIX, ProxyKind, World, open_world, render_policy
from xds.demo.cast import save_policy
from xds.demo.lab import API_ADDRESS, FILES_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ENTRIES = 10_000


@pytest.fixture(scope="module")
def large() -> Iterator[World]:
    """A world in whose policy the few rules that matter stand between twice ten thousand that do not."""
    with open_world(ProxyKind.TINYPROXY) as world:
        names = [f"host-{number}.zone-{number % 97}.example.org" for number in range(ENTRIES)]
        networks = [
            f"172.{16 + number // 4096}.{number // 16 % 256}.{number % 16 * 16}/28" for number in range(ENTRIES)
        ]
        middle = ENTRIES // 2
        domains = ", ".join([*names[:middle], SIX, *names[middle:]])
        cidrs = ", ".join([*networks[:middle], f"{FILES_ADDRESS}/32", *networks[middle:]])
        rules = (
            f"[{{name: names, to: {{domains: [{domains}]}}, action: deny}},"
            f" {{name: networks, to: {{cidrs: [{cidrs}]}}, action: direct}}]"
        )
        before = world.updates()
        save_policy(world.lab, "policy.yaml", render_policy(rules))
        world.wait_for_updates(before, timeout=60)
        yield world


def test_the_policy_is_accepted(large: World) -> None:
    assert large.envoy.admin.counter("listener_manager.lds.update_rejected") == 0


def test_a_name_in_the_middle_of_ten_thousand_is_denied(large: World) -> None:
    assert large.curl(f"https://{SIX}/").exit_code == 35
    assert large.curl(f"http://{SIX}/", "--include").expect().startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("number", [0, 1, 4_999, 5_000, 9_998, 9_999])
def test_names_from_everywhere_in_the_list_are_denied(large: World, number: int) -> None:
    name = f"host-{number}.zone-{number % 97}.example.org"
    assert large.curl(f"https://{name}/", "--connect-to", f"::{API_ADDRESS}:443").exit_code == 35
    denied = large.curl(f"http://{name}/", "--include", "--connect-to", f"::{API_ADDRESS}:80")
    assert denied.expect().startswith(b"HTTP/1.1 403 ")


def test_a_network_in_the_middle_of_ten_thousand_is_direct(large: World) -> None:
    mark = large.proxy.mark()
    assert large.curl(f"https://{FILES}/").exit_code == 0
    with large.connect(FILES, ECHO_PORT) as connection:
        connection.sendall(b"ping")
        assert connection.recv(100) == b"ping"
    assert "CONNECT " not in large.proxy.text(mark)


def test_what_is_in_neither_list_goes_through_the_proxy(large: World) -> None:
    mark = large.proxy.mark()
    assert large.curl(f"https://{API}/").exit_code == 0
    assert large.proxy.wait_for(f"CONNECT {API}:443", mark)
