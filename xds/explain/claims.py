"""
What a client claims to be for, as a policy's reader sees it: a name, an address or nothing, or something odd.

Nothing here knows rules. Invariant: a claim is never read as two things.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from xds.compile.hosts import ADDRESS_HOST, HOST, NAME, PORT_OF_HOST, SERVER_NAME_ADDRESS
from xds.explain.connection import Connection, Protocol

_NAME, _SERVER_NAME_ADDRESS, _HOST, _ADDRESS_HOST, _PORT = map(
    re.compile, (NAME, SERVER_NAME_ADDRESS, HOST, ADDRESS_HOST, PORT_OF_HOST)
)


class Shown(Enum):
    """What kind of claim it is."""

    NAME = "a name"
    ADDRESS = "an address"
    NOTHING = "nothing"
    ODD = "neither a name nor an address"


@dataclass(frozen=True, slots=True)
class Claim:
    """`name` is in normal form (N1); empty unless a name is shown."""

    shown: Shown
    name: str = ""


def read_claim(connection: Connection) -> Claim:
    """Read what the first bytes of a connection say."""
    if connection.protocol is Protocol.OTHER:
        return Claim(Shown.NOTHING)
    if not connection.name:
        # HTTP/1.1 requires a Host (RFC 9112, section 3.2).
        return Claim(Shown.ODD if connection.protocol is Protocol.HTTP_11 else Shown.NOTHING)
    if connection.protocol is Protocol.TLS:
        return _read(connection.name, _NAME, _SERVER_NAME_ADDRESS)
    host = connection.name
    if not _HOST.fullmatch(host):
        return Claim(Shown.ODD)
    return Claim(Shown.ADDRESS) if _ADDRESS_HOST.fullmatch(host) else _named(_PORT.sub("", host))


def _read(text: str, name: re.Pattern[str], address: re.Pattern[str]) -> Claim:
    if name.fullmatch(text):
        return _named(text)
    return Claim(Shown.ADDRESS if address.fullmatch(text) else Shown.ODD)


def _named(text: str) -> Claim:
    return Claim(Shown.NAME, text.lower().removesuffix("."))
