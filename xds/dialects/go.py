"""
How Go programs read NO_PROXY: `net/http` through `golang.org/x/net/http/httpproxy`.

Follows `config.init` and `config.useProxy` of http/httpproxy/proxy.go, as of golang.org/x/net 0.36 and Go 1.24.1. A
name covers itself and all below it, `.name` and `*.name` what is below only; networks and addresses match hosts that
are addresses; ports are compared as text. Brackets belong to a port: `[2001:db8::1]` alone is a name that no host
has. Loopback goes directly without any entry. Older versions let the end of an address match as that of a name does:
`*.2.3` and 10.1.2.3.
"""

from __future__ import annotations

from xds.dialects.addresses import parse_address, parse_network, to_ascii, unmapped, unmapped_network
from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss


def _decide(no_proxy: str, target: Target) -> Answer:
    host = to_ascii(target.host)
    address = parse_address(host)
    address = None if address is None else unmapped(address)
    if host == "localhost" or (address is not None and address.is_loopback):
        return Answer(goes_direct=True, entry=None, why="loopback never uses a proxy")
    host = host.strip().lower()
    entries = [entry.strip() for entry in no_proxy.split(",")]
    if "*" in entries:
        return direct("*", "`*` anywhere in the list stands for every host")
    for entry in entries:
        text = entry.lower()
        why = _matched_name(text, host, target.port) if address is None else _matched_address(text, target)
        if why is not None:
            return direct(entry, why)
    return miss(no_proxy, target)


def _matched_address(entry: str, target: Target) -> str | None:
    assert target.address is not None
    address = unmapped(target.address)
    network = parse_network(entry)
    if network is not None:
        return f"`{entry}` contains the address" if address in unmapped_network(network) else None
    host, port = _split_host_port(entry)
    literal = parse_address(host)
    if literal is None or unmapped(literal) != address or port not in ("", str(target.port)):
        return None
    return "the address is the same"


def _matched_name(entry: str, host: str, port: int) -> str | None:
    if parse_network(entry) is not None:
        return None
    name, own_port = _split_host_port(entry)
    if not name or parse_address(name) is not None or own_port not in ("", str(port)):
        return None
    name = to_ascii(name.removeprefix("*") if name.startswith("*.") else name)
    if name.startswith("."):
        return f"the name ends in `{name}`" if host.endswith(name) else None
    if host == name:
        return "the name is the same"
    return f"the name is below `{name}`" if host.endswith(f".{name}") else None


def _split_host_port(entry: str) -> tuple[str, str]:
    """Split as `net.SplitHostPort` does; what it refuses is all host."""
    host, colon, port = entry.rpartition(":")
    refused = entry, ""
    if not colon:
        return refused
    rest = host
    if host.startswith("["):
        if not host.endswith("]") or "]" in host[:-1]:
            return refused
        host = rest = host[1:-1]
    elif ":" in host:
        return refused
    return refused if set("[]") & set(rest + port) else (host, port)


CLIENT = Client("go", "Go", "golang.org/x/net http/httpproxy/proxy.go, config.useProxy", True, _decide)  # noqa: FBT003 - reads_environment
