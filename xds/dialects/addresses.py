"""
Hosts as the standard parsers take them, which the clients call.

No client and no list is known here. Invariant: text that a parser does not take gives None or comes back as it is;
nothing raises.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_PART = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_LARGEST_BYTE = 255
_PARTS_OF_IPV4 = 4
_MAPPED_BITS = 96


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that `text` is, in the notation of `inet_pton`. A zone is not part of one here."""
    if "%" in text:
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


def parse_network(text: str) -> IPv4Network | IPv6Network | None:
    """Return the network that `text` is: an address, a slash and a length in digits. Host bits may be set."""
    address, slash, length = text.partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or parse_address(address) is None:
        return None
    try:
        return ip_network(f"{address}/{int(length)}", strict=False)
    except ValueError:
        return None


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that is mapped into `address`, or `address` itself (RFC 4291, section 2.5.5.2)."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return the IPv4 network that is mapped into `network`, or `network` itself."""
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        return IPv4Network((network.network_address.ipv4_mapped, max(network.prefixlen - _MAPPED_BITS, 0)))
    return network


def inet_aton(text: str) -> IPv4Address | None:
    """
    Return the address that `text` is in the old notation: one to four parts, each decimal, octal or hexadecimal.

    The last part fills what is left, as `inet_aton` of the C library has it.
    """
    parts = text.split(".")
    if len(parts) > _PARTS_OF_IPV4 or not all(_PART.fullmatch(part) for part in parts):
        return None
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        return None
    *leading, last = numbers
    free = 8 * (_PARTS_OF_IPV4 - len(leading))
    if any(number > _LARGEST_BYTE for number in leading) or last >= 1 << free:
        return None
    value = last
    for index, number in enumerate(leading):
        value |= number << (24 - 8 * index)
    return IPv4Address(value)


def _number(part: str) -> int:
    if part[:2].lower() == "0x":
        return int(part, 0)
    return int(part, 8) if part.startswith("0") else int(part)


def to_ascii(name: str) -> str:
    """Return `name` with its labels in punycode (RFC 3490), or as it is where that has no answer."""
    if name.isascii():
        return name
    try:
        return ".".join(label.encode("idna").decode() if label else "" for label in name.split("."))
    except UnicodeError:
        return name


def url_host(host: str) -> str:
    """Return `host` as the URL standard has it: lower case, punycode, an IPv4 address in four decimal parts."""
    ascii_host = to_ascii(host).lower()
    address = inet_aton(ascii_host.removesuffix("."))
    if address is not None:
        return str(address)
    literal = parse_address(ascii_host)
    return ascii_host if literal is None else str(literal)
