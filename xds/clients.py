"""
Who is connected, what each was sent, and what it made of it.

Streams report here; status pages, metrics and commands read. Nothing here decides what is sent. Time is passed in.
Invariants: a client is listed exactly while its stream is open, what is kept of its words is bounded, and totals only
grow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from xds.errors import cut_redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from xds.names import NodeId, Version
    from xds.policy.model import Workload
    from xds.resources import ResourceStatus, ResourceType
    from xds.snapshot import Snapshot

MAX_NACK_TEXT = 4096
"""Characters kept of a client's reason for a NACK."""

OWN_METADATA = "egressXds"
"""
The key of a node's metadata under which operators are told what client status (CSDS) has no field for.

`replica`: who answers. `policy`: the one in force, as `namespace/name`, without the first where policies have no
namespace. `standing`: a value of `InForce`. `since`: when the stream was opened, in seconds since the epoch. `variant`:
`sotw` or `delta`. `types`: for each type that the client asks for, by the name of its `ResourceType` in lower case,
whether it runs what it is to run (`current`), how many `resources` it subscribes to or was sent, the versions `sent`
and `acknowledged` on this stream, and, if its last answer was a refusal, `rejected` with the `version`, the `text` and
the moment (`at`).

Who has this key in the metadata of the node that makes a request is told nothing else about each client: of thousands,
that is a small part of what there is to say.
"""


class InForce(Enum):
    """What decides about a client."""

    POLICY = "policy"
    HELD = "held"
    """A policy that can't be used: the client is told nothing, and keeps what it has."""
    REFUSE_ALL = "refuse-all"
    """There is no policy for it: every connection is refused."""


@dataclass(frozen=True, slots=True)
class Nack:
    """A response that the client refused, and why in its own words."""

    version: Version
    text: str
    at: float = field(default=0.0, compare=False)
    """When it came, on the caller's clock."""


class Watcher(Protocol):
    """Whoever has to know at once what clients do."""

    def joined(self, client: Client, *, is_returning: bool) -> None:
        """Learn of a new stream; `is_returning` tells whether the client has a configuration from an earlier one."""
        ...

    def moved(self, client: Client) -> None:
        """Learn that the workload behind a stream is another than before, in labels or the like; it is the new one."""
        ...

    def left(self, client: Client) -> None:
        """Learn that a stream ended."""
        ...

    def refused(self, client: Client, kind: ResourceType, nack: Nack) -> None:
        """Learn that a client refused a response."""
        ...

    def settled(self, client: Client) -> None:
        """Learn that a client is owed nothing at the moment."""
        ...


def _never(_: ResourceType, __: Snapshot) -> bool:
    return False


@dataclass(slots=True)
class Totals:
    """What was said to all clients of one variant about one type, since the start of the process."""

    responses: int = 0
    sent_bytes: int = 0
    acks: int = 0
    nacks: int = 0


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
    """The newest that is known."""
    since: float
    """When the stream was opened, on the caller's clock."""
    variant: str = ""
    """`sotw` or `delta`."""
    types: Mapping[ResourceType, TypeStatus] = field(default_factory=lambda: MappingProxyType({}))
    unknown_types: tuple[str, ...] = ()
    """Type URLs that it asked for and that are not served."""
    resources: Callable[[], tuple[ResourceStatus, ...]] = field(default=tuple, repr=False, compare=False)
    """Looks up where it stands with each resource, at the moment of the call."""
    is_in_step: Callable[[ResourceType, Snapshot], bool] = field(default=_never, repr=False, compare=False)
    """Tells whether it runs what a snapshot has for it of a type, at the moment of the call."""

    @property
    def is_rejecting(self) -> bool:
        """Whether its last answer for some type was a refusal."""
        return any(status.is_rejected for status in self.types.values())


_NO_STATUS = TypeStatus()


class Connection:
    """A stream's own line in the registry; `close` strikes it out."""

    def __init__(
        self,
        registry: dict[int, Client],
        key: int,
        types: dict[ResourceType, TypeStatus],
        totals: Callable[[ResourceType], Totals],
        watcher: Watcher | None = None,
    ) -> None:
        self._registry = registry
        self._key = key
        # The line in the registry shows this very mapping: to write the line anew for each answer costs more than all
        # the rest of an answer.
        self._types = types
        self._totals = totals
        self._watcher = watcher

    def note_sent(self, kind: ResourceType, version: Version, size: int = 0) -> None:
        """Note that a response of `size` bytes went out."""
        totals = self._totals(kind)
        totals.responses += 1
        totals.sent_bytes += size
        status = self._status(kind)
        self._types[kind] = TypeStatus(version, status.acked, status.nack, status.is_rejected)

    def note_ack(self, kind: ResourceType, version: Version) -> None:
        """Note that the client applied a response."""
        self._totals(kind).acks += 1
        status = self._status(kind)
        self._types[kind] = TypeStatus(status.sent, version, status.nack, is_rejected=False)

    def note_nack(self, kind: ResourceType, version: Version, text: str, at: float = 0.0) -> None:
        """Note that the client refused a response; `at` is the moment on the caller's clock."""
        self._totals(kind).nacks += 1
        nack = Nack(version, cut_redacted(text, MAX_NACK_TEXT), at)
        self._types[kind] = replace(self._status(kind), nack=nack, is_rejected=True)
        if self._watcher is not None:
            self._watcher.refused(self._registry[self._key], kind, nack)

    def note_settled(self) -> None:
        """Note that the client is owed nothing at the moment."""
        client = self._registry.get(self._key)
        if client is not None and self._watcher is not None:
            self._watcher.settled(client)

    def move(self, workload: Workload) -> None:
        """Note that the workload behind the stream is another than before; selectors may see it differently."""
        client = self._registry[self._key]
        self._registry[self._key] = client = replace(client, workload=workload)
        if self._watcher is not None:
            self._watcher.moved(client)

    def note_unknown_type(self, type_url: str) -> None:
        """Note that the client asked for a type that is not served."""
        client = self._registry[self._key]
        self._registry[self._key] = replace(client, unknown_types=(*client.unknown_types, type_url))

    def close(self) -> None:
        """Strike the client out."""
        client = self._registry.pop(self._key, None)
        if client is not None and self._watcher is not None:
            self._watcher.left(client)

    def _status(self, kind: ResourceType) -> TypeStatus:
        return self._types.get(kind, _NO_STATUS)


class Clients:
    """The registry. A node may have two streams for a moment, when it reconnects before the old one is found dead."""

    def __init__(self, watcher: Watcher | None = None) -> None:
        self._watcher = watcher
        self._clients: dict[int, Client] = {}
        self._last_key = 0
        self._totals: dict[tuple[str, ResourceType], Totals] = {}
        self._opened: dict[str, int] = {}
        self._refused: dict[str, int] = {}

    def connect(
        self,
        node_id: NodeId,
        workload: Workload,
        *,
        since: float,
        variant: str = "",
        resources: Callable[[], tuple[ResourceStatus, ...]] = tuple,
        is_in_step: Callable[[ResourceType, Snapshot], bool] = _never,
        is_returning: bool = False,
    ) -> Connection:
        """
        List a client; `since` is the moment on the caller's clock.

        `resources` and `is_in_step` look up where it stands; `is_returning` tells whether it has a configuration from
        an earlier stream.
        """
        self._last_key += 1
        types: dict[ResourceType, TypeStatus] = {}
        self._clients[self._last_key] = Client(
            node_id=node_id,
            workload=workload,
            since=since,
            variant=variant,
            types=MappingProxyType(types),
            resources=resources,
            is_in_step=is_in_step,
        )
        self._opened[variant] = self._opened.get(variant, 0) + 1
        if self._watcher is not None:
            self._watcher.joined(self._clients[self._last_key], is_returning=is_returning)
        return Connection(self._clients, self._last_key, types, partial(self._total, variant), self._watcher)

    def connected(self) -> tuple[Client, ...]:
        """Return everybody who is connected now, by node id, older streams first."""
        return tuple(
            replace(client, types=MappingProxyType(dict(client.types)))
            for _, client in sorted(self._clients.items(), key=_by_node)
        )

    def __iter__(self) -> Iterator[Client]:
        """Iterate over everybody who is connected, older streams first: as they are and not as they were, uncopied."""
        return iter(self._clients.values())

    @property
    def totals(self) -> Mapping[tuple[str, ResourceType], Totals]:
        """What was said so far, by variant and type; it outlives the streams."""
        return MappingProxyType(self._totals)

    @property
    def opened(self) -> Mapping[str, int]:
        """How many streams were opened so far, by variant."""
        return MappingProxyType(self._opened)

    @property
    def refused(self) -> Mapping[str, int]:
        """How many streams were refused so far, by gRPC status; those that were opened first are not among them."""
        return MappingProxyType(self._refused)

    def note_refused(self, status: str) -> None:
        """Count a stream that ended before it was known whose it is."""
        self._refused[status] = self._refused.get(status, 0) + 1

    def __len__(self) -> int:
        return len(self._clients)

    def _total(self, variant: str, kind: ResourceType) -> Totals:
        known = self._totals.get((variant, kind))
        if known is None:
            known = self._totals[variant, kind] = Totals()
        return known


def _by_node(item: tuple[int, Client]) -> tuple[str, int]:
    key, client = item
    return client.node_id, key
