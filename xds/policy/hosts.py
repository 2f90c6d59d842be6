"""
Host names, addresses and ports as people write them, in one normal form.

Names become lower case, punycode, without the trailing dot; networks lose their host bits and IPv4
mapped into IPv6 becomes IPv4 (N1, N7, N8). Nothing here knows rules or dialects. Invariant: a function
either returns the normal form or a `Problem` that says what is wrong and what to write instead; a
second pass over a normal form changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds.policy.model import Network

_NAME = re.compile(r"(?=.{1,253}\Z)(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)")
_LONGEST_NAME = 253
_LONGEST_LABEL = 63
"""RFC 1035, section 2.3.4."""
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65535
_PREFIX = re.compile(r"[0-9]{1,3}")
_NUMERIC_END = re.compile(r"(?:.*\.)?[0-9]+")
_DEVIATIONS = "ßς\u200c\u200d"
"""Characters that IDNA 2003 and IDNA 2008 map to different names (UTS 46, section 7)."""

_MAPPED = IPv6Network("::ffff:0:0/96")
_MAPPED_PREFIX = 96


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a piece of text: a code of the catalogue, a message and a remedy."""

    code: str
    message: str
    hint: str


def parse_name(text: str) -> str | Problem:
    """Return the host name `text` in normal form. One trailing dot is dropped (N1)."""
    name = text.lower() if text.isascii() else text
    name = name.removesuffix(".")
    if not name.isascii():
        encoded = _punycode(name)
        if isinstance(encoded, Problem):
            return encoded
        name = encoded
    if not _NAME.fullmatch(name):
        return Problem("EX201", "this is not a host name", _name_hint(name))
    if _NUMERIC_END.fullmatch(name):
        return Problem("EX205", "this is neither an address nor a name", "write all parts of the address, or a CIDR")
    return name


def _name_hint(name: str) -> str:
    if ".." in name or name.startswith(".") or name.endswith(".") or not name:
        return "remove the empty part between or before the dots"
    if len(name) > _LONGEST_NAME or any(len(label) > _LONGEST_LABEL for label in name.split(".")):
        return "a name has at most 253 characters, and 63 between two dots"
    return "use letters, digits, hyphens and dots; no hyphen at either end of a part"


def _punycode(name: str) -> str | Problem:
    if any(char in name for char in _DEVIATIONS):
        return Problem("EX201", "clients turn this name into different ASCII names", "write its `xn--` form")
    hint = "write its `xn--` form"
    if len(name) > _LONGEST_NAME:
        return Problem("EX201", "this is not a host name", "a name has at most 253 characters")
    try:
        return name.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        return Problem("EX201", "this is not an international host name", hint)


def is_address_like(text: str) -> bool:
    """Whether `text` can only be meant as an address or a network, well-formed or not."""
    return "/" in text or ":" in text or "%" in text or _NUMERIC_END.fullmatch(text) is not None


def parse_network(text: str) -> Network | Problem:
    """Return the address or CIDR `text` as a network with its host bits masked (N7)."""
    if "%" in text:
        return Problem("EX205", "an address with a zone means something on one machine only", "remove the `%` part")
    address, slash, prefix = text.partition("/")
    if slash and not _PREFIX.fullmatch(prefix):
        return Problem("EX205", "what follows the slash is not a prefix length", "write e.g. `10.0.0.0/8`")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return Problem("EX205", "this is not an IP address or network", _network_hint(address, prefix))
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_PREFIX and network.subnet_of(_MAPPED):
        v4 = int(network.network_address) & 0xFFFFFFFF
        return IPv4Network((v4, network.prefixlen - _MAPPED_PREFIX))
    return network


def _network_hint(address: str, prefix: str) -> str:
    if prefix:
        most = 128 if ":" in address else 32
        if int(prefix) > most:
            return f"the prefix length is at most {most}"
    if "-" in address:
        return "write a range of addresses as CIDRs"
    return "write e.g. `10.0.0.0/8`, `192.0.2.7` or `2001:db8::/32`"


def parse_port(text: str) -> int | Problem:
    """Return the port number `text`. A bad port is an error, never dropped (N8)."""
    if _PORT.fullmatch(text) and 1 <= int(text) <= _LAST_PORT:
        return int(text)
    return Problem("EX206", "this port is not a number from 1 to 65535", "correct it, or remove the colon")
