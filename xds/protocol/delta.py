"""
Incremental xDS: requests change the subscription by name, responses carry only what differs.

Sources: xDS protocol (Envoy, api-docs/xds_protocol), quoted by its headings, and discovery.proto. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds.names import Version
from xds.protocol.subscription import WILDCARD, Content, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.protocol.subscription import Subscription
    from xds.resources import Resource
    from xds.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRequest(Request):
    """A `DeltaDiscoveryRequest` without its node."""

    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    """What the client has from an earlier stream. Only the first request of a type counts."""


class Delta:
    """The incremental reading of requests, and what it owes."""

    has_heartbeats = True

    def apply(self, subscription: Subscription, request: DeltaRequest) -> None:
        """
        Add and take away names.

        The nonce does not matter: "the server must honor changes to the subscription state even if the nonce
        is stale" ("Incremental xDS"). A name in both lists stays subscribed: a client that dropped and regained
        interest before it could say so means the last (discovery.proto, `resource_names_subscribe`).
        """
        added, dropped = set(request.subscribe), set(request.unsubscribe)
        is_first = not subscription.has_requested
        was_wildcard = subscription.is_wildcard
        is_wildcard = False
        if subscription.kind.allows_wildcard:
            # Legacy: "the request must have no resources in both" lists ("Incremental xDS"); it lasts until "*" is
            # unsubscribed, whatever is added to it.
            is_legacy = is_first and not added and not dropped
            is_wildcard = WILDCARD in added or is_legacy or (was_wildcard and WILDCARD not in dropped)
            asks_all = WILDCARD in added
            added.discard(WILDCARD)
            dropped.discard(WILDCARD)
            # "Subscribing to Resources": what is asked for again must be provided again.
            subscription.owes_all = subscription.owes_all or asks_all
        asked = added - set(request.initial_versions) if is_first else set(added)
        if is_wildcard:
            # "Unsubscribing from Resources": the client can't know whether its wildcard covers the name too.
            asked |= dropped & subscription.names
        subscription.follow((subscription.names - dropped) | added, is_wildcard=is_wildcard, asked=asked)
        if is_first:
            subscription.presume({name: Version(version) for name, version in request.initial_versions.items()})

    def compute(self, subscription: Subscription, snapshot: Snapshot, *, holds_removals: bool) -> Content | None:
        """Work out the next response; None if nothing is owed."""
        table = snapshot.of(subscription.kind)
        due = tuple(
            resource
            for resource in subscription.select(table).values()
            if subscription.owes_all or subscription.is_due(resource)
        )
        absent = _absent(subscription, table)
        gone = set() if holds_removals else _gone(subscription, table)
        # An Envoy finishes its start only after an answer for CDS and LDS, so a new wildcard gets one even if empty.
        if not (due or absent or gone or subscription.owes_all):
            return None
        again = {name for name in subscription.exchange.refused_removals if subscription.tracks(name)} - table.keys()
        return Content(snapshot.versions[subscription.kind], due, tuple(sorted(absent | gone | again)))


def _absent(subscription: Subscription, table: Mapping[str, Resource]) -> set[str]:
    """Names to be answered with "there is none" ("Knowing When a Requested Resource Does Not Exist")."""
    asked = (name for name in subscription.owed if subscription.tracks(name))
    untold = (name for name in subscription.names if name not in subscription.sent)
    return {name for name in (*asked, *untold) if name not in table}


def _gone(subscription: Subscription, table: Mapping[str, Resource]) -> set[str]:
    """Names that the client has and must drop ("Deleting Resources")."""
    return {name for name, version in subscription.sent.items() if version is not None and name not in table}
