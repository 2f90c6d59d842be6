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

HELD_SUFFIX = "+held"
"""Ends the version of a full state that still repeats resources whose removal is held back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SotwRequest(Request):
    """A `DiscoveryRequest` without its node."""

    names: tuple[str, ...] = ()
    version: str = ""
    """Version that the client runs; on a new stream, from the stream before."""


class Sotw:
    """The SotW reading of requests, and what it owes."""

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
        # "ACK/NACK and resource type instance version": on a new stream the client says what it has; leaving it
        # unrepeated is safe only where the wildcard is the only subscription.
        claims = is_wildcard and not names and subscription.exchange.last is None
        subscription.claimed = Version(request.version) if claims and request.version else None
        subscription.follow(names, is_wildcard=is_wildcard, asked=names - subscription.names)

    def compute(self, subscription: Subscription, snapshot: Snapshot, *, holds_removals: bool) -> Content | None:
        """Work out the next response; None if nothing is owed."""
        table = snapshot.of(subscription.kind)
        version = snapshot.versions[subscription.kind]
        _settle_claim(subscription, table, version)
        wanted = subscription.select(table)
        due = tuple(resource for resource in wanted.values() if subscription.is_due(resource))
        if subscription.kind.allows_wildcard:
            return _full_state(subscription, wanted, version, is_due=bool(due), holds_removals=holds_removals)
        # "Grouping Resources into Responses": other types may be sent one by one. A name that does not exist is
        # met with silence ("Knowing When a Requested Resource Does Not Exist"); so is a removal ("Deleting
        # Resources": the client learns it from the parent).
        return Content(version, due) if due else None


def _settle_claim(subscription: Subscription, table: Mapping[str, Resource], version: Version) -> None:
    claimed, subscription.claimed = subscription.claimed, None
    if claimed == version:
        subscription.mark_sent(table.values(), ())
        subscription.full = dict(table)


def _full_state(
    subscription: Subscription,
    wanted: Mapping[str, Resource],
    version: Version,
    *,
    is_due: bool,
    holds_removals: bool,
) -> Content | None:
    """CDS and LDS: "the server must include the complete state of the world" ("Grouping Resources …")."""
    gone = sorted(name for name in subscription.full if name not in wanted)
    if not (is_due or subscription.owes_all or (gone and not holds_removals)):
        return None
    held = {name: subscription.full[name] for name in gone} if holds_removals else {}
    state = dict(sorted({**held, **wanted}.items()))
    subscription.full = state
    if held:
        return Content(Version(version + HELD_SUFFIX), tuple(state.values()))
    return Content(version, tuple(state.values()), tuple(gone))
