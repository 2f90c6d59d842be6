"""
What the world around a policy looks like at one moment, as one frozen value.

Compilation is pure, so everything that it must know beyond the policy (addresses that are always
reached directly, what the proxies' names resolve to, what is in the files that policies name) is
collected by edges and passed in here. Facts hold no clock and no I/O; equal facts give equal snapshots.
Invariant: what a file holds may be a secret, so it never shows in a `repr`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def merge_networks(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Return as few networks as say the same, in an order that does not depend on how they were given."""
    known = tuple(networks)
    of_v4 = collapse_addresses(item for item in known if isinstance(item, IPv4Network))
    of_v6 = collapse_addresses(item for item in known if isinstance(item, IPv6Network))
    return (*of_v4, *of_v6)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectEndpoint:
    """Addresses that no policy sends through a proxy (NO_PROXY rule N12), and why."""

    reason: str
    network: Network
    ports: tuple[int, ...] = ()
    """Empty: every port."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """The text of a file, which may be a secret."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Why a file has no text that could be used, and what to do about it."""

    message: str
    hint: str


File = FileContent | FileProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that compilation knows beside the policy."""

    always_direct: tuple[DirectEndpoint, ...] = ()
    """The API server, DNS servers, the control plane: whatever the edges found out."""

    cluster_direct: tuple[DirectEndpoint, ...] = ()
    """Services, pods and nodes, as the cluster tells them; a policy can switch these off."""

    cluster_ranges: tuple[Network, ...] = ()
    """Where services, pods and nodes are: names inside the cluster are believed there only (N20). Empty: anywhere."""

    addresses: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    """What the proxies' host names resolve to, for the loop guard (N12, N15)."""

    files: Mapping[str, File] = field(default_factory=dict)
    """What is in the files that policies name, by path."""

    reads_files: bool = True
    """
    False where documents are judged on a machine without their files: then nothing is said about files, and what
    is compiled has empty secrets and must not be served.
    """

    reads_secrets: bool = True
    """The same of Secrets: false where documents are judged that stand in no cluster yet."""

    now: float | None = None
    """The time in seconds since the epoch, coarsely, for the end of certificates; None: nobody looks at it."""

    has_ipv6: bool = True
    """Whether the pods' kernels know IPv6 at all; false only where it is compiled out or switched off at boot."""
