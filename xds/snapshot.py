"""
A snapshot: every resource of one effective policy at one moment, immutable and closed.

Closed means that each name a resource refers to is defined in the same snapshot; the constructor
enforces it, because an Envoy that waits for a resource nobody will send warms for ever. A snapshot
knows neither policies nor streams; `diff_resources` says what changed between two versions of a type.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds.resources import RESOURCE_TYPES, Resource, ResourceType, hash_version

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from xds.names import Version


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    Resources by type and name. Build it with `build_snapshot`.

    `versions` holds, per type, the hash over the sorted names and versions of its resources.
    """

    resources: Mapping[ResourceType, Mapping[str, Resource]]
    versions: Mapping[ResourceType, Version]

    def of(self, kind: ResourceType) -> Mapping[str, Resource]:
        """Return the resources of one type by name."""
        return self.resources[kind]

    @property
    def version(self) -> Version:
        """The version of the whole: equal snapshots have equal versions."""
        return hash_version(*(self.versions[kind].encode() for kind in ResourceType))


@dataclass(frozen=True, slots=True)
class Diff:
    """What separates what a client has from what it should have, names sorted."""

    changed: tuple[Resource, ...]
    removed: tuple[str, ...]


def build_snapshot(resources: Iterable[Resource]) -> Snapshot:
    """
    Collect `resources` into a closed snapshot.

    A name defined twice, or a reference to nothing, is a bug in the caller: AssertionError.
    """
    tables: dict[ResourceType, dict[str, Resource]] = {kind: {} for kind in ResourceType}
    for resource in sorted(resources, key=lambda item: item.name):
        table = tables[resource.kind]
        assert resource.name not in table, f"{resource.kind.name} {resource.name} is defined twice"
        table[resource.name] = resource
    _assert_closed(tables)
    return Snapshot(
        resources=MappingProxyType({kind: MappingProxyType(table) for kind, table in tables.items()}),
        versions=MappingProxyType({kind: _type_version(table) for kind, table in tables.items()}),
    )


def drop_resources(snapshot: Snapshot, kind: ResourceType, names: Collection[str]) -> Snapshot:
    """
    Return `snapshot` without these resources; all others, and the versions of their types, are the very same.

    What is left may not refer to them: AssertionError. What only they referred to stays.
    """
    table = {name: resource for name, resource in snapshot.of(kind).items() if name not in names}
    assert not any(
        reference.name in names and RESOURCE_TYPES[reference.kind] is kind
        for left in (*snapshot.resources.values(), table)
        for resource in left.values()
        if resource.name not in names
        for reference in resource.references
    ), f"{kind.name} of {', '.join(names)} is referred to"
    return Snapshot(
        resources=MappingProxyType({**snapshot.resources, kind: MappingProxyType(table)}),
        versions=MappingProxyType({**snapshot.versions, kind: _type_version(table)}),
    )


def diff_resources(have: Mapping[str, Version], want: Mapping[str, Resource]) -> Diff:
    """Compare the versions that a client has with the resources that it should have."""
    changed = tuple(want[name] for name in sorted(want) if have.get(name) != want[name].version)
    removed = tuple(sorted(name for name in have if name not in want))
    return Diff(changed, removed)


def _type_version(table: Mapping[str, Resource]) -> Version:
    return hash_version(*(f"{name}={table[name].version}".encode() for name in sorted(table)))


def _assert_closed(tables: Mapping[ResourceType, Mapping[str, Resource]]) -> None:
    for table in tables.values():
        for resource in table.values():
            for reference in resource.references:
                assert reference.name in tables[RESOURCE_TYPES[reference.kind]], (
                    f"{resource.kind.name} {resource.name} refers to {reference.name}, which is not there"
                )
