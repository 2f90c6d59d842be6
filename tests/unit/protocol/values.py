"""Small values for tests of rooms 2 and 4: resources whose content is one word, and snapshots of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.resources import Reference, Resource, ResourceType, build_resource
from xds.snapshot import Snapshot, build_snapshot

if TYPE_CHECKING:
    from xds.protocol.stream import Response

CDS = ResourceType.CLUSTER
EDS = ResourceType.ENDPOINT
LDS = ResourceType.LISTENER
RDS = ResourceType.ROUTE
SDS = ResourceType.SECRET


@dataclass(frozen=True)
class Word:
    """A stand-in for a typed message: what it serialises to names the resource and its content."""

    name: str
    content: str

    def __bytes__(self) -> bytes:
        return f"{self.name}={self.content}".encode()


def resource(kind: ResourceType, name: str, content: str = "1", *, endpoint: str | None = None) -> Resource:
    """Build a resource; `endpoint` makes a cluster refer to an endpoint resource."""
    references = () if endpoint is None else (Reference(EDS.type_url, endpoint),)
    return build_resource(kind, name, Word(name, content), references)


def snapshot(*resources: Resource) -> Snapshot:
    """Build a snapshot of `resources`."""
    return build_snapshot(resources)


def told(response: Response | None) -> tuple[str, ...] | None:
    """Summarise a response: `type`, then `name=content` per resource, `-name` per removal, `+name` per heartbeat."""
    if response is None:
        return None
    return (
        response.kind.name.lower(),
        *(resource.body.decode() for resource in response.resources),
        *(f"-{name}" for name in response.removed),
        *(f"+{name}" for name, _ in response.renewed),
    )
