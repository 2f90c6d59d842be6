"""
One connection as a sidecar sees it, and what became of it.

Nothing here knows policies or Envoy's messages. Invariant: an outcome names the cluster and what was asked for exactly
as Envoy writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


class Protocol(Enum):
    """What Envoy's inspectors recognise."""

    TLS = "tls"
    HTTP_10 = "http/1.0"
    HTTP_11 = "http/1.1"
    OTHER = "other"

    @property
    def is_http(self) -> bool:
        """Whether it is plain HTTP/1."""
        return self in (Protocol.HTTP_10, Protocol.HTTP_11)


@dataclass(frozen=True, slots=True)
class Connection:
    """
    What an application dialled and said first.

    `name` is the server name (TLS) or the Host (HTTP, a name or an address, perhaps with a port), as the client wrote
    it; empty: none sent. `path` is that of an HTTP request.
    """

    address: Address
    port: int
    protocol: Protocol
    name: str = ""
    path: str = "/"

    @property
    def dialled(self) -> str:
        """Address and port as Envoy writes them."""
        host = f"[{self.address}]" if isinstance(self.address, IPv6Address) else str(self.address)
        return f"{host}:{self.port}"


class Fate(Enum):
    """What can become of a connection."""

    DIRECT = "dialled as the application did"
    CLOSED = "closed without a byte"
    FORBIDDEN = "answered with 403"
    TUNNELLED = "CONNECT"
    FORWARDED = "absolute form"

    @property
    def is_refused(self) -> bool:
        """Whether it went nowhere."""
        return self in (Fate.CLOSED, Fate.FORBIDDEN)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`cluster` and `target` (the authority of CONNECT, or the URL) say where it went, if anywhere."""

    fate: Fate
    cluster: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Hop:
    """One line of the access log: the chain, and the cluster that it chose (empty: none)."""

    chain: str
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    Where a connection ended: the chain that took it (empty: none did) and what that chain did.

    `hops` has more than one element where a request goes through a listener inside Envoy to its tunnel.
    """

    chain: str
    outcome: Outcome
    hops: tuple[Hop, ...]
