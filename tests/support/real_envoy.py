"""
A real Envoy with a snapshot in it, and servers that tell where it sends what.

It runs on loopback without capture: the PROXY protocol says what was dialled, where the kernel would say so otherwise.
Every cluster leads to a server of the test, which writes down what it is asked for and answers with nothing useful. All
else, chains, matchers and routes, is what is served.
"""

from __future__ import annotations

import http.client
import re
import socketserver
import ssl
import subprocess
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from queue import SimpleQueue
from socket import create_connection
from typing import TYPE_CHECKING, ClassVar

from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap, BootstrapStaticResources
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterLbPolicy
from envoy_data_plane.envoy.config.core.v3 import Address, Node, SocketAddress
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import Listener, ListenerFilter
from envoy_data_plane.envoy.extensions.filters.listener.proxy_protocol.v3 import ProxyProtocol
from envoy_data_plane.google.protobuf import Any

from tests.support.access_log import write_log
from tests.support.validation import find_envoy, inline_routes, internal_listeners
from xds import names
from xds.explain.connection import Connection, Fate, Outcome, Protocol
from xds.resources import ResourceType
from xds.snapshot import Snapshot, build_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from socket import socket

    from xds.policy.model import Policy

SOURCE_PORT = 50000
"""Where connections are said to come from, unless they are to be told from one another."""
PATIENCE = 20.0
"""Seconds until something that should have happened counts as never happening."""
_LOOPBACK = "127.0.0.1"
_REFUSAL = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_NEITHER_TLS_NOR_HTTP = b"\x00\x01\x02\x03\r\n"


class _Upstream(socketserver.ThreadingTCPServer):
    """Stands in for one cluster; `seen` gets one outcome per connection."""

    daemon_threads = True

    def __init__(self, cluster: str, seen: SimpleQueue[Outcome]) -> None:
        super().__init__((_LOOPBACK, 0), _Handler)
        self.cluster, self.seen = cluster, seen


class _Handler(socketserver.StreamRequestHandler):
    timeout: ClassVar[float | None] = PATIENCE

    def handle(self) -> None:
        assert isinstance(self.server, _Upstream)
        cluster = self.server.cluster
        if cluster == names.DIRECT_CLUSTER:
            self.server.seen.put(Outcome(Fate.DIRECT, cluster))
            return
        method, target, _ = self.rfile.readline().decode().split(" ")
        while self.rfile.readline().strip():
            pass
        fate = Fate.TUNNELLED if method == "CONNECT" else Fate.FORWARDED
        self.server.seen.put(Outcome(fate, cluster, target))
        self.wfile.write(_REFUSAL)


@dataclass(frozen=True)
class RealEnvoy:
    """A running Envoy."""

    port: int
    seen: SimpleQueue[Outcome]
    log: Path

    def take(self, connection: Connection, source_port: int = SOURCE_PORT) -> Outcome:
        """Make `connection` and wait for its end; say what became of it. Its lines in the log have the source port."""
        with create_connection((_LOOPBACK, self.port), PATIENCE) as client:
            client.sendall(announce(connection, source_port) + first_bytes(connection))
            answer = read_all(client)
        if not self.seen.empty():
            outcome = self.seen.get()
            assert self.seen.empty(), "one connection went to two places"
            return outcome
        if answer:
            # Envoy's parser refuses some odd Hosts by itself.
            assert re.match(rb"HTTP/1\.[01] (403|400) ", answer), answer
            return Outcome(Fate.FORBIDDEN)
        return Outcome(Fate.CLOSED)


def read_all(client: socket) -> bytes:
    """Read an HTTP answer, or to the end; whoever closes before reading everything sends a reset."""
    answer = b""
    with suppress(ConnectionResetError):
        while not is_whole_answer(answer) and (part := client.recv(65536)):
            answer += part
    return answer


def is_whole_answer(answer: bytes) -> bool:
    """Whether nothing is left to come; Envoy keeps a connection for a second after its own answers."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: ([0-9]+)", head, re.IGNORECASE)
    return bool(end) and length is not None and len(body) >= int(length[1])


def announce(connection: Connection, source_port: int = SOURCE_PORT) -> bytes:
    """Say what was dialled (PROXY protocol, version 1)."""
    family, source = ("TCP4", "192.0.2.99") if connection.address.version == 4 else ("TCP6", "2001:db8:99::99")
    return f"PROXY {family} {source} {connection.address} {source_port} {connection.port}\r\n".encode()


def first_bytes(connection: Connection) -> bytes:
    """Return what the application says first."""
    match connection.protocol:
        case Protocol.TLS:
            return client_hello(connection.name)
        case Protocol.HTTP_10 | Protocol.HTTP_11:
            version = connection.protocol.value.upper()
            host = f"Host: {connection.name}\r\n" if connection.name else ""
            return f"GET {connection.path} {version}\r\n{host}Connection: close\r\n\r\n".encode()
        case Protocol.OTHER:
            return _NEITHER_TLS_NOR_HTTP


def client_hello(name: str) -> bytes:
    """
    Return a ClientHello; an empty name is left out.

    OpenSSL refuses odd names, so a plain one of that length is asked for and written over (RFC 6066, section 3).
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    plain = "x" * len(name)
    entry = bytes([0, *len(name).to_bytes(2, "big")])
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=plain or None)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read().replace(entry + plain.encode(), entry + name.encode(), 1)
    raise AssertionError("a handshake with nobody succeeded")


def without_logins(policy: Policy) -> Policy:
    """Return `policy` without logins: there is no control plane here whose secrets a listener could wait for."""
    return replace(policy, proxies=tuple(replace(proxy, login=None) for proxy in policy.proxies))


def can_be_announced(connection: Connection) -> bool:
    """Whether the PROXY protocol takes the address: nobody dials the others anyway."""
    address = connection.address
    return not (address.is_unspecified or address.is_multicast or address == ip_address("255.255.255.255"))


def has_room(connection: Connection) -> bool:
    """Whether its claim is one that a client can write in a ClientHello."""
    return len(connection.name) < 200


def without_names(snapshot: Snapshot) -> Snapshot:
    """Leave out the listeners that answer for names: their port is for one Envoy of a machine."""
    kinds = (snapshot.of(kind).values() for kind in ResourceType)
    answering = {names.DNS_LISTENER, names.DNS_LISTENER_6}
    return build_snapshot(item for items in kinds for item in items if item.name not in answering)


@contextmanager
def run_envoy(snapshot: Snapshot, directory: Path) -> Iterator[RealEnvoy]:
    """Run an Envoy on `snapshot` until the block is left."""
    seen: SimpleQueue[Outcome] = SimpleQueue()
    with ExitStack() as stack:
        ports = {}
        inside = snapshot.of(ResourceType.LISTENER)
        for cluster in snapshot.of(ResourceType.CLUSTER):
            if cluster in inside:
                continue
            server = stack.enter_context(_Upstream(cluster, seen))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
            ports[cluster] = server.server_address[1]
        config, admin = directory / "bootstrap.pb", directory / "admin.txt"
        admin.unlink(missing_ok=True)
        access_log = directory / "access.log"
        access_log.unlink(missing_ok=True)
        config.write_bytes(build_bootstrap(snapshot, ports, access_log))
        log = stack.enter_context((directory / "envoy.log").open("wb"))
        command = [find_envoy(), "--config-path", str(config), "--admin-address-path", str(admin)]
        options = "--disable-hot-restart --concurrency 1 --log-level warn --file-flush-interval-msec 50"
        process = subprocess.Popen([*command, *options.split()], stdout=log, stderr=log)
        stack.callback(process.wait, PATIENCE)
        stack.callback(process.kill)
        yield RealEnvoy(await_listener(admin), seen, access_log)


def await_listener(admin: Path) -> int:
    """Wait until Envoy listens; return the port."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.05)):
        pause.wait(0.05)
        if admin.exists() and (address := admin.read_text(encoding="ascii").strip()):
            listeners = ask_admin(address, "/listeners")
            if ask_admin(address, "/ready").startswith("LIVE") and names.OUTBOUND_LISTENER in listeners:
                (line,) = (line for line in listeners.splitlines() if line.startswith(names.OUTBOUND_LISTENER))
                return int(line.rpartition(":")[2])
    raise AssertionError("Envoy does not listen")


def ask_admin(address: str, path: str) -> str:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except ConnectionError:
        return ""
    finally:
        connection.close()


def build_bootstrap(snapshot: Snapshot, ports: dict[str, int], access_log: Path) -> bytes:
    """Serialise a bootstrap with the snapshot's listener and routes, and clusters that lead to `ports`."""
    listener = Listener.parse(snapshot.of(ResourceType.LISTENER)[names.OUTBOUND_LISTENER].body)
    inline_routes(listener, snapshot)
    assert listener.listener_filters[0].name == "envoy.filters.listener.original_dst"
    announced = Any.pack(ProxyProtocol())
    listener.listener_filters[0] = ListenerFilter(name="envoy.filters.listener.proxy_protocol", typed_config=announced)
    listener.address, listener.additional_addresses = at(0), []
    clusters = [build_cluster(name, port) for name, port in ports.items()]
    served = snapshot.of(ResourceType.CLUSTER)
    clusters += [Cluster.parse(resource.body) for name, resource in served.items() if name not in ports]
    inside = snapshot.of(ResourceType.LISTENER).values()
    listeners = [Listener.parse(resource.body) for resource in inside if resource.name != listener.name]
    for item in (listener, *listeners):
        write_log(item, access_log)
    static = BootstrapStaticResources(listeners=[listener, *listeners], clusters=clusters)
    return bytes(
        Bootstrap(
            node=Node(id="pod.namespace", cluster="test"),
            admin=Admin(address=at(0)),
            static_resources=static,
            bootstrap_extensions=[internal_listeners()],
        )
    )


def build_cluster(name: str, port: int) -> Cluster:
    endpoint = LbEndpoint(endpoint=Endpoint(address=at(port)))
    assignment = ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])])
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STATIC,
        lb_policy=ClusterLbPolicy.ROUND_ROBIN,
        load_assignment=assignment,
    )


def at(port: int) -> Address:
    return Address(socket_address=SocketAddress(address=_LOOPBACK, port_value=port))
