"""TLS to the proxy itself, mutual TLS, and HTTP/2: what is trusted, what is shown, how many connections it takes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, MAIL, CorporateProxy, World
from tests.e2e.secured_proxies import (
    PROXY_HOST,
    Codec,
    Login,
    basic,
    describe_proxy,
    open_secured_world,
    put,
    start_envoy_proxy,
    start_squid,
)
from tests.support.certificates import Authority
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence

    from xds.demo.lab import Lab

pytestmark = pytest.mark.e2e

TUNNELS = 20
"""As many as go over one HTTP/2 connection with some to spare."""
BURST = 100
ALICE = Login("alice", "pw")
CORPORATE, CLIENTS, STRANGER = Authority("corporate"), Authority("clients"), Authority("stranger")


@pytest.fixture(scope="module")
def squid() -> Iterator[World]:
    """Squid with a login and a TLS port."""

    def start(lab: Lab) -> tuple[CorporateProxy, str]:
        put(lab, "ca", CORPORATE.certificate)
        put(lab, "stranger", STRANGER.certificate)
        put(lab, "login", str(ALICE))
        proxy = start_squid(lab, users=(ALICE,), certificate=CORPORATE.issue(PROXY_HOST))
        return proxy, _tls_proxy(lab, "ca")

    with open_secured_world(start) as world:
        yield world


@pytest.fixture(scope="module", params=list(Codec), ids=lambda codec: codec.name)
def codec(request: pytest.FixtureRequest) -> Codec:
    found: Codec = request.param
    return found


@pytest.fixture(scope="module")
def mutual(codec: Codec) -> Iterator[World]:
    """An Envoy as the proxy, which wants to see a certificate."""

    def start(lab: Lab) -> tuple[CorporateProxy, str]:
        put(lab, "ca", CORPORATE.certificate)
        _put_pair(lab, CLIENTS)
        proxy = start_envoy_proxy(
            lab, codec, certificate=CORPORATE.issue(PROXY_HOST), client_authority=CLIENTS.certificate
        )
        return proxy, _mutual_proxy(lab, codec)

    with open_secured_world(start) as world:
        yield world


@pytest.fixture(scope="module")
def http2() -> Iterator[World]:
    """An Envoy as the proxy, which speaks HTTP/2 without TLS."""

    def start(lab: Lab) -> tuple[CorporateProxy, str]:
        return start_envoy_proxy(lab, Codec.HTTP2), describe_proxy(protocol="http2", plainHTTP="connect")

    with open_secured_world(start) as world:
        yield world


def _tls_proxy(lab: Lab, authority: str, *, version: str = "1.2", name: str = PROXY_HOST) -> str:
    tls = f"{{ca: {{file: {lab.inside / authority}}}, minimumVersion: '{version}', serverName: {name}}}"
    return describe_proxy(tls=tls, auth=basic(str(lab.inside / "login")))


def _mutual_proxy(lab: Lab, codec: Codec, *, timeout: str = "5s") -> str:
    own = f"{{certificateFile: {lab.inside / 'own'}, keyFile: {lab.inside / 'own.key'}}}"
    tls = f"{{ca: {{file: {lab.inside / 'ca'}}}, clientCertificate: {own}}}"
    return describe_proxy(tls=tls, protocol=codec.value.lower(), plainHTTP="connect", connectTimeout=timeout)


def _put_pair(lab: Lab, authority: Authority) -> None:
    issued = authority.issue("web-0.shop")
    put(lab, "own", issued.certificate)
    put(lab, "own.key", issued.key)


def proxy_counter(world: World, name: str) -> int:
    return sum(world.envoy.admin.counters(rf"^cluster\.proxy/corp\.{name}$").values())


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_tls_inside_tls_works_with_the_oldest_version(squid: World, version: str) -> None:
    squid.set_policy(proxy=_tls_proxy(squid.lab, "ca", version=version))
    mark = squid.proxy.mark()

    assert squid.curl(f"https://{API}/").expect()
    assert squid.curl(f"http://{API}/").expect()

    assert " alice " in squid.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert " alice " in squid.proxy.wait_for(f"GET http://{API}/", mark)
    assert proxy_counter(squid, r"ssl\.versions\.TLSv1\.3") > 0


@pytest.mark.parametrize(
    ("describe", "reason"),
    [
        pytest.param(lambda lab: _tls_proxy(lab, "stranger"), "unable_to_get_local_issuer_certificate", id="authority"),
        pytest.param(lambda lab: _tls_proxy(lab, "ca", name="other.example"), "SAN", id="name"),
    ],
)
def test_a_proxy_that_proves_nothing_is_refused_and_never_passed_by(
    squid: World, describe: Callable[[Lab], str], reason: str
) -> None:
    squid.set_policy(proxy=describe(squid.lab))
    logged, mark = len(squid.envoy.program.text()), squid.proxy.mark()

    assert squid.curl(f"https://{API}/").exit_code != 0
    assert squid.curl(f"http://{API}/", "--fail").exit_code == 22

    squid.envoy.program.wait_for(reason, after=logged)
    assert API not in squid.proxy.text(mark)
    assert squid.leaked == 0


def test_a_new_authority_is_taken_over_from_its_file(squid: World) -> None:
    squid.set_policy(proxy=_tls_proxy(squid.lab, "stranger"))
    assert squid.curl(f"https://{API}/").exit_code != 0

    put(squid.lab, "stranger", STRANGER.certificate + CORPORATE.certificate)

    wait_until(lambda: squid.curl(f"https://{API}/").exit_code == 0, "the new authority", timeout=10)
    put(squid.lab, "stranger", STRANGER.certificate)


def test_a_broken_authority_never_reaches_an_envoy(squid: World) -> None:
    squid.set_policy(proxy=_tls_proxy(squid.lab, "ca"))
    logged = len(squid.control_plane.text())

    put(squid.lab, "ca", "no certificate at all")

    squid.control_plane.wait_for("EX323", after=logged)
    assert squid.curl(f"https://{API}/").exit_code == 0
    put(squid.lab, "ca", CORPORATE.certificate)


def test_a_proxy_that_asks_is_shown_our_certificate(mutual: World) -> None:
    mark = mutual.proxy.mark()

    assert mutual.curl(f"https://{API}/").expect()
    assert mutual.curl(f"http://{API}/").expect()

    mutual.proxy.wait_for(f"CONNECT {API}:443", mark)
    mutual.proxy.wait_for(f"CONNECT {API}:80", mark)


def test_a_renewed_certificate_is_shown_without_a_cut(mutual: World) -> None:
    tunnel = mutual.connect_tls(MAIL)
    before = sum(mutual.envoy.admin.counters(r"^sds\..*update_success$").values())
    clusters = mutual.envoy.admin.counter("cluster_manager.cds.update_success")

    _put_pair(mutual.lab, CLIENTS)
    wait_until(
        lambda: sum(mutual.envoy.admin.counters(r"^sds\..*update_success$").values()) > before,
        "the renewed certificate at Envoy",
        timeout=10,
    )

    tunnel.sendall(b"still here")
    assert tunnel.recv(100) == b"still here"
    assert mutual.curl(f"https://{API}/").expect()
    assert mutual.envoy.admin.counter("cluster_manager.cds.update_success") == clusters
    tunnel.close()


def test_a_strangers_certificate_is_refused_by_the_proxy(mutual: World, codec: Codec) -> None:
    """What is open stays open, and takes more tunnels over HTTP/2; so the cluster is changed to begin anew."""
    _put_pair(mutual.lab, STRANGER)
    mutual.set_policy(proxy=_mutual_proxy(mutual.lab, codec, timeout="4s"))

    wait_until(lambda: mutual.curl(f"https://{API}/").exit_code != 0, "the stranger refused", timeout=10)

    assert mutual.leaked == 0
    _put_pair(mutual.lab, CLIENTS)
    wait_until(lambda: mutual.curl(f"https://{API}/").exit_code == 0, "the client let in again", timeout=10)
    mutual.set_policy(proxy=_mutual_proxy(mutual.lab, codec))


def test_many_tunnels_share_one_http2_connection_of_each_worker(http2: World) -> None:
    requests = proxy_counter(http2, "upstream_rq_total")

    with ExitStack() as stack:
        tunnels = [stack.enter_context(http2.connect_tls(MAIL)) for _ in range(TUNNELS)]
        assert carry(tunnels)

        workers = http2.envoy.admin.counter("server.concurrency")
        assert proxy_counter(http2, "upstream_rq_total") - requests == TUNNELS
        assert 1 <= proxy_counter(http2, "upstream_cx_total") <= workers < TUNNELS
        assert proxy_counter(http2, "upstream_cx_http2_total") == proxy_counter(http2, "upstream_cx_total")


def carry(tunnels: Sequence[ssl.SSLSocket]) -> bool:
    """Whether every tunnel carries bytes there and back."""
    for tunnel in tunnels:
        tunnel.sendall(b"hello")
    return [tunnel.recv(100) for tunnel in tunnels] == [b"hello"] * len(tunnels)


def test_plain_http_goes_through_http2_tunnels(http2: World) -> None:
    mark = http2.proxy.mark()

    assert http2.curl(f"http://{API}/").expect()

    assert "HTTP/2" in http2.proxy.wait_for(f"CONNECT {API}:80", mark)


def test_a_burst_of_tunnels_takes_more_connections_and_none_hangs(http2: World) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(BURST) as pool:
        tunnels = [stack.enter_context(tunnel) for tunnel in pool.map(lambda _: http2.connect_tls(MAIL), range(BURST))]

        assert carry(tunnels)
        assert BURST / 32 < proxy_counter(http2, "upstream_cx_active") < BURST / 2
