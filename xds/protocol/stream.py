"""
One ADS stream: all its types, the order of its responses and their nonces. No I/O, no clock.

`receive` takes one request in: it records the (N)ACK, then applies the subscription. `next_response` says
what is owed for the newest snapshot, one response at a time, and counts it as sent; so a slow client is
never sent anything but the newest. An edge drives the two and owns the connection.

Invariant: a response answers a subscription and differs from what the client was sent, or was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from xds.names import Nonce, TypeUrl, Version
from xds.protocol.memo import Memo
from xds.protocol.subscription import Acked, Content, Lapsed, Nacked, Request, Subscription
from xds.resources import RESOURCE_TYPES, Resource, ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.protocol.memo import Outcome
    from xds.snapshot import Snapshot

RequestT = TypeVar("RequestT", bound=Request)
RequestT_contra = TypeVar("RequestT_contra", bound=Request, contravariant=True)

REFERRERS: Mapping[ResourceType, tuple[ResourceType, ...]] = MappingProxyType(
    {
        ResourceType.LISTENER: (),
        ResourceType.ROUTE: (ResourceType.LISTENER,),
        ResourceType.CLUSTER: (ResourceType.LISTENER, ResourceType.ROUTE),
        ResourceType.SECRET: (ResourceType.LISTENER, ResourceType.ROUTE, ResourceType.CLUSTER),
        ResourceType.ENDPOINT: (ResourceType.LISTENER, ResourceType.ROUTE, ResourceType.CLUSTER),
    }
)
"""
Who may refer to a type, itself or through another, in the order in which removals go: no type comes before one of
its referrers. Removals wait until the client runs what it was sent of these: make before break (xDS protocol,
"Eventual consistency considerations"), and a client that refused a new listener still runs the old one, which
needs its old clusters.
"""

_NO_TYPES: frozenset[ResourceType] = frozenset()
_NO_VERSION = Version("")

_MAX_UNKNOWN_TYPES = 16
_MAX_UNKNOWN_TYPE = 256
"""Characters kept of one: a client decides how long it is."""


@dataclass(frozen=True, slots=True)
class UnknownType:
    """The client asked for a type that is not served. It gets no answer."""

    type_url: str


Event = Acked | Nacked | Lapsed | UnknownType


@dataclass(frozen=True, slots=True)
class Response:
    """One response, SotW or delta; `removed` is never encoded for SotW."""

    kind: ResourceType
    nonce: Nonce
    version: Version
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    renewed: tuple[tuple[str, Version], ...] = ()
    """Names and versions of a heartbeat, which says nothing else."""
    shared: Content | None = field(default=None, compare=False, repr=False)
    """What other streams are told too, told apart by identity: all but the nonce can be encoded once for all."""


class Variant(Protocol[RequestT_contra]):
    """What distinguishes SotW from delta: how a request is read, and what is owed."""

    has_heartbeats: bool
    """Whether clients take a heartbeat for one."""

    def apply(self, subscription: Subscription, request: RequestT_contra) -> None:
        """Change the subscription as the request says."""

    def compute(self, subscription: Subscription, snapshot: Snapshot, *, holds_removals: bool) -> Content | None:
        """Work out the next response, with or without removals; None if nothing is owed."""


class Stream(Generic[RequestT]):
    """The state of one ADS stream."""

    def __init__(self, variant: Variant[RequestT], memo: Memo | None = None) -> None:
        """Begin a stream; streams of one variant may share a `memo`."""
        self._variant = variant
        self._memo = Memo(variant) if memo is None else memo
        self._subscriptions = {kind: Subscription(kind) for kind in ResourceType}
        self._unknown: set[str] = set()
        self._responses = 0
        self._to_renew = _NO_TYPES
        self._awaits_listeners = False

    def receive(self, request: RequestT) -> Event | None:
        """
        Take one request in and return what it told: an ACK, a NACK, a loss, a type that is not served, or nothing new.

        "Any DeltaDiscoveryRequest can be either or both" an answer and a change of subscription
        (discovery.proto); so can a SotW request ("Resource updates"). Hence always both steps.
        """
        kind = RESOURCE_TYPES.get(TypeUrl(request.type_url))
        if kind is None:
            return self._note_unknown(request.type_url)
        subscription = self._subscriptions[kind]
        event = subscription.exchange.record(request.nonce, request.error)
        if isinstance(event, Lapsed):
            subscription.lapse(event.names)
        self._variant.apply(subscription, request)
        return event

    def await_listeners(self, *, awaits: bool = True) -> None:
        """
        Hold removals back until the client has asked for listeners, or this is called again with False.

        A client that comes back with a configuration asks for one type after the other, clusters first. Until it
        has asked for the rest, nobody knows what of it still refers to a cluster that is gone.
        """
        self._awaits_listeners = awaits

    def renew(self) -> None:
        """
        Owe the client a heartbeat for all that it has (xDS protocol, "TTL"), at the next opportunity.

        Whoever gives resources a time to live calls this well before it ends, and when a client comes back with some.
        """
        if self._variant.has_heartbeats:
            held = (kind for kind, subscription in self._subscriptions.items() if subscription.exchange.held)
            self._to_renew = frozenset(held)

    def next_response(self, snapshot: Snapshot | None) -> Response | None:
        """
        Return the next response that the client is owed, counted as sent; None if it is up to date.

        Without a snapshot nothing new is said: subscriptions wait. Additions go in the order of `ResourceType`,
        then removals in that of `REFERRERS`, each as soon as nothing that the client runs can refer to it;
        then heartbeats.
        """
        response = None if snapshot is None else self._next_change(snapshot)
        return self._next_heartbeat(snapshot) if response is None and self._to_renew else response

    def _next_change(self, snapshot: Snapshot) -> Response | None:
        behind = {
            kind
            for kind, subscription in self._subscriptions.items()
            if not subscription.is_current(snapshot.versions[kind])
        }
        if not behind:
            return None
        for kind in ResourceType:
            response = self._respond(kind, snapshot, holds_removals=bool(REFERRERS[kind])) if kind in behind else None
            if response is not None:
                return response
        if self._awaits_listeners and not self._subscriptions[ResourceType.LISTENER].has_requested:
            return None
        for kind, referrers in REFERRERS.items():
            if kind in behind and self._are_settled(referrers, snapshot):
                response = self._respond(kind, snapshot, holds_removals=False)
                if response is not None:
                    return response
        return None

    @property
    def names(self) -> int:
        """How many names are subscribed to one by one: what an edge bounds, since the client alone decides it."""
        return sum(len(subscription.names) for subscription in self._subscriptions.values())

    @property
    def subscriptions(self) -> Mapping[ResourceType, Subscription]:
        """The state of each type, for those who report it; they must not change it."""
        return self._subscriptions

    def _respond(self, kind: ResourceType, snapshot: Snapshot, *, holds_removals: bool) -> Response | None:
        subscription = self._subscriptions[kind]
        outcome = self._memo.respond(subscription, snapshot, holds_removals=holds_removals)
        content = outcome.content
        if content is None:
            return None
        if kind is ResourceType.CLUSTER:
            # "Warming of Cluster is completed only when a new ClusterLoadAssignment response is supplied … even though
            # there is no change in endpoints" (xDS protocol, "Resource warming"; istio#38709). Only for subscribed
            # names does this have an effect.
            self._subscriptions[ResourceType.ENDPOINT].owed.update(outcome.endpoints)
        return self._open(subscription, content, outcome)

    def _next_heartbeat(self, snapshot: Snapshot | None) -> Response | None:
        """
        Return the next heartbeat.

        A type with a response in the air waits for the answer: only then is it known what the client has, and it
        refuses a heartbeat that names anything else.
        """
        for kind in ResourceType:
            subscription = self._subscriptions[kind]
            if kind not in self._to_renew or not subscription.exchange.is_answered:
                continue
            self._to_renew -= {kind}
            current = _NO_VERSION if snapshot is None else snapshot.versions[kind]
            outcome = self._memo.renew(subscription, subscription.exchange.acked or current)
            if outcome.content is not None:
                return self._open(subscription, outcome.content, outcome)
        return None

    def _open(self, subscription: Subscription, content: Content, outcome: Outcome) -> Response:
        self._responses += 1
        nonce = Nonce(str(self._responses))
        subscription.exchange.open(nonce, content, subscription.sent)
        return Response(
            subscription.kind,
            nonce,
            content.version,
            content.resources,
            content.removed,
            content.renewed,
            content if outcome.is_shared else None,
        )

    def _are_settled(self, kinds: Iterable[ResourceType], snapshot: Snapshot) -> bool:
        return all(self._subscriptions[kind].is_settled(snapshot.of(kind)) for kind in kinds)

    def _note_unknown(self, type_url: str) -> UnknownType | None:
        type_url = type_url[:_MAX_UNKNOWN_TYPE]
        if type_url in self._unknown or len(self._unknown) >= _MAX_UNKNOWN_TYPES:
            return None
        self._unknown.add(type_url)
        return UnknownType(type_url)
