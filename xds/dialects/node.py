"""
How Node.js reads NO_PROXY in its modules `http` and `https`, told to by `NODE_USE_ENV_PROXY=1`.

Follows `ProxyConfig.shouldUseProxy` of lib/internal/http.js in Node.js 24. A name stands for itself alone, with a
port or without; `.name` for the name and all below it; `*.name` for what is below; `*` in the list for every
host; `192.0.2.1-192.0.2.9` for a range of IPv4 addresses. Networks are not known, and IPv6 stands without brackets.
`fetch()` of the same Node.js reads the list in its own way: see `undici`.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from xds.dialects.addresses import parse_address, url_host
from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss


def _decide(no_proxy: str, target: Target) -> Answer:
    host = url_host(target.host)
    for part in no_proxy.split(","):
        entry = part.strip()
        why = _matched(entry.lower(), host, target.port)
        if why is not None:
            return direct(entry, why)
    return miss(no_proxy, target)


def _matched(entry: str, host: str, port: int) -> str | None:
    if entry == "*":
        return "`*` stands for every host"
    if entry in {host, f"{host}:{port}"}:
        return "the host is the same"
    if entry.startswith(".") and (host == entry[1:] or host.endswith(entry)):
        return f"the name is `{entry[1:]}` or below it"
    if entry.startswith("*.") and host.endswith(entry[1:]):
        return f"the name ends in `{entry[1:]}`"
    if "-" in entry and _in_range(entry, host):
        return f"the range `{entry}` contains the address"
    return None


def _in_range(entry: str, host: str) -> bool:
    first, last = (parse_address(text.strip()) for text in entry.split("-")[:2])
    address = parse_address(host)
    return (
        isinstance(address, IPv4Address)
        and isinstance(first, IPv4Address)
        and isinstance(last, IPv4Address)
        and first <= address <= last
    )


CLIENT = Client(
    "node",
    "Node.js http",
    "nodejs/node lib/internal/http.js, ProxyConfig.shouldUseProxy",
    True,  # noqa: FBT003 - reads_environment
    _decide,
)
