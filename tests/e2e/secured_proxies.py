"""
Proxies that demand something: a login, TLS, a certificate of the client's, or HTTP/2.

Squid checks logins with its own helper; a second Envoy is the proxy for mutual TLS and for HTTP/2, where Squid can't
or need not be.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.harness import (
    POLICY_FILE,
    PROXY_PORT,
    SERVER,
    CorporateProxy,
    ProxyKind,
    World,
    needs,
    open_lab,
    render_policy,
    start_broker,
    start_origins,
)
from xds.demo.cast import apply_capture, save_policy, start_control_plane, start_envoy
from xds.demo.lab import PROXY_ADDRESS, Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.support.certificates import Issued
    from xds.demo.lab import Lab

PROXY_HOST = "proxy.corp.example"
TLS_PORT = 3129
_SQUID_UID = 13
"""Debian's user `proxy`."""
_NCSA = Path("/usr/lib/squid/basic_ncsa_auth")


def put(lab: Lab, name: str, text: str) -> str:
    """Put a file in place as a secret is rotated: whole, in one step. Return the path as policies name it."""
    target = lab.directory / name
    draft = target.with_name(f".{name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o644)
    draft.replace(target)
    return str(lab.inside / name)


@dataclass(frozen=True)
class Login:
    """A user and a password."""

    user: str
    password: str

    def __str__(self) -> str:
        """As the file of a login holds it."""
        return f"{self.user}:{self.password}"


def start_squid(lab: Lab, *, users: tuple[Login, ...] = (), certificate: Issued | None = None) -> CorporateProxy:
    """Start Squid on the usual port, and with a certificate on the TLS port too; with users it demands a login."""
    if not _NCSA.exists():
        needs("squid is not installed; on Debian: apt-get install squid")
    home = lab.owned_directory("squid", _SQUID_UID)
    inside = lab.inside / home.name
    lines = [f"http_port {PROXY_ADDRESS}:{PROXY_PORT}"]
    if certificate is not None:
        files = put(lab, "squid.pem", certificate.certificate), put(lab, "squid.key", certificate.key)
        lines.append(f"https_port {PROXY_ADDRESS}:{TLS_PORT} tls-cert={files[0]} tls-key={files[1]}")
    if users:
        # Its helper knows several forms of a password; this one needs no library.
        entries = (f"{one.user}:{md5(one.password.encode(), usedforsecurity=False).hexdigest()}\n" for one in users)
        lines += [
            f"auth_param basic program {_NCSA} {put(lab, 'squid.users', ''.join(entries))}",
            "auth_param basic children 5",
            "acl known proxy_auth REQUIRED",
            "http_access allow known",
            "http_access deny all",
        ]
    else:
        lines.append("http_access allow all")
    lines += [
        *(f"access_log stdio:{inside}/access.log", f"cache_log {inside}/cache.log", f"pid_filename {inside}/squid.pid"),
        *("cache_effective_user proxy", "shutdown_lifetime 1 seconds", "pinger_enable off", "netdb_filename none"),
        *("cache deny all", "buffered_logs off", f"coredump_dir {inside}"),
    ]
    (home / "squid.conf").write_text("\n".join([*lines, ""]), encoding="utf-8")
    # Squid will not run as root, and in a user namespace there is nobody else to become.
    other = [] if lab.has_users else ["unshare", "--user", "--map-user=13", "--map-group=13"]
    command = [*other, "squid", "-N", "-f", str(inside / "squid.conf")]
    program = lab.start("squid", Namespace.CORP, command)
    program.wait_for_port(PROXY_PORT)
    return CorporateProxy(ProxyKind.SQUID, program, home / "access.log")


class Codec(Enum):
    """What the second Envoy speaks with its clients."""

    HTTP1 = "HTTP1"
    HTTP2 = "HTTP2"


ENVOY_LOG = "%PROTOCOL% %REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(:PATH)% connection=%CONNECTION_ID% %RESPONSE_CODE%"


def start_envoy_proxy(
    lab: Lab, codec: Codec, *, certificate: Issued | None = None, client_authority: str | None = None
) -> CorporateProxy:
    """Start an Envoy that is a CONNECT proxy, on the TLS port if it has a certificate."""
    port = PROXY_PORT if certificate is None else TLS_PORT
    chain: dict[str, object] = {"filters": [_typed("envoy.filters.network.http_connection_manager", _manager(codec))]}
    if certificate is not None:
        context = _server_context(lab, codec, certificate, client_authority)
        chain["transport_socket"] = _typed("envoy.transport_sockets.tls", context)
    listener = {
        "name": "proxy",
        "address": {"socket_address": {"address": PROXY_ADDRESS, "port_value": port}},
        "filter_chains": [chain],
    }
    bootstrap = {"static_resources": {"listeners": [listener], "clusters": [_anywhere()]}}
    path = put(lab, "envoy-proxy.json", json.dumps(bootstrap))
    command = [lab.envoy, "--disable-hot-restart", "--log-level", "warning", "--config-path", path]
    program = lab.start("envoy-proxy", Namespace.CORP, command)
    program.wait_for_port(port)
    return CorporateProxy(ProxyKind.EMBEDDED, program, program.log)


def _typed(name: str, config: Mapping[str, object]) -> dict[str, object]:
    return {"name": name, "typed_config": config}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.extensions.{name}"


_CACHE = {
    "name": "names",
    "dns_lookup_family": "V4_ONLY",
    # The laboratory's names stand in a file of its own, which the system's resolver reads.
    "typed_dns_resolver_config": _typed(
        "envoy.network.dns_resolver.getaddrinfo",
        {"@type": _type("network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig")},
    ),
}


def _manager(codec: Codec) -> dict[str, object]:
    connect = {"timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    routes = [
        {"match": {"connect_matcher": {}}, "route": {"cluster": "anywhere", **connect}},
        {"match": {"prefix": "/"}, "direct_response": {"status": 405}},
    ]
    log = {
        "@type": _type("access_loggers.stream.v3.StdoutAccessLog"),
        "log_format": {"text_format_source": {"inline_string": f"{ENVOY_LOG}\n"}},
    }
    forward = {
        "@type": _type("filters.http.dynamic_forward_proxy.v3.FilterConfig"),
        "dns_cache_config": _CACHE,
    }
    return {
        "@type": _type("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "proxy",
        "codec_type": codec.value,
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "access_log": [_typed("log", log)],
        "access_log_options": {"flush_access_log_on_new_request": True},
        "http_filters": [
            _typed("envoy.filters.http.dynamic_forward_proxy", forward),
            _typed("envoy.filters.http.router", {"@type": _type("filters.http.router.v3.Router")}),
        ],
    }


def _anywhere() -> dict[str, object]:
    forward = {"@type": _type("clusters.dynamic_forward_proxy.v3.ClusterConfig"), "dns_cache_config": _CACHE}
    return {
        "name": "anywhere",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "cluster_type": _typed("envoy.clusters.dynamic_forward_proxy", forward),
    }


def _server_context(lab: Lab, codec: Codec, certificate: Issued, client_authority: str | None) -> Mapping[str, object]:
    own = {
        "certificate_chain": {"filename": put(lab, "envoy-proxy.pem", certificate.certificate)},
        "private_key": {"filename": put(lab, "envoy-proxy.key", certificate.key)},
    }
    common: dict[str, object] = {
        "tls_certificates": [own],
        "alpn_protocols": ["h2"] if codec is Codec.HTTP2 else ["http/1.1"],
    }
    if client_authority is not None:
        common["validation_context"] = {"trusted_ca": {"inline_string": client_authority}}
    return {
        "@type": _type("transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": common,
        "require_client_certificate": client_authority is not None,
    }


@contextmanager
def open_secured_world(
    start: Callable[[Lab], tuple[CorporateProxy, str]], *, bootstrap_options: tuple[str, ...] = ()
) -> Iterator[World]:
    """Build a world whose proxy is started by `start`, which also returns how the policy describes it."""
    with open_lab() as lab:
        proxy, described = start(lab)
        start_origins(lab)
        save_policy(lab, POLICY_FILE, render_policy(proxy=described))
        control_plane = start_control_plane(lab, SERVER)
        sidecar = start_envoy(lab, SERVER, bootstrap_options=bootstrap_options)
        sidecar.wait_until_live()
        apply_capture(lab)
        start_broker(lab)
        world = World(lab, proxy, control_plane, sidecar, lab.leaked_packets())
        yield world
        assert world.leaked == 0, "the pod sent packets towards the Internet by itself"


def describe_proxy(**keys: str) -> str:
    """Return the mapping of a proxy in YAML's flow style; each key holds a flow mapping or scalar, `tls` means TLS."""
    url = f"https://{PROXY_HOST}:{TLS_PORT}" if "tls" in keys else f"http://{PROXY_HOST}:{PROXY_PORT}"
    described = {"endpoints": f"[{{url: '{url}'}}]", **keys}
    return "{" + ", ".join(f"{name}: {value}" for name, value in described.items()) + "}"


def basic(path: str) -> str:
    """Return the value of `auth` for a login in the file at `path`."""
    return f"{{basic: {{file: {path}}}}}"
