"""
Proxies: their URLs, their certificate authorities, and which one a tunnel takes.

Text that comes from a URL or a PEM block never enters a message, because people put passwords and keys
there by mistake. Nothing here resolves or dials anything. Invariant: a `Proxy` that is returned has at
least one endpoint with an explicit port.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.hosts import Problem, is_address_like, parse_name, parse_network, parse_port
from xds.policy.listeners import check_upstream
from xds.policy.material import MaterialReader
from xds.policy.model import Endpoint, PlainHttp, Proxy, ProxyProtocol, ProxyTls, TlsVersion
from xds.policy.names import check_plain_name
from xds.policy.proxy_options import (
    ProxyOptions,
    parse_duration,
    warn_readable_login,
)
from xds.policy.yaml_lines import at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.policy.documents import ProxyShape, TlsShape
    from xds.policy.findings import Findings
    from xds.policy.yaml_lines import Node

MAX_ENDPOINTS = 128
"""Addresses of all proxies of one policy together."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", re.DOTALL)


def parse_endpoint(text: str, priority: int = 0) -> Endpoint | Problem:
    """Return the endpoint that a proxy URL names: scheme, host and port, and nothing else."""
    text = text.strip()
    if "@" in text or "%40" in text:
        return Problem(
            "EX302", "the proxy's URL holds a user or a password", "remove all before the `@`, and change the password"
        )
    url = _URL.fullmatch(text)
    if url is None:
        return Problem("EX301", "the proxy's URL has no scheme", "write `http://host:port` or `https://host:port`")
    scheme, rest = url[1].lower(), url[2].removesuffix("/")
    if scheme not in ("http", "https"):
        return Problem(
            "EX301", "the proxy's URL is neither http nor https", "an HTTP proxy that takes CONNECT is needed"
        )
    if re.search(r"[/?#]", rest):
        return Problem("EX301", "the proxy's URL goes on after the port", "write `http://host:port` only")
    return _parse_authority(rest, priority, is_tls=scheme == "https")


def _parse_authority(text: str, priority: int, *, is_tls: bool) -> Endpoint | Problem:
    match = _AUTHORITY.fullmatch(text)
    if match is None or not match[1] or ":" in (match[2] or ""):
        return Problem(
            "EX301", "the proxy's URL names no host and port", "write `http://host:port`; an IPv6 address in brackets"
        )
    if match[2] is None:
        return Problem(
            "EX303", "the proxy's URL has no port", "write it: clients disagree whether 80, 443 or 1080 is meant"
        )
    host = _parse_host(match[1])
    if isinstance(host, Problem):
        return Problem("EX301", "the proxy's host is neither a name nor an address", host.hint)
    port = parse_port(match[2])
    if isinstance(port, Problem):
        return Problem("EX301", "the proxy's port is not a number from 1 to 65535", "correct it")
    return Endpoint(host=host, port=port, tls=is_tls, priority=priority)


def _parse_host(text: str) -> str | Problem:
    if not text.startswith("[") and not is_address_like(text):
        return parse_name(text)
    if "/" in text:
        return Problem("EX301", "this is a network", "write one address")
    network = parse_network(text.strip("[]"))
    return network if isinstance(network, Problem) else str(network.network_address)


def build_proxies(
    shapes: Mapping[str, ProxyShape],
    node: Node,
    findings: Findings,
    *,
    explicit_port: int | None,
    secrets: str | None,
) -> tuple[Proxy, ...]:
    """Return the usable proxies of a document, sorted by name; `secrets` is the namespace of the Secrets they name."""
    _check_count(shapes, node, findings)
    material = MaterialReader(secrets, findings)
    proxies = (_build_proxy(name, shapes[name], at(node, name), explicit_port, material) for name in sorted(shapes))
    return tuple(proxy for proxy in proxies if proxy is not None)


def _check_count(shapes: Mapping[str, ProxyShape], node: Node, findings: Findings) -> None:
    """Report more endpoints than any company has: each is looked up, and each proxy may name three Secrets."""
    count = sum(len(shape.endpoints) for shape in shapes.values())
    if count > MAX_ENDPOINTS:
        message = f"the proxies have {count} endpoints together, more than {MAX_ENDPOINTS}"
        findings.add("EX103", node, message, "give a name that stands for all addresses, or use several policies")


def _build_proxy(
    name: str, shape: ProxyShape, node: Node, explicit_port: int | None, material: MaterialReader
) -> Proxy | None:
    findings = material.findings
    check_plain_name(name, "a proxy's name", node, findings)
    endpoints = _build_endpoints(shape, node, explicit_port, findings)
    timeout = parse_duration(shape.connect_timeout)
    if isinstance(timeout, Problem):
        findings.add(timeout.code, at(node, "connectTimeout"), timeout.message, timeout.hint)
        return None
    tls = _build_tls(shape.tls, at(node, "tls"), material)
    login = material.read_login(shape.auth, at(node, "auth"))
    options = ProxyOptions(shape, node, findings)
    health, outlier, attempts = options.health(), options.outlier(), options.attempts()
    idle_timeout = options.idle_timeout()
    if not endpoints:
        return None
    options.check(health, outlier, endpoints)
    if shape.tls is not None and not any(endpoint.tls for endpoint in endpoints):
        warn_unused_tls(at(node, "tls"), findings)
    if shape.protocol == ProxyProtocol.HTTP2.value and shape.plain_http == PlainHttp.ABSOLUTE_FORM.value:
        message = "plain HTTP in absolute form can't be sent over HTTP/2"
        findings.add("EX330", at(node, "protocol"), message, "write `plainHTTP: connect`, or `plainHTTP: deny`")
    if login is not None and not all(endpoint.tls for endpoint in endpoints):
        warn_readable_login(at(node, "auth"), findings)
    return Proxy(
        name=name,
        endpoints=endpoints,
        tls=tls,
        login=login,
        protocol=ProxyProtocol(shape.protocol),
        connect_ports=None if shape.connect_ports is None else tuple(sorted(set(shape.connect_ports))),
        plain_http=PlainHttp(shape.plain_http),
        connect_timeout=timeout,
        health=health,
        outlier=outlier,
        attempts=attempts,
        idle_timeout=idle_timeout,
        where=findings.where(node),
    )


def _build_endpoints(
    shape: ProxyShape, node: Node, explicit_port: int | None, findings: Findings
) -> tuple[Endpoint, ...]:
    """Return the endpoints in their canonical order: by priority, then as address and port sort."""
    found: dict[tuple[str, int], Endpoint] = {}
    for index, item in enumerate(shape.endpoints):
        spot = at(node, "endpoints", index, "url")
        endpoint = parse_endpoint(item.url, item.priority)
        if isinstance(endpoint, Problem):
            findings.add(endpoint.code, spot, endpoint.message, endpoint.hint)
        elif (endpoint.host, endpoint.port) in found:
            findings.add("EX310", spot, "this endpoint is listed twice", "keep one, with the priority that is meant")
        elif problem := check_upstream(endpoint, explicit_port):
            findings.add(problem.code, spot, problem.message, problem.hint)
        else:
            found[endpoint.host, endpoint.port] = endpoint
    return tuple(sorted(found.values(), key=lambda item: (item.priority, item.host, item.port)))


def _build_tls(shape: TlsShape | None, node: Node, material: MaterialReader) -> ProxyTls:
    """Return how TLS to the proxy is verified."""
    if shape is None:
        return ProxyTls()
    findings = material.findings
    ca_pem, ca_file = material.read_authorities(shape.ca, at(node, "ca"))
    server_name = None
    if shape.server_name is not None:
        name = _parse_host(shape.server_name.strip())
        if isinstance(name, Problem):
            message = f"{quote(shape.server_name)}: {name.message}"
            findings.add("EX301", at(node, "serverName"), message, name.hint)
        else:
            server_name = name
    return ProxyTls(
        ca_pem=ca_pem,
        ca_file=ca_file,
        server_name=server_name,
        minimum_version=TlsVersion(shape.minimum_version),
        client_certificate=material.read_client_certificate(shape.client_certificate, at(node, "clientCertificate")),
    )


def warn_unused_tls(node: Node, findings: Findings) -> None:
    """Warn that TLS settings are given for a proxy that is reached without TLS."""
    message = "TLS to the proxy is described, but no endpoint of it is `https://`"
    findings.add("EX309", node, message, "write the URL with `https://` if the proxy speaks TLS, or remove this")
