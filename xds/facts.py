"""
What the world around a policy looks like at one moment, as one frozen value.

Compilation is pure, so everything that it must know beyond the policy (addresses that are always
reached directly, what the proxies' names resolve to) is collected by an edge and passed in here.
Facts hold no clock and no I/O; equal facts give equal snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectEndpoint:
    """Addresses that no policy sends through a proxy (NO_PROXY rule N12), and why."""

    reason: str
    network: Network
    ports: tuple[int, ...] = ()
    """Empty: every port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that compilation knows beside the policy."""

    always_direct: tuple[DirectEndpoint, ...] = ()
    """The API server, DNS servers, the control plane: whatever the edges found out."""

    addresses: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    """What the proxies' host names resolve to, for the loop guard (N12, N15)."""

    has_ipv6: bool = True
    """Whether the pods' kernels know IPv6 at all; false only where it is compiled out or switched off at boot."""
