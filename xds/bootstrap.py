"""
The bootstrap of an Envoy: all that it must know before it reaches the control plane.

`render_bootstrap` fills the template `envoy/bootstrap.yaml`, and `render_secrets` gives the files beside it that make
an Envoy follow certificates and tokens; everything a policy decides comes later, over ADS.

Invariants: every value is checked before it is rendered, and the admin interface is never reachable from another
machine. Nothing here starts an Envoy or talks to a control plane.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path, PurePosixPath
from string import Template
from textwrap import indent
from typing import TYPE_CHECKING

from xds.errors import SettingsError, quote_value
from xds.names import XDS_CLUSTER, NodeId
from xds.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEFAULT_ADMIN = "127.0.0.1:15000"
"""Where Envoy's admin interface listens unless told otherwise."""

DEFAULT_MAX_CONNECTIONS = 50_000
"""Connections of applications at a time; Envoy itself has no limit."""

MAX_MAX_CONNECTIONS = 10_000_000
MIN_MAX_HEAP = 64 * 2**20
"""Bytes. An Envoy with a small policy and no connection takes half of it."""

_SIZE = re.compile(r"([1-9][0-9]{0,9})(Mi|Gi)")
_BYTES = {"Mi": 2**20, "Gi": 2**30}
_SHRINK_HEAP_AT = 0.90
_REFUSE_CONNECTIONS_AT = 0.95
"""Shares of the heap's limit at which memory is given back to the system, and new connections are closed."""

MAX_PORT = 65535
_PORT_DIGITS = 5
MAX_MARK = 0xFFFFFFFF
_MAX_NAME = 253
_MAX_LABEL = 63
_MAX_UNIX_PATH = 107

_SOL_SOCKET = 1
_SO_MARK = 36
"""Linux's numbers, whatever machine renders the bootstrap."""

_TYPES = "type.googleapis.com/"
_MONITORS = f"{_TYPES}envoy.extensions.resource_monitors"
_TLS = f"{_TYPES}envoy.extensions.transport_sockets.tls.v3"
_SECRET = f"{_TLS}.Secret"
_TOKEN, _AUTHORITY, _CERTIFICATE = "token", "authority", "certificate"
"""Names of the secrets that Envoy reads from files."""
_FIXED_HEAP = "envoy.resource_monitors.fixed_heap"

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_QUALIFIED_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

_TEMPLATE = "bootstrap.yaml"
_PROBE_TEMPLATE = "probe.yaml"
_PACKAGE = Path(__file__).resolve().parent
_TEMPLATE_DIRECTORIES = (_PACKAGE / "_envoy", _PACKAGE.parent / "envoy")
"""Where an installed wheel keeps the templates, and where a checkout does."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A host, as a name or as an address without brackets, and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine; of names, only `localhost` tells."""
        address = _as_address(self.host)
        return self.host == "localhost" if address is None else address.is_loopback


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A unix socket in the file system."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """
    How an Envoy and its control plane prove to each other who they are: absolute paths, where that Envoy sees them.

    Envoy follows files that are exchanged only if a file of its own (SDS from a path) names them; these files are in
    `directory`, beside the bootstrap.
    """

    directory: str
    server_ca: str | None = None
    """PEM; who signs for the control plane. None: no TLS."""
    server_name: str = ""
    """What its certificate is for; empty: the host that is connected to."""
    token: str | None = None
    """A file with a bearer token, read anew when it is exchanged."""
    certificate: str | None = None
    key: str | None = None
    """PEM; what this Envoy proves itself with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """What distinguishes one Envoy's bootstrap from another's. The `parse_` functions give its parts."""

    node_id: NodeId
    server: Authority
    cluster: str = "egress-xds"
    """`node.cluster`: the name under which Envoy groups its own statistics."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The pod's labels, which policies select by."""
    service_account: str = ""
    mode: Mode = Mode.TRANSPARENT
    """In explicit mode nothing is captured, and the control plane has nothing listen for that."""
    admin: Authority | UnixPath = Authority("127.0.0.1", 15000)
    is_delta: bool = True
    """Incremental xDS; False is state of the world."""
    so_mark: int | None = None
    """SO_MARK of every connection that Envoy opens, for a capture that can't tell Envoy by its user."""
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    """Above it, connections of applications are closed at once; the admin interface is not counted."""
    max_heap: int | None = None
    """Bytes. Near it, Envoy gives memory back and takes no new connections; None is no limit."""
    probe: Authority | None = None
    """Where the kubelet asks whether this Envoy has its configuration: an address of this machine; None is nowhere."""
    credentials: Credentials | None = None
    """None: the control plane is reached without TLS and asks nobody who he is."""


def parse_node_id(text: str) -> NodeId:
    """Read `<pod>.<namespace>`; anything else is a SettingsError."""
    pod, _, namespace = text.rpartition(".")
    labels = [*pod.split("."), namespace]
    if len(text) > _MAX_NAME or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise SettingsError(
            f"node id {quote_value(text)} is not <pod>.<namespace> in lower-case letters, digits and '-'; "
            "give the pod's name and namespace, such as web-0.shop"
        )
    return NodeId(text)


def parse_authority(text: str) -> Authority:
    """Read `host:port`, `address:port` or `[IPv6 address]:port`; anything else is a SettingsError."""
    if "@" in text or "//" in text:
        raise SettingsError(f"{quote_value(text)} is not HOST:PORT alone; write it without a scheme and a login")
    host, colon, port = text.rpartition(":")
    is_number = port.isascii() and port.isdecimal() and len(port) <= _PORT_DIGITS
    if not colon or not is_number or not 1 <= int(port) <= MAX_PORT:
        raise SettingsError(f"{quote_value(text)} has no port from 1 to {MAX_PORT}; write HOST:PORT or [IPV6]:PORT")
    is_bracketed = host.startswith("[") and host.endswith("]")
    address = _as_address(host[1:-1] if is_bracketed else host)
    if isinstance(address, IPv6Address) is not is_bracketed:
        raise SettingsError(
            f"{quote_value(text)}: an IPv6 address, and nothing else, is written in brackets; write [IPV6]:PORT"
        )
    if address is not None:
        return Authority(str(address), int(port))
    if not _is_host_name(host):
        raise SettingsError(
            f"{quote_value(host)} in {quote_value(text)} is neither a host name nor an IP address; write HOST:PORT"
        )
    return Authority(host.lower(), int(port))


def parse_admin(text: str) -> Authority | UnixPath:
    """
    Read where the admin interface listens: `127.0.0.1:PORT`, `[::1]:PORT` or the absolute path of a unix socket.

    Whoever reaches that interface can stop this Envoy and read its configuration, so that an address which
    is not loopback is a SettingsError.
    """
    if text.startswith("/"):
        return _parse_unix_path(text)
    authority = parse_authority(text)
    address = _as_address(authority.host)
    if address is None or not address.is_loopback:
        raise SettingsError(
            f"the admin interface may not listen on {quote_value(text)}: it has no authentication; "
            f"use a loopback address such as {DEFAULT_ADMIN}, or the absolute path of a unix socket"
        )
    return authority


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """Read `key=value` pairs in the syntax of Kubernetes labels; anything else is a SettingsError."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not _is_label_key(key) or not _is_label_value(value):
            raise SettingsError(
                f"label {quote_value(pair)} is not KEY=VALUE in the syntax of Kubernetes labels, such as app=web"
            )
        if labels.setdefault(key, value) != value:
            raise SettingsError(f"label {quote_value(key)} is given twice with different values; give it once")
    return labels


def parse_mark(mark: int) -> int:
    """Check a packet mark: 1 to 2³²-1 (0 is what every unmarked packet has)."""
    if not 1 <= mark <= MAX_MARK:
        raise SettingsError(f"mark {mark} is not from 1 to {MAX_MARK}; choose one that nothing else on the node uses")
    return mark


def parse_probe(host: str, port: int, admin: Authority | UnixPath) -> Authority:
    """
    Check where probes are answered: `::` (with IPv4), `0.0.0.0` or one address; a name is a SettingsError.

    The port must not be that of the admin interface.
    """
    address = _as_address(host)
    if address is None:
        raise SettingsError(
            f"--probe-host {quote_value(host)} is no IP address; give an address of the pod, such as 0.0.0.0 for all"
        )
    if not 1 <= port <= MAX_PORT:
        raise SettingsError(f"--probe-port {port} is not from 1 to {MAX_PORT}; choose one that nothing else listens on")
    if isinstance(admin, Authority) and admin.port == port:
        raise SettingsError(f"--probe-port {port} is the port of the admin interface; choose another")
    return Authority(str(address), port)


def parse_max_connections(limit: int) -> int:
    """Check a limit of connections; anything but 1 to 10,000,000 is a SettingsError."""
    if not 1 <= limit <= MAX_MAX_CONNECTIONS:
        raise SettingsError(
            f"{limit} connections are not from 1 to {MAX_MAX_CONNECTIONS}; each takes two file descriptors of Envoy"
        )
    return limit


def parse_max_heap(text: str) -> int:
    """Read a size in `Mi` or `Gi`, of at least 64Mi, as bytes; anything else is a SettingsError."""
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _BYTES[match[2]] if match else 0
    if size < MIN_MAX_HEAP:
        raise SettingsError(
            f"{quote_value(text)} is not a size of at least {MIN_MAX_HEAP // 2**20}Mi, such as 400Mi or 2Gi; "
            "give four fifths of what the container may use"
        )
    return size


def parse_credentials(
    *,
    server: Authority,
    directory: str | None,
    server_ca: str | None = None,
    server_name: str = "",
    token: str | None = None,
    certificate: str | None = None,
    key: str | None = None,
) -> Credentials | None:
    """
    Combine what an Envoy proves and demands; None if that is nothing. Raises SettingsError.

    A token goes over TLS only, unless the control plane is on this machine.
    """
    given = [path for path in (server_ca, token, certificate, key) if path is not None]
    if not given and not server_name:
        return None
    if directory is None:
        raise SettingsError(
            "Envoy notices that certificates and tokens are exchanged only through files beside its bootstrap; "
            "add --directory DIR, where Envoy will read them"
        )
    for path in (directory, *given):
        _check_path(path)
    check_proofs(server, server_ca=server_ca, server_name=server_name, token=token, certificate=certificate, key=key)
    if certificate is not None and key is not None and _directory_of(certificate) != _directory_of(key):
        raise SettingsError(
            "--client-certificate and --client-key are in different directories, of which Envoy follows one only; "
            "put them into one"
        )
    name = (server_name or server.host).removesuffix(".")
    if _as_address(name) is None and not _is_host_name(name):
        raise SettingsError(f"--server-name {quote_value(server_name)} is neither a host name nor an IP address")
    return Credentials(
        directory=directory.rstrip("/"),
        server_ca=server_ca,
        server_name=name.lower(),
        token=token,
        certificate=certificate,
        key=key,
    )


def check_proofs(
    server: Authority,
    *,
    server_ca: str | None,
    server_name: str | None,
    token: str | None,
    certificate: str | None,
    key: str | None,
) -> None:
    """
    Refuse what can't be proven to `server` like this, and a token that others could read. Raises SettingsError.

    The rules are those of every client, Envoy or command.
    """
    if (certificate is None) is not (key is None):
        raise SettingsError("--client-certificate and --client-key belong together; give both, or neither")
    if server_ca is None and (certificate is not None or server_name):
        raise SettingsError("a client's certificate and a server's name are for TLS; add --server-ca FILE")
    if server_ca is None and token is not None and not server.is_loopback:
        raise SettingsError(
            f"the token would cross the network to {server.host} readable by all; add --server-ca FILE, for TLS"
        )


def render_secrets(credentials: Credentials) -> dict[str, str]:
    """Return the files that the bootstrap refers to, by name; they hold paths and no secret."""
    return {
        f"{name}.json": json.dumps({"resources": [{"@type": _SECRET, "name": name, **content}]}, indent=2) + "\n"
        for name, content in _secrets(credentials)
    }


def render_bootstrap(bootstrap: Bootstrap) -> str:
    """Return the bootstrap as YAML; equal values give equal text. A missing template is a SettingsError."""
    values = {name: json.dumps(value, sort_keys=True) for name, value in _substitutions(bootstrap).items()}
    values["static_listeners"] = _render_listeners(bootstrap.probe)
    return Template(_read_template(_TEMPLATE)).substitute(values)


def _render_listeners(probe: Authority | None) -> str:
    """Return what follows their key: none, or a block of one."""
    if probe is None:
        return " []"
    text = Template(_read_template(_PROBE_TEMPLATE)).substitute(probe_address=json.dumps(_probe_address(probe)))
    return "\n" + indent(text, "    ").rstrip()


def _substitutions(bootstrap: Bootstrap) -> dict[str, object]:
    is_name = _as_address(bootstrap.server.host) is None
    return {
        "node_id": bootstrap.node_id,
        "node_cluster": bootstrap.cluster,
        "node_metadata": _metadata(bootstrap),
        "admin_address": _admin_address(bootstrap.admin),
        "ads_api_type": "DELTA_GRPC" if bootstrap.is_delta else "GRPC",
        "cluster_manager": _cluster_manager(bootstrap.so_mark),
        "resource_monitors": list(_resource_monitors(bootstrap)),
        "overload_actions": list(_overload_actions(bootstrap)),
        "xds_cluster": XDS_CLUSTER,
        "xds_discovery_type": "STRICT_DNS" if is_name else "STATIC",
        "xds_host": bootstrap.server.host,
        "xds_port": bootstrap.server.port,
        "xds_transport_socket": _transport_socket(bootstrap.credentials),
        "xds_http_filters": _http_filters(bootstrap.credentials),
    }


def _secrets(credentials: Credentials) -> Iterator[tuple[str, dict[str, object]]]:
    if credentials.token is not None:
        yield _TOKEN, {"generic_secret": {"secret": _watched(credentials.token)}}
    if credentials.server_ca is not None:
        is_address = _as_address(credentials.server_name) is not None
        name = {"san_type": "IP_ADDRESS" if is_address else "DNS", "matcher": {"exact": credentials.server_name}}
        authority = {
            "trusted_ca": {"filename": credentials.server_ca},
            "match_typed_subject_alt_names": [name],
            "watched_directory": _directory_of(credentials.server_ca),
        }
        yield _AUTHORITY, {"validation_context": authority}
    if credentials.certificate is not None and credentials.key is not None:
        pair = {
            "certificate_chain": {"filename": credentials.certificate},
            "private_key": {"filename": credentials.key},
            "watched_directory": _directory_of(credentials.certificate),
        }
        yield _CERTIFICATE, {"tls_certificate": pair}


def _watched(path: str) -> dict[str, object]:
    return {"filename": path, "watched_directory": _directory_of(path)}


def _directory_of(path: str) -> dict[str, object]:
    return {"path": str(PurePosixPath(path).parent)}


def _reference(credentials: Credentials, name: str) -> dict[str, object]:
    source = {"path_config_source": {"path": f"{credentials.directory}/{name}.json"}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _transport_socket(credentials: Credentials | None) -> dict[str, object] | None:
    if credentials is None or credentials.server_ca is None:
        return None
    common: dict[str, object] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "validation_context_sds_secret_config": _reference(credentials, _AUTHORITY),
    }
    if credentials.certificate is not None:
        common["tls_certificate_sds_secret_configs"] = [_reference(credentials, _CERTIFICATE)]
    context: dict[str, object] = {"@type": f"{_TLS}.UpstreamTlsContext", "common_tls_context": common}
    if _as_address(credentials.server_name) is None:
        context["sni"] = credentials.server_name
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _http_filters(credentials: Credentials | None) -> list[dict[str, object]]:
    if credentials is None or credentials.token is None:
        return []
    generic = {
        "@type": f"{_TYPES}envoy.extensions.http.injected_credentials.generic.v3.Generic",
        "credential": _reference(credentials, _TOKEN),
        "header_value_prefix": "Bearer ",
    }
    injector = {
        "@type": f"{_TYPES}envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        "overwrite": True,
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
    }
    codec = {"@type": f"{_TYPES}envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}
    return [
        {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
        {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
    ]


def _metadata(bootstrap: Bootstrap) -> dict[str, object]:
    metadata: dict[str, object] = {}
    if bootstrap.labels:
        metadata["labels"] = dict(bootstrap.labels)
    if bootstrap.service_account:
        metadata["serviceAccount"] = bootstrap.service_account
    if bootstrap.mode is not Mode.TRANSPARENT:
        metadata["mode"] = bootstrap.mode.value
    return metadata


def _admin_address(admin: Authority | UnixPath) -> dict[str, object]:
    match admin:
        case UnixPath(path):
            # Only the user that runs Envoy may connect (0600, which YAML and JSON know as 384).
            return {"pipe": {"path": path, "mode": 0o600}}
        case Authority(host, port):
            return {"socket_address": {"address": host, "port_value": port}}


def _cluster_manager(so_mark: int | None) -> dict[str, object]:
    if so_mark is None:
        return {}
    option = {
        "description": "marks what Envoy itself opens, so that it is not captured again",
        "level": _SOL_SOCKET,
        "name": _SO_MARK,
        "int_value": so_mark,
        "state": "STATE_PREBIND",
    }
    return {"upstream_bind_config": {"socket_options": [option]}}


def _probe_address(probe: Authority) -> dict[str, object]:
    address: dict[str, object] = {"address": probe.host, "port_value": probe.port}
    # All of IPv6 takes IPv4, too, also in a pod whose interfaces have no IPv6 address.
    return address | {"ipv4_compat": True} if probe.host == "::" else address


def _resource_monitors(bootstrap: Bootstrap) -> Iterator[dict[str, object]]:
    yield {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": bootstrap.max_connections,
        },
    }
    if bootstrap.max_heap is not None:
        yield {
            "name": _FIXED_HEAP,
            "typed_config": {
                "@type": f"{_MONITORS}.fixed_heap.v3.FixedHeapConfig",
                "max_heap_size_bytes": bootstrap.max_heap,
            },
        }


def _overload_actions(bootstrap: Bootstrap) -> Iterator[dict[str, object]]:
    if bootstrap.max_heap is None:
        return
    for action, share in (
        ("shrink_heap", _SHRINK_HEAP_AT),
        ("reject_incoming_connections", _REFUSE_CONNECTIONS_AT),
    ):
        trigger = {"name": _FIXED_HEAP, "threshold": {"value": share}}
        yield {"name": f"envoy.overload_actions.{action}", "triggers": [trigger]}


def _read_template(name: str) -> str:
    for directory in _TEMPLATE_DIRECTORIES:
        path = directory / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise SettingsError(f"the template {name} is missing from this installation; install egress-xds again")


def _parse_unix_path(text: str) -> UnixPath:
    if len(text.encode()) > _MAX_UNIX_PATH or ".." in PurePosixPath(text).parts or not text.isprintable():
        raise SettingsError(
            f"{quote_value(text)} can't be a unix socket: "
            f"it must be plain text of at most {_MAX_UNIX_PATH} bytes without '..'"
        )
    return UnixPath(text)


def _check_path(path: str) -> None:
    if not path.startswith("/") or not path.isprintable() or ".." in PurePosixPath(path).parts:
        raise SettingsError(
            f"{quote_value(path)} is no absolute path without '..'; give the path under which Envoy sees the file"
        )


def _as_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    # A zone names an interface of one machine, and is text that Envoy would not accept.
    return None if "%" in host else address


def _is_host_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    # A last label of digits only would be a malformed IPv4 address (WHATWG URL, "ends in a number").
    return len(host) <= _MAX_NAME and all(map(_HOST_LABEL.fullmatch, labels)) and not labels[-1].isdecimal()


def _is_label_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    is_prefixed = not slash or (len(prefix) <= _MAX_NAME and all(map(_DNS_LABEL.fullmatch, prefix.split("."))))
    return is_prefixed and _QUALIFIED_NAME.fullmatch(name) is not None


def _is_label_value(value: str) -> bool:
    return value == "" or (len(value) <= _MAX_LABEL and _QUALIFIED_NAME.fullmatch(value) is not None)
