"""
What the tests of a PAC file match: names, addresses, and the scheme and port at the front of a URL.

A captured connection has a name, an address and a port, and no URL: TLS stands for `https`, and plain HTTP for
`http`. Invariant: a pattern that whole labels, networks and ports can't say is `Unknown`.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, ip_network

from xds.importers.pac_conditions import FALSE, TRUE, Condition, Unknown, Within, both
from xds.importers.pac_regions import Region
from xds.policy.hosts import Problem, is_address_like, parse_name, parse_network
from xds.policy.model import DomainPattern

DEFAULT_PORTS = {"http": 80, "https": 443}

_WILD = re.compile(r"[*?\[\]]")
_OCTETS = re.compile(r"((?:[0-9]{1,3}\.){1,3})\*")
_URL = re.compile(
    r"(?:(?P<scheme>[^/:]+)://)?(?P<host>\*|[^/:*]*|\*?[^/:*]+)(?::(?P<port>[0-9]{1,5}))?(?P<rest>/\*?|\*)?"
)
_SCHEME_ONLY = re.compile(r"(?P<scheme>[^/:]+):(?:\*|//\*|//\*/\*)")
_PORT = re.compile(r"[0-9]{1,5}")
_ALL_BITS = 0xFFFFFFFF


def match_name(text: str) -> Condition:
    """Return `host == text`."""
    if text != text.lower():
        # Browsers hand over the host in lower case.
        return FALSE
    if is_address_like(text):
        network = parse_network(text)
        return Unknown() if isinstance(network, Problem) or "/" in text else Within((Region(network=network),))
    name = parse_name(text)
    if text.endswith("."):
        # Both spellings are one name here.
        return Unknown()
    if isinstance(name, Problem):
        return FALSE
    return _within(DomainPattern(name, subdomains=False))


def match_suffix(text: str) -> Condition:
    """Return whether the host ends with `text`, at a dot: what stands before it begins with a new label."""
    if text != text.lower():
        return FALSE
    bare = text.removeprefix(".")
    if is_address_like(bare) or isinstance(parse_name(bare), Problem):
        return Unknown()
    name = parse_name(bare)
    assert isinstance(name, str), "this was looked at"
    return _within(DomainPattern(name, apex=not text.startswith(".")))


def is_at_a_dot(text: str) -> bool:
    """Whether a suffix begins with a dot, so that no other name ends alike."""
    return text.startswith((".", "*."))


def match_glob(text: str) -> Condition:
    """Return `shExpMatch(host, text)`."""
    if text == "*":
        return TRUE
    if not _WILD.search(text):
        return match_name(text)
    octets = _OCTETS.fullmatch(text)
    if octets:
        return _match_octets(octets[1])
    if text.startswith("*") and not _WILD.search(text[1:]):
        return match_suffix(text[1:])
    return Unknown()


def is_octets(text: str) -> bool:
    """Whether a glob is the front of an address, e.g. `10.*`."""
    return _OCTETS.fullmatch(text) is not None


def _match_octets(text: str) -> Condition:
    parts = text.rstrip(".").split(".")
    try:
        address = IPv4Address(".".join([*parts, *["0"] * (4 - len(parts))]))
    except ValueError:
        return FALSE
    return Within((Region(network=IPv4Network((address, 8 * len(parts)))),))


def match_network(pattern: str, mask: str) -> Condition:
    """Return `isInNet(host, pattern, mask)`; a mask with holes is no network."""
    try:
        bits, address = int(IPv4Address(mask)), int(IPv4Address(pattern))
    except ValueError:
        return Unknown()
    holes = bits ^ _ALL_BITS
    if holes & (holes + 1):
        return Unknown()
    if not bits:
        return TRUE
    return Within((Region(network=IPv4Network((address & bits, bits.bit_count()))),))


def match_prefix(text: str) -> Condition:
    """Return `isInNetEx(host, text)`, for one network with its length."""
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError:
        return Unknown()
    return Within((Region(network=network),)) if network.prefixlen else Unknown()


def match_url_start(text: str, scheme: str) -> Condition:
    """Return whether a URL of `scheme` begins with `text`."""
    start = f"{scheme}://"
    if start.startswith(text):
        return TRUE
    if not text.startswith(start):
        return FALSE
    host, slash, path = text.removeprefix(start).partition("/")
    if not slash or path:
        return Unknown()
    return _match_authority(host, scheme)


def match_url(text: str, scheme: str) -> Condition:
    """Return `shExpMatch(url, text)` for a URL of `scheme`, whatever its path."""
    if text == "*":
        return TRUE
    if not _WILD.search(text):
        return match_url_start(text, scheme) if text.endswith("/") else Unknown()
    if text.endswith("*") and not _WILD.search(text[:-1]):
        return match_url_start(text[:-1], scheme)
    only = _SCHEME_ONLY.fullmatch(text)
    if only:
        return TRUE if fnmatchcase(scheme, only["scheme"]) else FALSE
    match = _URL.fullmatch(text)
    if match is None or (match["scheme"] is None and not match["host"].startswith("*")):
        return Unknown()
    return _match_parts(match, scheme)


def _match_parts(match: re.Match[str], scheme: str) -> Condition:
    host, port, rest = match["host"], match["port"], match["rest"]
    if not (rest in ("/*", "/") or (port and rest == "*")):
        return Unknown()
    if match["scheme"] is not None and not fnmatchcase(scheme, match["scheme"]):
        return FALSE
    if host == "*" and not port:
        return TRUE
    number = int(port) if port else DEFAULT_PORTS[scheme]
    return both(match_glob(host), Within((Region(ports=frozenset((number,))),)))


def _match_authority(text: str, scheme: str) -> Condition:
    host, colon, port = text.partition(":")
    if colon and not _PORT.fullmatch(port):
        return Unknown()
    number = int(port) if colon else DEFAULT_PORTS[scheme]
    return both(match_name(host), Within((Region(ports=frozenset((number,))),)))


def _within(pattern: DomainPattern) -> Condition:
    return Within((Region(pattern),))
