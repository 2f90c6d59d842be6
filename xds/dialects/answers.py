"""
What is asked of a client, and what it answers.

The types that the modules of this room share. This module must not know any client. Invariant: an answer that
names an entry names one that stands in the list, as it is written there without the space around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds.dialects.addresses import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address, IPv6Address

DEFAULT_PORTS: Mapping[str, int] = MappingProxyType({"http": 80, "https": 443})
"""The ports that a URL need not show, by scheme."""


@dataclass(frozen=True, slots=True)
class Target:
    """
    The URL that a client is about to ask for, as far as NO_PROXY is concerned.

    `host` is written as in the URL, an IPv6 address without its brackets; it is not empty.
    """

    host: str
    port: int
    scheme: str = "https"

    @property
    def shown_port(self) -> int | None:
        """The port as the URL shows it: None where it is the scheme's own, as such a port is seldom written."""
        return None if DEFAULT_PORTS.get(self.scheme) == self.port else self.port

    @property
    def bracketed(self) -> str:
        """The host as it stands in the URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The address that the host is, if it is one."""
        return parse_address(self.host)


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Whether a client passes the proxy by, and what made it.

    `entry` is the entry that matched; None where nothing did, or where the client decides without the list.
    `why` is a clause for people.
    """

    goes_direct: bool
    entry: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Client:
    """
    One family of clients that read the list alike.

    `title` is what messages call it; `source` is the file and function of the client that the reading follows.
    Where `reads_environment` is False the client never looks at NO_PROXY by itself, and the answer is the one for
    the usual translation into its own setting.
    """

    name: str
    title: str
    source: str
    reads_environment: bool
    decide: Callable[[str, Target], Answer]


def direct(entry: str, why: str) -> Answer:
    """Return the answer that `entry` sends the target directly."""
    return Answer(goes_direct=True, entry=entry, why=why)
