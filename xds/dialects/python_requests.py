"""
How the Python library requests reads NO_PROXY.

Follows `should_bypass_proxies` of src/requests/utils.py in requests 2.34. For an IPv4 host an entry is a network or
that very address; for others a name covers itself and all below it. Where nothing matched,
`urllib.request.proxy_bypass` is asked about the host without its port, so `*` as the whole value counts, IPv6 stands
without brackets, and letters in the list may be of either case. Lengths of networks are 1 to 32; the address before
the slash may be short, and `10/8` is then the network of 0.0.0.10.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from xds.dialects import python_urllib
from xds.dialects.addresses import inet_aton, to_ascii
from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss

_BITS = 32


def _decide(no_proxy: str, target: Target) -> Answer:
    host = to_ascii(target.host).lower()
    entries = [entry for entry in no_proxy.replace(" ", "").split(",") if entry]
    address = inet_aton(host)
    own = _by_name(entries, host, target.shown_port) if address is None else _by_address(entries, host, address)
    return own or python_urllib.bypass(no_proxy, host) or miss(no_proxy, target)


def _by_address(entries: list[str], host: str, address: IPv4Address) -> Answer | None:
    for entry in entries:
        network = _network(entry)
        if network is not None and address in network:
            return direct(entry, f"`{entry}` contains the address")
        if network is None and entry == host:
            return direct(entry, "the host is the same")
    return None


def _network(entry: str) -> IPv4Network | None:
    address, slash, length = entry.partition("/")
    base = inet_aton(address)
    if not slash or base is None:
        return None
    try:
        bits = int(length)
    except ValueError:
        return None
    return IPv4Network((base, bits), strict=False) if 1 <= bits <= _BITS else None


def _by_name(entries: list[str], host: str, shown_port: int | None) -> Answer | None:
    with_port = host if shown_port is None else f"{host}:{shown_port}"
    for entry in entries:
        name = entry.lstrip(".")
        if name in {host, with_port}:
            return direct(entry, "the host is the same")
        if host.endswith(f".{name}") or with_port.endswith(f".{name}"):
            return direct(entry, f"the host ends in `.{name}`")
    return None


CLIENT = Client(
    "python-requests",
    "Python requests",
    "requests src/requests/utils.py, should_bypass_proxies",
    True,  # noqa: FBT003 - reads_environment
    _decide,
)
