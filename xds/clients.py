"""
Who is connected, what each was sent, and what it made of it.

Streams report here; status pages and commands read. Nothing here decides what is sent. Time is passed in.
Invariant: a client is listed exactly while its stream is open, and what is kept of its words is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.names import NodeId, Version
    from xds.policy.model import Workload
    from xds.resources import ResourceType

MAX_NACK_TEXT = 4096
"""Characters kept of a client's reason for a NACK."""


@dataclass(frozen=True, slots=True)
class Nack:
    """A response that the client refused, and why in its own words."""

    version: Version
    text: str


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """Where a client stands with one type."""

    sent: Version | None = None
    acked: Version | None = None
    nack: Nack | None = None
    """The last refusal; it stays visible after a later ACK."""
    is_rejected: bool = False
    """Whether the client's last answer was a refusal."""

    @property
    def is_current(self) -> bool:
        """Whether the client applied the newest version that it was sent."""
        return self.sent is not None and self.sent == self.acked and not self.is_rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One open stream, seen at one moment."""

    node_id: NodeId
    workload: Workload
    since: float
    """When the stream was opened, on the caller's clock."""
    variant: str = ""
    """`sotw` or `delta`."""
    types: Mapping[ResourceType, TypeStatus] = field(default_factory=lambda: MappingProxyType({}))
    unknown_types: tuple[str, ...] = ()
    """Type URLs that it asked for and that are not served."""


class Connection:
    """A stream's own line in the registry; `close` strikes it out."""

    def __init__(self, registry: dict[int, Client], key: int) -> None:
        self._registry = registry
        self._key = key

    def note_sent(self, kind: ResourceType, version: Version) -> None:
        """Note that a response went out."""
        self._update(kind, replace(self._status(kind), sent=version))

    def note_ack(self, kind: ResourceType, version: Version) -> None:
        """Note that the client applied a response."""
        self._update(kind, replace(self._status(kind), acked=version, is_rejected=False))

    def note_nack(self, kind: ResourceType, version: Version, text: str) -> None:
        """Note that the client refused a response."""
        nack = Nack(version, text[:MAX_NACK_TEXT])
        self._update(kind, replace(self._status(kind), nack=nack, is_rejected=True))

    def note_unknown_type(self, type_url: str) -> None:
        """Note that the client asked for a type that is not served."""
        client = self._registry[self._key]
        self._registry[self._key] = replace(client, unknown_types=(*client.unknown_types, type_url))

    def close(self) -> None:
        """Strike the client out."""
        self._registry.pop(self._key, None)

    def _status(self, kind: ResourceType) -> TypeStatus:
        return self._registry[self._key].types.get(kind, TypeStatus())

    def _update(self, kind: ResourceType, status: TypeStatus) -> None:
        client = self._registry[self._key]
        self._registry[self._key] = replace(client, types=MappingProxyType({**client.types, kind: status}))


class Clients:
    """The registry. A node may have two streams for a moment, when it reconnects before the old one is found dead."""

    def __init__(self) -> None:
        self._clients: dict[int, Client] = {}
        self._last_key = 0

    def connect(self, node_id: NodeId, workload: Workload, *, since: float, variant: str = "") -> Connection:
        """List a client; `since` is the moment on the caller's clock."""
        self._last_key += 1
        self._clients[self._last_key] = Client(node_id=node_id, workload=workload, since=since, variant=variant)
        return Connection(self._clients, self._last_key)

    def connected(self) -> tuple[Client, ...]:
        """Return everybody who is connected now, by node id, older streams first."""
        return tuple(client for _, client in sorted(self._clients.items(), key=_by_node))

    def __len__(self) -> int:
        return len(self._clients)


def _by_node(item: tuple[int, Client]) -> tuple[str, int]:
    key, client = item
    return client.node_id, key
