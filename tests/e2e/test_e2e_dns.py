"""
A pod without external DNS: names resolve through Envoy to addresses that stand for them, and the proxy gets the names.

The pod's name server knows the company's names only. What is asked for by name leaves as `CONNECT name:port`; what
goes direct is resolved for real; an address that stands for no name is refused.
"""

from __future__ import annotations

import json
import ssl
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    POLICY_FILE,
    SERVER,
    CorporateProxy,
    ProxyKind,
    World,
    needs,
    open_lab,
    render_policy,
    start_broker,
)
from xds.demo.authority import write_server_files
from xds.demo.cast import apply_capture, save_policy, start_control_plane, start_envoy, start_origin, start_proxy
from xds.demo.lab import API_ADDRESS, FILES_ADDRESS, Namespace, python_environment
from xds.demo.origin import BANNER
from xds.demo.polling import wait_until
from xds.demo.site import NAMESPACES

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from xds.demo.processes import Program

pytestmark = pytest.mark.e2e

DB, QUEUE, MAIL, WEB, LATE = (f"{host}.partner.example" for host in ("db", "queue", "mail", "www", "late"))
REAL = "real.partner.example"
"""Below a wildcard that is tunnelled, but direct."""
PRINTER = "printer.corp.example"
NAME_SERVER = "10.77.0.1"
RANGES = [ip_network("198.18.0.0/15"), ip_network("fd00:18::/64")]
DNS = "dns: {mode: capture, syntheticRange: [198.18.0.0/15, 'fd00:18::/64']}"
INTERNAL = f"{{name: internal, to: {{domains: [.corp.example, {REAL}], cidrs: [10.0.0.0/8]}}, action: direct}}"
PARTNER = "{name: partner, to: {domains: ['*.partner.example']}, action: tunnel}"
STATED = f"{{host: {DB}, ports: [5432, 5433]}}, {{host: {QUEUE}, ports: [5432]}}, {{host: {MAIL}, ports: [25]}}"
DIRECT = "{action: direct}"


def named(tcp: str = STATED) -> str:
    return f"[{INTERNAL}, {{name: named, to: {{tcp: [{tcp}]}}, action: tunnel}}, {PARTNER}]"


@dataclass(slots=True)
class NamedWorld:
    """A world, and the pod's name server in it."""

    world: World
    name_server: Program

    def resolve(self, name: str) -> list[str]:
        """Ask as an application does; empty: there is no such name."""
        program = (
            "import json, socket, sys\n"
            "try: found = {item[4][0] for item in socket.getaddrinfo(sys.argv[1], 1, type=socket.SOCK_STREAM)}\n"
            "except socket.gaierror: found = set()\n"
            "print(json.dumps(sorted(found)))"
        )
        done = self.world.lab.run(Namespace.POD, [sys.executable, "-c", program, name])
        found: list[str] = json.loads(done.stdout)
        return found

    def address(self, name: str, version: int = 4) -> str:
        """Return the address of `name` of one family."""
        return next(address for address in self.resolve(name) if ip_address(address).version == version)

    def set_policy(self, rules: str | None = None, default: str = DIRECT) -> None:
        self.world.set_policy(named() if rules is None else rules, default, extra=DNS)

    def echo(self, host: str, port: int, words: bytes) -> bytes:
        """Send words to a server that returns them; empty if the connection is closed instead."""
        with closing(self.world.connect(host, port)) as connection:
            return say(connection, words)

    @property
    def questions(self) -> str:
        """What the pod's name server was asked so far."""
        return self.name_server.log.read_text(encoding="utf-8")


def say(connection: socket.socket, words: bytes) -> bytes:
    """Send words and return as many bytes, or as many as come."""
    heard = b""
    try:
        connection.sendall(words)
        while len(heard) < len(words) and (more := connection.recv(len(words))):
            heard += more
    except ConnectionError:
        return heard
    return heard


@pytest.fixture(scope="module")
def opened() -> Iterator[NamedWorld]:
    echo = {f"{DB}:5432": 5432, f"{DB}:5433": 5433, f"{QUEUE}:5432": 5442, f"{LATE}:5432": 5452, f"{MAIL}:25": 2525}
    web = {f"{WEB}:443": 443, f"http://{WEB}:80": 80, f"deep.{WEB}:443": 443}
    destinations = {name: f"{API_ADDRESS}:{port}" for name, port in {**echo, **web}.items()}
    with open_lab() as lab:
        if not lab.has_users:
            needs("Envoy's own questions to name servers are known by its user, and there is one user only")
        program = start_proxy(lab, replace(NAMESPACES, destinations=destinations))
        write_server_files(lab.directory, [WEB, f"deep.{WEB}", DB, REAL, PRINTER, "files.corp.example"])
        places = [word for port in (5432, 5433, 5442, 5452) for word in ("--echo", f"{API_ADDRESS}:{port}")]
        served = ["--https", f"{API_ADDRESS}:443", "--http", f"{API_ADDRESS}:80", "--banner", f"{API_ADDRESS}:2525"]
        start_origin(lab, "outside", Namespace.INET, *places, *served)
        start_origin(lab, "inside", Namespace.CORP, "--https", f"{FILES_ADDRESS}:443", "--http", f"{FILES_ADDRESS}:80")
        table = [f"{name}={FILES_ADDRESS}" for name in (PRINTER, REAL)]
        script = [sys.executable, str(Path(__file__).with_name("name_server.py")), NAME_SERVER, *table]
        name_server = lab.start("name-server", Namespace.CORP, script, environment=python_environment())
        name_server.wait_for("ready")
        (lab.directory / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\noptions timeout:2 attempts:2\n")
        save_policy(lab, POLICY_FILE, render_policy(named(), DIRECT, extra=DNS))
        control_plane = start_control_plane(lab, SERVER)
        sidecar = start_envoy(lab, SERVER)
        sidecar.wait_until_live()
        apply_capture(lab, "--dns")
        start_broker(lab)
        proxy = CorporateProxy(ProxyKind.EMBEDDED, program, program.log)
        yield NamedWorld(World(lab, proxy, control_plane, sidecar, lab.leaked_packets()), name_server)


@pytest.fixture
def pod(opened: NamedWorld) -> Iterator[NamedWorld]:
    """The shared pod, under the usual policy; whatever a test does, no packet must leave towards the Internet."""
    opened.set_policy()
    before = opened.world.leaked
    yield opened
    assert opened.world.leaked == before, "the pod sent packets towards the Internet by itself"


@pytest.mark.parametrize("name", [DB, QUEUE, WEB, f"deep.{WEB}"])
def test_a_name_has_an_address_of_each_family_that_stands_for_it(pod: NamedWorld, name: str) -> None:
    found = [ip_address(address) for address in pod.resolve(name)]

    assert sorted(address.version for address in found) == [4, 6]
    assert all(any(address in network for network in RANGES) for address in found)
    assert name not in pod.questions


@pytest.mark.parametrize(
    ("host", "port"),
    [
        pytest.param(DB, 5432, id="a name on one of its ports"),
        pytest.param(DB, 5433, id="the same name on its other port"),
        pytest.param(QUEUE, 5432, id="another name on the same port"),
    ],
)
def test_the_proxy_is_asked_for_the_name(pod: NamedWorld, host: str, port: int) -> None:
    mark = pod.world.proxy.mark()

    assert pod.echo(host, port, b"\x00\x01neither TLS nor HTTP") == b"\x00\x01neither TLS nor HTTP"
    pod.world.proxy.wait_for(f"CONNECT {host}:{port}", mark)


def test_a_name_is_reached_by_its_ipv6_address(pod: NamedWorld) -> None:
    mark = pod.world.proxy.mark()

    assert pod.echo(pod.address(DB, 6), 5432, b"\x00by IPv6") == b"\x00by IPv6"
    pod.world.proxy.wait_for(f"CONNECT {DB}:5432", mark)


def test_a_server_that_speaks_first_is_reached_by_name(pod: NamedWorld) -> None:
    with closing(pod.world.connect(MAIL, 25)) as connection:
        assert connection.recv(len(BANNER)) == BANNER


@pytest.mark.parametrize("name", [WEB, f"deep.{WEB}"])
def test_tls_below_a_wildcard_is_tunnelled_by_the_name_that_it_shows(pod: NamedWorld, name: str) -> None:
    mark = pod.world.proxy.mark()

    pod.world.curl(f"https://{name}/").expect()
    pod.world.proxy.wait_for(f"CONNECT {name}:443", mark)


def test_plain_http_is_sent_on_by_its_host(pod: NamedWorld) -> None:
    mark = pod.world.proxy.mark()

    pod.world.curl(f"http://{WEB}/").expect()
    pod.world.proxy.wait_for(f"GET http://{WEB}/", mark)


def test_the_name_that_a_client_shows_decides_not_the_address_it_dialled(pod: NamedWorld) -> None:
    mark = pod.world.proxy.mark()

    with closing(pod.world.connect(pod.address(DB), 443)) as connection:
        context = ssl.create_default_context(cafile=str(pod.world.lab.directory / "ca.pem"))
        context.wrap_socket(connection, server_hostname=WEB).close()
    pod.world.proxy.wait_for(f"CONNECT {WEB}:443", mark)


@pytest.mark.parametrize("name", [PRINTER, REAL])
def test_what_goes_direct_is_resolved_for_real_even_below_a_wildcard(pod: NamedWorld, name: str) -> None:
    mark = pod.world.proxy.mark()

    assert pod.resolve(name) == [FILES_ADDRESS]
    assert f"asked for {name} 1" in pod.questions
    pod.world.curl(f"https://{name}/").expect()
    assert name not in pod.world.proxy.text(mark)


def test_a_name_that_nobody_knows_does_not_exist(pod: NamedWorld) -> None:
    assert pod.resolve("unknown.example.org") == []
    assert "unknown.example.org" in pod.questions


@pytest.mark.parametrize("default", [DIRECT, "{action: tunnel}"], ids=["default direct", "default tunnel"])
@pytest.mark.parametrize("address", ["198.18.0.7", "198.19.255.254", "fd00:18::7"])
def test_an_address_that_stands_for_no_name_is_refused(pod: NamedWorld, address: str, default: str) -> None:
    if default != DIRECT:
        pod.set_policy(default=default)
    mark = pod.world.proxy.mark()

    assert pod.echo(address, 5432, b"\x00hello") == b""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        show_name(pod.world, address, WEB)
    assert pod.world.proxy.text(mark) == ""


def test_what_goes_direct_is_not_dialled_at_an_address_that_stands_for_a_name(pod: NamedWorld) -> None:
    mark = pod.world.proxy.mark()
    host = pod.address(WEB)

    with pytest.raises((ssl.SSLError, ConnectionError)):
        show_name(pod.world, host, PRINTER)
    assert b"403" in pod.world.exchange(host, 80, f"GET / HTTP/1.1\r\nHost: {PRINTER}\r\n\r\n".encode())
    assert b"403" in pod.world.exchange(host, 80, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert pod.echo(host, 443, b"\x00no name at all") == b""
    assert pod.world.proxy.text(mark) == ""


def test_a_port_of_a_name_that_the_default_would_dial_is_refused(pod: NamedWorld) -> None:
    pod.set_policy(f"[{{name: named, to: {{tcp: [{STATED}]}}, action: tunnel}}]")
    mark = pod.world.proxy.mark()

    assert pod.echo(DB, 22, b"\x00a port that no rule tunnels") == b""
    assert pod.world.proxy.text(mark) == ""


def show_name(world: World, address: str, name: str) -> None:
    """Begin TLS with `name` at `address`."""
    with closing(world.connect(address, 443)) as connection:
        context = ssl.create_default_context(cafile=str(world.lab.directory / "ca.pem"))
        context.wrap_socket(connection, server_hostname=name).close()


def test_a_new_name_cuts_no_connection_and_moves_no_address(pod: NamedWorld) -> None:
    before = pod.resolve(DB)
    assert ip_address(pod.address(LATE)) != ip_address(pod.address(DB)), "until then the wildcard answers"
    old = pod.address(LATE)
    with closing(pod.world.connect(DB, 5432)) as connection:
        assert say(connection, b"\x00before") == b"\x00before"

        pod.set_policy(named(f"{STATED}, {{host: {LATE}, ports: [5432]}}"))

        assert wait_until(lambda: pod.address(LATE) != old, "an answer of its own", timeout=20)
        assert pod.echo(LATE, 5432, b"\x00late") == b"\x00late"
        assert pod.resolve(DB) == before
        assert say(connection, b"\x00after") == b"\x00after"
        assert pod.world.envoy.admin.counters("listener_in_place_updated")


def test_a_name_that_is_gone_leaves_an_address_that_is_refused(pod: NamedWorld) -> None:
    stale = pod.address(QUEUE)
    pod.set_policy(named(f"{{host: {DB}, ports: [5432]}}"))
    mark = pod.world.proxy.mark()

    assert pod.echo(stale, 5432, b"\x00hello") == b""
    assert pod.world.proxy.text(mark) == ""
    assert pod.echo(DB, 5432, b"\x00hello") == b"\x00hello"
