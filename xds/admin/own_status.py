"""
What client status has no field for, as metadata of a node: see `xds.clients.OWN_METADATA`.

Nearly all sidecars stand alike, and to build the metadata is most of the work of an answer: it is built once for all
that stand alike. Invariants: it stays small, whatever a client says, and no login is in it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from google.protobuf.struct_pb2 import Struct

from xds.clients import OWN_METADATA, InForce, TypeStatus
from xds.policy.model import HeldPolicy, Mode, Policy
from xds.render.said import redact_said
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.cache import SnapshotCache
    from xds.clients import Client
    from xds.policy.model import Workload
    from xds.snapshot import Snapshot

    Told = Mapping[str, str | float | bool | "Told"]

_MAX_TEXT = 1_000
"""Characters of a refusal; the whole of it is said of each resource."""
_ALIKE = 1_024
_PORT = "explicit.port"
"""The key of a policy that a pod in explicit mode can't be served without."""
_NO_STATUS = TypeStatus()


class OwnStatus:
    """Describes nodes in the words of this server, `replica`."""

    def __init__(self, cache: SnapshotCache, replica: str) -> None:
        self._cache = cache
        self._replica = replica

    def describe(self, metadata: Struct, streams: Sequence[Client], resources: Mapping[ResourceType, int]) -> None:
        """Add to `metadata` where the node of these `streams` stands, which has so many `resources` of each type."""
        newest = streams[-1]
        snapshot = self._cache.snapshot_for(newest.workload)
        speakers = {kind: client for client in streams for kind in client.types}
        types = tuple(
            (kind, status, resources.get(kind, 0), _is_current(kind, status, streams, snapshot))
            for kind in ResourceType
            if kind in resources or kind in speakers
            for status in (_status(kind, speakers.get(kind, newest), snapshot),)
        )
        own = metadata.fields[OWN_METADATA].struct_value
        own.CopyFrom(_build(self._replica, self._in_force(newest.workload), newest.variant, types))
        own.fields["since"].number_value = newest.since
        if self._lacks_port(newest.workload):
            own.fields["lacks"].string_value = _PORT
        for kind, status, *_ in types:
            if status.is_rejected and status.nack is not None:
                told = own.fields["types"].struct_value.fields[kind.name.lower()].struct_value
                told.fields["rejected"].struct_value.fields["at"].number_value = status.nack.at

    def _lacks_port(self, workload: Workload) -> bool:
        """Whether applications are told of a port that the policy does not have."""
        if workload.mode is not Mode.EXPLICIT:
            return False
        policy = self._cache.policy_for(workload)
        return isinstance(policy, Policy) and policy.explicit_port is None

    def _in_force(self, workload: Workload) -> tuple[InForce, str]:
        match self._cache.policy_for(workload):
            case None:
                return InForce.REFUSE_ALL, ""
            case HeldPolicy() as policy:
                return InForce.HELD, _name(policy)
            case policy:
                return InForce.POLICY, _name(policy)


def _status(kind: ResourceType, client: Client, snapshot: Snapshot | None) -> TypeStatus:
    """Return where a client stands; one that came with all that is served needs nothing sent, and has that version."""
    status = client.types.get(kind, _NO_STATUS)
    if status.sent is not None or status.is_rejected or snapshot is None or not client.is_in_step(kind, snapshot):
        return status
    version = snapshot.versions[kind]
    return replace(status, sent=version, acked=version)


def _is_current(kind: ResourceType, status: TypeStatus, streams: Iterable[Client], snapshot: Snapshot | None) -> bool:
    """Tell whether a node runs what it is to run of a type; what it is not told about is not missing."""
    if status.is_rejected:
        return False
    return status.is_current if snapshot is None else any(client.is_in_step(kind, snapshot) for client in streams)


@lru_cache(_ALIKE)
def _build(
    replica: str,
    in_force: tuple[InForce, str],
    variant: str,
    types: tuple[tuple[ResourceType, TypeStatus, int, bool], ...],
) -> Struct:
    """Build what stands alike share; whoever takes it copies it."""
    standing, policy = in_force
    struct = Struct()
    struct.update({"replica": replica, "standing": standing.value, "variant": variant})
    if policy:
        struct.update({"policy": policy})
    told = {
        kind.name.lower(): _tell(status, resources, is_current=is_current)
        for kind, status, resources, is_current in types
    }
    struct.update({"types": told})
    return struct


def _tell(status: TypeStatus, resources: int, *, is_current: bool) -> Told:
    found: dict[str, str | float | bool | Told] = {"current": is_current, "resources": resources}
    if status.sent is not None:
        found["sent"] = status.sent
    if status.acked is not None:
        found["acknowledged"] = status.acked
    if status.is_rejected and status.nack is not None:
        text = redact_said(status.nack.text)[:_MAX_TEXT]
        # The moment is each sidecar's own.
        found["rejected"] = {"version": status.nack.version, "text": text}
    return found


def _name(policy: Policy | HeldPolicy) -> str:
    return policy.name if policy.namespace is None else f"{policy.namespace}/{policy.name}"
