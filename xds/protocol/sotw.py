"""
State of the world: every request carries the whole subscription, CDS and LDS responses the whole state.

Sources: xDS protocol (Envoy, api-docs/xds_protocol), quoted by its headings, and discovery.proto. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.names import Version
from xds.protocol.subscription import WILDCARD, Content, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.protocol.subscription import Subscription
    from xds.resources import Resource
    from xds.snapshot import Snapshot

INEXACT_SUFFIX = "~"
"""
Ends the version of a CDS or LDS state that is not the snapshot's: part of it, or with removals held back. So a client
that comes back with a version without it has the snapshot's state.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SotwRequest(Request):
    """A `DiscoveryRequest` without its node."""

    names: tuple[str, ...] = ()
    version: str = ""
    """Version that the client runs; on a new stream, from the stream before."""


class Sotw:
    """The SotW reading of requests, and what it owes."""

    has_heartbeats = False
    """
    The specification has them ("SotW TTL"), but Envoy 1.40 leaves heartbeats out of a response and then takes the rest,
    which is nothing, for the state of the world: it drops every cluster and listener.
    """

    def apply(self, subscription: Subscription, request: SotwRequest) -> None:
        """
        Take over the request's list of names.

        A request with a stale nonce is not read at all: the client will repeat its whole list when it answers
        the newer response ("Resource updates").
        """
        if subscription.exchange.is_stale(request.nonce):
            return
        allows_wildcard = subscription.kind.allows_wildcard
        names = set(request.names)
        subscription.has_named = subscription.has_named or bool(names)
        # "How the client specifies what resources to return": "*" is a wildcard for LDS and CDS; so is an empty
        # list as long as no name was ever given. For other types an empty list asks for nothing.
        is_wildcard = allows_wildcard and (WILDCARD in names or not subscription.has_named)
        if allows_wildcard:
            names.discard(WILDCARD)
        subscription.follow(names, is_wildcard=is_wildcard, asked=names - subscription.names)
        # "ACK/NACK and resource type instance version": on a new stream the client says what it has from the one
        # before. Leaving it unrepeated is safe only where the wildcard is the only subscription. In any other case
        # it needs the full state, even an empty one: what is gone shows only by its absence ("Deleting Resources").
        has_older = allows_wildcard and subscription.exchange.last is None and bool(request.version)
        may_claim = has_older and is_wildcard and not names
        subscription.claimed = Version(request.version) if may_claim else None
        subscription.owes_all = subscription.owes_all or (has_older and not may_claim)

    def compute(self, subscription: Subscription, snapshot: Snapshot, *, holds_removals: bool) -> Content | None:
        """Work out the next response; None if nothing is owed."""
        table = snapshot.of(subscription.kind)
        version = snapshot.versions[subscription.kind]
        _settle_claim(subscription, table, version)
        wanted = subscription.select(table)
        due = tuple(resource for resource in wanted.values() if subscription.is_due(resource))
        if subscription.kind.allows_wildcard:
            if not _owes_state(subscription, wanted, is_due=bool(due), holds_removals=holds_removals):
                return None
            return _full_state(subscription, table, version, holds_removals=holds_removals)
        # Its parent may go and come back with it; the client then warms until it is told again, though it is unchanged.
        subscription.forget_absent(table)
        # "Grouping Resources into Responses": other types may be sent one by one. A name that does not exist is
        # met with silence ("Knowing When a Requested Resource Does Not Exist"); so is a removal ("Deleting
        # Resources": the client learns it from the parent).
        return Content(version, due) if due else None


def _settle_claim(subscription: Subscription, table: Mapping[str, Resource], version: Version) -> None:
    claimed, subscription.claimed = subscription.claimed, None
    if claimed == version:
        subscription.mark_sent(table.values(), ())
        subscription.full = table


def _owes_state(
    subscription: Subscription, wanted: Mapping[str, Resource], *, is_due: bool, holds_removals: bool
) -> bool:
    # An Envoy finishes its start only after an answer for CDS and LDS, so a wildcard gets one even if empty.
    is_gone = not holds_removals and any(name not in wanted for name in subscription.full)
    return is_due or is_gone or subscription.owes_all


def _full_state(
    subscription: Subscription, table: Mapping[str, Resource], version: Version, *, holds_removals: bool
) -> Content:
    """CDS and LDS: "the server must include the complete state of the world" ("Grouping Resources …")."""
    wanted = subscription.select(table)
    gone = {name: resource for name, resource in subscription.full.items() if name not in wanted}
    state = dict(sorted({**gone, **wanted}.items())) if holds_removals else dict(wanted)
    subscription.full = state
    return Content(
        version=version if state.keys() == table.keys() else Version(version + INEXACT_SUFFIX),
        resources=tuple(state.values()),
        removed=() if holds_removals else tuple(gone),
    )
