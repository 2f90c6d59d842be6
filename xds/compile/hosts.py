"""
What a client may claim to be called for: the shape of a Host and of a TLS server name.

A name goes into the request that a proxy reads (`CONNECT name:port`, `GET http://name/`), so whatever is not plainly a
name could mean one host to the policy and another to the proxy: `allowed.example:x@other.example`, `other.example..`,
or `2130706433`, which many resolvers read as 127.0.0.1. So a claim is a name, an address, or it is refused.

Invariant: no text is both a name and an address. The patterns are RE2's, to be matched in full. Each is a program of at
most 100 steps, beyond which Envoys refuse it, and large and small letters are spelled out for that: `(?i)` takes steps
for the letters outside ASCII, too, that fold to `k` and `s`.
"""

from __future__ import annotations

from ipaddress import ip_address

_LABEL = "[A-Za-z0-9_-]+"
_LAST_LABEL = "(?:[A-Za-z_-]|[0-9]+[A-WYZa-wyz_-]|[1-9][0-9]*[Xx])[A-Za-z0-9_-]*"
"""Never a number, decimal or 0x: the last label is what makes a text an address (WHATWG URL, "ends in a number")."""
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PORT = "(?::[0-9]{1,5})?"

_PLAIN_NAME = rf"(?:{_LABEL}\.)*{_LAST_LABEL}\.?"
_PLAIN_ADDRESS = rf"(?:(?:{_OCTET}\.){{3}}{_OCTET}|\[[0-9A-Fa-f:.]*\])"

NAME = _PLAIN_NAME
"""A host name, also one with underscores or a trailing dot (RFC 1123, section 2.1; RFC 2181, section 11)."""

SERVER_NAME_ADDRESS = rf"{_PLAIN_ADDRESS}|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*"
"""An address where a server name should be: it names no host (RFC 6066, section 3)."""

HOST = rf"(?:{_PLAIN_NAME}|{_PLAIN_ADDRESS}){_PORT}"
"""A Host that is a name or an address (RFC 3986, section 3.2, without user and escapes)."""

_ANY_PORT = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"

HOST_AT_PLAIN_PORT = rf"(?:\[.*\]|[^:\[]*)(?::(?:{_ANY_PORT}))?"
"""A `HOST` whose port, if any, is one and can be compared as text, because there is one way to write it."""

ADDRESS_HOST = rf"{_PLAIN_ADDRESS}{_PORT}"
"""A Host that is an address."""

PORT_OF_HOST = ":[0-9]+$"
"""What is cut from a Host that matches `HOST` to leave its name."""

PORT_OR_80 = r"^(?:\[[^\]]*\]|[^:\[]*):([0-9]+).*$"
"""What is cut from a `HOST` with `:80` behind it, but for its first group, to leave the port that is meant."""

UNBRACKETED = r"^(?:\[([^\]]*)\]|([^:\[]*))(?::[0-9]+)?$"
"""What is cut from a `HOST`, but for its groups, to leave an address as Envoy's matchers read it."""

UNNAMED_HOST = "0.0.0.0"  # noqa: S104 - no socket is bound to it
"""Stands for the Host that an HTTP/1.0 request may leave out."""


def is_address(host: str) -> bool:
    """Whether `host` is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
