"""
What a stream's state says about its client: where it stands with each resource, and with a whole snapshot.

For status pages and for whoever waits until a client runs what it was sent. Nothing here changes a state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.protocol.delta import DeltaRequest
from xds.protocol.sotw import SotwRequest
from xds.resources import ResourceStatus, ResourceType, Standing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.protocol.stream import RequestT, Stream
    from xds.protocol.subscription import Request, Subscription
    from xds.snapshot import Snapshot


def report_resources(stream: Stream[RequestT]) -> tuple[ResourceStatus, ...]:
    """Return every resource that the client subscribes to or was sent, by type and name."""
    return tuple(
        status for subscription in stream.subscriptions.values() for status in _report_subscription(subscription)
    )


def is_in_step(stream: Stream[RequestT], kind: ResourceType, snapshot: Snapshot) -> bool:
    """
    Tell whether the client runs what `snapshot` has for it of `kind`.

    It must have been sent exactly that, and have answered without refusing any of it. Every client asks for clusters
    and listeners sooner or later; of another type that it never asked for, it wants nothing.
    """
    subscription = stream.subscriptions[kind]
    if not subscription.has_requested:
        return not kind.allows_wildcard
    table = snapshot.of(kind)
    wanted = subscription.select(table)
    return (
        subscription.is_settled(table)
        and all(subscription.sent.get(name) == resource.version for name, resource in wanted.items())
        and not any(version is not None and name not in table for name, version in subscription.sent.items())
    )


def is_returning(request: Request) -> bool:
    """Tell whether the first request of a stream says that the client has resources from an earlier one."""
    match request:
        case DeltaRequest(initial_versions=versions):
            return bool(versions)
        case SotwRequest(version=version):
            return bool(version)
        case _:
            return False


def _report_subscription(subscription: Subscription) -> Iterable[ResourceStatus]:
    pending = subscription.exchange.pending
    for name in sorted(subscription.names | subscription.sent.keys()):
        version = subscription.sent.get(name)
        yield ResourceStatus(subscription.kind, name, _standing(subscription, name, pending), version)


def _standing(subscription: Subscription, name: str, pending: frozenset[str]) -> Standing:
    if name not in subscription.sent:
        return Standing.ASKED
    version = subscription.sent[name]
    if version is None:
        return Standing.ABSENT
    if subscription.exchange.refused.get(name) == version:
        return Standing.REFUSED
    return Standing.SENT if name in pending else Standing.APPLIED
