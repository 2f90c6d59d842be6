"""
What Istio must know where its egress policy is REGISTRY_ONLY: the corporate proxies, as ServiceEntry objects.

Beside Istio our sidecar is an application like any other: its connections to a proxy pass through Istio's sidecar,
which lets nothing out that is not in its registry. The traffic is opaque to Istio (TCP, or TLS that is told by its
server name): of an entry for HTTP it would read the CONNECT, and answer it by itself.

What Istio can tell connections by, and what an entry says of it:

* an address: by address and port;
* TLS to a name: by the server name that our sidecar sends, and the port;
* a name without TLS: by the port alone, for there is no name in the bytes.

Where one host is meant by that, Istio resolves it itself, so that nothing else gets out that way. Where several are,
the connections go where our sidecar sent them (`resolution: NONE`): Istio would deliver them to any of the hosts, and a
proxy's priorities, health and logins would be for another one.

Proxies that are Services of the cluster are in the registry already; an entry would take their name away from them.

Nothing here reads a cluster. Invariant: equal policies give equal entries, sorted by name, each with a name of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from xds.compile.hosts import is_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.policy.model import Policy, Proxy

_INSIDE = (".svc", ".cluster.local")
_NOBODY = "egress-xds.invalid"
"""Istio wants a host even where it does not count; nobody resolves this one (RFC 2606, section 2)."""
_NOT_OF_A_LABEL = re.compile(r"[^a-z0-9]+")
_HOST = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
"""What Istio takes as a host: labels of RFC 1123, which have no underscore."""
_MAX_LABEL = 63
_DIGITS = 8


@dataclass(frozen=True, slots=True, order=True)
class _Sign:
    """What Istio can tell connections by: a port, with an address or with a server name or with neither."""

    port: int
    address: str = ""
    server_name: str = ""


def render_service_entries(policy: Policy, namespace: str) -> tuple[Mapping[str, object], ...]:
    """
    Return a ServiceEntry (networking.istio.io/v1) for all that Istio can tell apart of the policy's proxies.

    They are for the pods of `namespace`, in the order of `metadata.name`. An endpoint that several proxies share is in
    there once.
    """
    meant: defaultdict[_Sign, set[str]] = defaultdict(set)
    for proxy in policy.proxies:
        for sign, host in _signs(proxy):
            meant[sign].add(host)
    entries = {_name(sign, hosts): _spec(sign, sorted(hosts)) for sign, hosts in meant.items()}
    return tuple(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": name, "namespace": namespace},
            "spec": entries[name],
        }
        for name in sorted(entries)
    )


def _signs(proxy: Proxy) -> Iterable[tuple[_Sign, str]]:
    for endpoint in proxy.endpoints:
        host, port = endpoint.host, endpoint.port
        server_name = (proxy.tls.server_name or host) if endpoint.tls else ""
        if is_address(host):
            yield _Sign(port, address=host), host
        elif host.endswith(_INSIDE):
            continue
        elif _HOST.fullmatch(server_name):
            yield _Sign(port, server_name="" if is_address(server_name) else server_name), host
        else:
            yield _Sign(port), host


def _spec(sign: _Sign, hosts: Sequence[str]) -> Mapping[str, object]:
    legal = [host for host in hosts if _HOST.fullmatch(host) and not is_address(host)]
    named = [sign.server_name] if sign.server_name else legal
    protocol = "TLS" if sign.server_name else "TCP"
    return {
        "hosts": named or [f"{_slug(hosts[0])}.{_NOBODY}"],
        **({"addresses": [sign.address]} if sign.address else {}),
        "ports": [{"number": sign.port, "name": f"{protocol.lower()}-proxy", "protocol": protocol}],
        "location": "MESH_EXTERNAL",
        **({"resolution": "DNS", "endpoints": [{"address": legal[0]}]} if len(hosts) == len(legal) == 1 else _AS_SENT),
        "exportTo": ["."],
    }


_AS_SENT: Mapping[str, object] = {"resolution": "NONE"}


def _name(sign: _Sign, hosts: Iterable[str]) -> str:
    """Return a legal name (RFC 1123 label): readable, and with a hash, for different hosts may read the same."""
    ordered = sorted(hosts)
    told = f"{sign.server_name} {' '.join(ordered)}"
    tail = f"-{sign.port}-{hashlib.sha256(told.encode()).hexdigest()[:_DIGITS]}"
    return f"egress-xds-{_slug(ordered[0])}"[: _MAX_LABEL - len(tail)].rstrip("-") + tail


def _slug(host: str) -> str:
    plain = ip_address(host).exploded if is_address(host) else host
    return _NOT_OF_A_LABEL.sub("-", plain).strip("-")[:_MAX_LABEL].rstrip("-")
