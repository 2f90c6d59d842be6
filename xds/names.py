"""
Every name that an Envoy sees, and the typed strings that travel between the rooms.

Resource names are total functions of all that distinguishes the resource, bounded in length and the
same on every replica and after every restart. Nothing else in the project invents a resource name.
This room must not import anything of the project.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

NodeId = NewType("NodeId", str)
"""`node.id` of an Envoy: `<pod>.<namespace>`."""

TypeUrl = NewType("TypeUrl", str)
"""`type.googleapis.com/<full message name>`."""

Version = NewType("Version", str)
"""Hash of content: equal content has an equal version in every process."""

Nonce = NewType("Nonce", str)
"""Names one response on one stream."""

OUTBOUND_LISTENER = "egress-outbound"
"""The one listener that captured connections reach."""

DIRECT_CLUSTER = "direct"
"""Dials the address that the application dialled."""

HTTP_ROUTES = "http"
"""The route configuration that decides plain HTTP by its Host."""

DIRECT_CHAIN = "direct"
DENY_CHAIN = "deny"
HTTP_DENY_CHAIN = "http-deny"
HTTP_CHAIN = "http"

HTTP_SYNTHETIC_CHAIN = "http-synthetic"
"""Plain HTTP to addresses that stand for names, and the route configuration that decides it by its Host."""

DNS_LISTENER = "egress-dns"
DNS_LISTENER_6 = "egress-dns-ipv6"
"""Answer for names, on the loopback address of either family."""

DNS_PORT = 15053
"""Where they listen and the capture of port 53 redirects to."""

CAPTURED_LISTENERS = (OUTBOUND_LISTENER, DNS_LISTENER, DNS_LISTENER_6)
"""The listeners that only captured connections and questions reach."""

EXPLICIT_LISTENER = "egress-explicit"
"""The listener for applications that know of a proxy."""

EXPLICIT_CHAIN = "explicit"
"""Its one chain, and the route configuration that decides its requests."""

DIRECT_BY_NAME_CLUSTER = "direct-by-name"
"""Resolves the host that an application named, and dials it."""

OUTBOUND_PORT = 15001
"""Where the listener listens and capture redirects to."""

BUFFER_LIMIT = 128 * 1024
"""Bytes that Envoy reads ahead of a slow receiver, on either side of a connection; it takes 1 MiB unless told."""

XDS_CLUSTER = "egress-xds"
"""The bootstrap's static cluster: how Envoy reaches the control plane."""

_MAX_LENGTH = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def _bounded(prefix: str, name: str) -> str:
    """Return `prefix/name`, with a hash in place of what does not fit or is not plain."""
    return f"{prefix}/{_shortened(name)}"


def _shortened(name: str) -> str:
    safe = _UNSAFE.sub("_", name)
    if safe == name and len(name) <= _MAX_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{safe[: _MAX_LENGTH - 17]}-{digest}"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def proxy_cluster(proxy: str) -> str:
    """Name the cluster of the policy's proxy `proxy`."""
    return _bounded("proxy", proxy)


def tls_tunnel_chain(proxy: str) -> str:
    """Name the chain that sends `CONNECT <server name>:<port>` to `proxy`."""
    return _bounded("tunnel-tls", proxy)


def tcp_tunnel_chain(proxy: str) -> str:
    """Name the chain that sends `CONNECT <address>:<port>` to `proxy`."""
    return _bounded("tunnel-tcp", proxy)


def tcp_name_chain(proxy: str, host: str) -> str:
    """Name the chain that sends `CONNECT <host>:<port>` to `proxy`, whatever is spoken."""
    return f"{_bounded('tunnel-tcp-name', proxy)}/{_shortened(host)}"


def http_proxy_chain(proxy: str) -> str:
    """Name the chain whose plain HTTP all goes to `proxy`, to the hosts that the requests name."""
    return _bounded("http", proxy)


def http_address_chain(proxy: str) -> str:
    """Name the chain whose plain HTTP all goes to `proxy`, to the addresses that were dialled."""
    return _bounded("http-address", proxy)


def proxy_login(proxy: str, file: str) -> str:
    """
    Name the secret with the login for `proxy` that is kept in `file`.

    The file is part of the name, so that a proxy that moves together with its login never gets the one before.
    """
    return _bounded("proxy-login", f"{proxy}-{_digest(file)}")


def proxy_certificate(proxy: str, certificate_file: str, key_file: str) -> str:
    """Name the secret with the certificate and key that prove to `proxy` who is calling."""
    return _bounded("proxy-certificate", f"{proxy}-{_digest(certificate_file, key_file)}")


def http_tunnel(proxy: str) -> str:
    """Name the cluster and the internal listener that carry plain HTTP in `CONNECT <host>:<port>` to `proxy`."""
    return _bounded("http-tunnel", proxy)


def http_address_tunnel(proxy: str) -> str:
    """Name the cluster and the internal listener that carry plain HTTP in `CONNECT <address>:<port>` to `proxy`."""
    return _bounded("http-address-tunnel", proxy)


def https_tunnel(proxy: str, authorities: str | None) -> str:
    """Name the cluster and the internal listener that carry plain HTTP as HTTPS; `authorities` are PEM."""
    suffix = "" if authorities is None else f"-{hashlib.sha256(authorities.encode()).hexdigest()[:16]}"
    return _bounded("https-tunnel", proxy + suffix)
