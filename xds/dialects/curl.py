"""
How curl and programs with libcurl read NO_PROXY.

Follows `proxy_check_noproxy` of lib/proxy.c in curl 8.22 (`Curl_check_noproxy` of lib/noproxy.c before 8.21). A name
covers itself and all below it, with or without a dot in front; networks match hosts that are addresses; there are no
ports and no wildcards, and `*` counts only as the whole value. A length of 0 is taken for the full length.
Hosts are compared in punycode, entries as they are written; a curl without IDN leaves the host as it is too.

Older versions differ: before 8.18 an IPv6 host was compared as a name is, as text and without networks, and text after
a slash counted up to its first letter, or as 0; before 8.9 a blank separated entries like a comma, while nothing
after it is read now; before 7.86 networks were not known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.dialects.addresses import inet_aton, parse_address, parse_network, to_ascii
from xds.dialects.answers import Answer, Client, Target, direct
from xds.dialects.misses import miss

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

_LONGEST_ADDRESS = 127
_ENTRY = re.compile(r"[ \t]*([^ \t,]*)[ \t]*(,*)")


def _decide(no_proxy: str, target: Target) -> Answer:
    if no_proxy == "*":
        return direct("*", "`*` as the whole value stands for every host")
    host = to_ascii(target.host)
    address = inet_aton(host) or parse_address(host)
    for entry in _entries(no_proxy):
        why = _matched_name(entry, host) if address is None else _matched_address(entry, address)
        if why is not None:
            return direct(entry, why)
    return miss(no_proxy, target)


def _entries(no_proxy: str) -> Iterator[str]:
    """Yield the entries up to the first that no comma follows."""
    for match in _ENTRY.finditer(no_proxy):
        if match[1]:
            yield match[1]
        if not match[2]:
            return


def _matched_name(entry: str, host: str) -> str | None:
    name = _lower(host.removesuffix("."))
    suffix = _lower(entry.removesuffix(".").removeprefix("."))
    if name == suffix:
        return "the name is the same"
    return f"the name is below `{suffix}`" if name.endswith(f".{suffix}") else None


def _lower(text: str) -> str:
    """Return `text` with its ASCII letters in lower case, which is all that curl compares without case."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def _matched_address(entry: str, address: IPv4Address | IPv6Address) -> str | None:
    if len(entry) > _LONGEST_ADDRESS:
        return None
    if "/" not in entry:
        return "the address is the same" if parse_address(entry) == address else None
    network = parse_network(entry)
    if network is None or network.version != address.version:
        return None
    if network.prefixlen == 0:
        return "a length of 0 is the full length" if parse_address(entry.partition("/")[0]) == address else None
    return f"`{entry}` contains the address" if address in network else None


CLIENT = Client("curl", "curl", "curl lib/proxy.c, proxy_check_noproxy", True, _decide)  # noqa: FBT003 - reads_environment
