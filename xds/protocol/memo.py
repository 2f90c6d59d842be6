"""
What streams in the same state are owed, worked out once for all of them.

Most clients subscribe to everything, and were sent the same before: for them the next response depends on the snapshot
alone. Such streams hold one `Shared` state together, and the memo knows what follows from it: the content, and the
state after. So a change costs work and memory per policy, not per stream. Every other stream is worked out by itself,
and joins the others as soon as it has what they have. No I/O, no clock.

Invariant: with the memo a stream is told exactly what it would be told without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import WeakValueDictionary

from xds.protocol.subscription import LASTING_SUFFIX, Content, Shared
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.names import Version
    from xds.protocol.subscription import Subscription
    from xds.resources import Resource
    from xds.snapshot import Snapshot


class _Key(NamedTuple):
    before: Shared
    kind: ResourceType
    version: Version
    owes_all: bool
    holds_removals: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stream is owed. `content` None: nothing."""

    content: Content | None
    endpoints: frozenset[str] = frozenset()
    """Endpoints of clusters that the client is about to build anew."""
    is_shared: bool = False
    """Whether other streams are told the very same."""


_NOTHING = Outcome(None)


class Compute(Protocol):
    """How a variant works out what one stream is owed."""

    def compute(self, subscription: Subscription, snapshot: Snapshot, *, holds_removals: bool) -> Content | None:
        """Work out the next response; None if nothing is owed."""


class Memo:
    """
    The outcomes of one variant, for all its streams.

    `forget` when the world changes: what followed from an older snapshot is asked for no more.
    """

    def __init__(self, variant: Compute) -> None:
        self._variant = variant
        self._outcomes: dict[_Key, tuple[Outcome, Shared]] = {}
        # By identity of what is held, which the value keeps alive: to compare it costs more than to write it.
        self._renewals: dict[int, tuple[Mapping[str, Version | None], Content]] = {}
        self._states: WeakValueDictionary[tuple[ResourceType, Version], Shared] = WeakValueDictionary()

    def forget(self) -> None:
        """Drop all outcomes. States live as long as a stream has them."""
        self._outcomes.clear()
        self._renewals.clear()

    def respond(self, subscription: Subscription, snapshot: Snapshot, *, holds_removals: bool) -> Outcome:
        """Work out what the client is owed, and count it as sent."""
        if not subscription.has_requested:
            return _NOTHING
        version = snapshot.versions[subscription.kind]
        key = None
        if subscription.shared is not None and subscription.is_plain:
            key = _Key(subscription.shared, subscription.kind, version, subscription.owes_all, holds_removals)
            found = self._outcomes.get(key)
            if found is not None:
                outcome, after = found
                if outcome.content is not None:
                    subscription.adopt(after)
                    subscription.owes_all = False
                return outcome
        content = self._variant.compute(subscription, snapshot, holds_removals=holds_removals)
        endpoints = frozenset[str]() if content is None else _endpoints(subscription, content)
        if content is not None:
            subscription.mark_sent(content.resources, content.removed)
        self._share(subscription, snapshot.of(subscription.kind), version, is_known=key is not None)
        outcome = Outcome(content, endpoints, is_shared=key is not None)
        if key is not None and subscription.shared is not None:
            self._outcomes[key] = outcome, subscription.shared
        return outcome

    def renew(self, subscription: Subscription, version: Version) -> Outcome:
        """Work out a heartbeat for all that the client has; `version` is the type's. Nothing is new afterwards."""
        exchange, shared = subscription.exchange, subscription.shared
        if exchange.held is not subscription.sent and exchange.held == subscription.sent:
            exchange.held = subscription.sent  # so that streams in the same state hold the same
        held = exchange.held
        is_shared = shared is not None and shared.sent is held
        _, content = self._renewals.get(id(held), (held, None))
        if content is None or content.version != version:
            lives = ((name, has) for name, has in held.items() if has and not has.endswith(LASTING_SUFFIX))
            content = Content(version, (), renewed=tuple(sorted(lives)))
            if is_shared:
                self._renewals[id(held)] = held, content
        return Outcome(content, is_shared=is_shared) if content.renewed else _NOTHING

    def _share(
        self, subscription: Subscription, table: Mapping[str, Resource], version: Version, *, is_known: bool
    ) -> None:
        """Let the subscription hold its state together with others, if there are or will be others."""
        if subscription.shared is not None or not subscription.is_wildcard or subscription.names:
            return
        sent, full = subscription.sent, subscription.full
        if len(sent) == len(table) and all(sent.get(name) == item.version for name, item in table.items()):
            common = self._states.setdefault((subscription.kind, version), Shared(sent, full, version))
            if common.full.keys() == full.keys():
                subscription.adopt(common)
                return
        if is_known:
            subscription.adopt(Shared(sent, full))


def _endpoints(subscription: Subscription, content: Content) -> frozenset[str]:
    """
    Names of the endpoints of clusters that the client is about to build anew: those that were not sent as they are.

    Clusters that a SotW response merely repeats are none of them.
    """
    return frozenset(
        reference.name
        for resource in content.resources
        if resource.references and (subscription.owes_all or subscription.is_due(resource))
        for reference in resource.references
        if reference.kind == ResourceType.ENDPOINT.type_url
    )
