"""
One xDS resource as the server keeps it: bytes that were serialised once, and their hash.

`build_resource` turns a typed Envoy message into a `Resource`. Versions are hashes of deterministic
bytes, so equal content has an equal version on every replica and after every restart. Nothing here
knows policies or streams, and nothing decodes a resource again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from xds.names import TypeUrl, Version

if TYPE_CHECKING:
    from collections.abc import Iterable


class ResourceType(Enum):
    """
    The resource types that are served, in the order in which an ADS stream must push additions.

    The order is make before break (xDS protocol, "Eventual consistency considerations"): CDS and EDS
    before the LDS and RDS that refer to them, secrets last; removals go in reverse.
    """

    CLUSTER = TypeUrl("type.googleapis.com/envoy.config.cluster.v3.Cluster")
    ENDPOINT = TypeUrl("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment")
    LISTENER = TypeUrl("type.googleapis.com/envoy.config.listener.v3.Listener")
    ROUTE = TypeUrl("type.googleapis.com/envoy.config.route.v3.RouteConfiguration")
    SECRET = TypeUrl("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret")

    # Members are equal if they are the same one. Enum's own hash runs in Python, and these are keys on every hot path.
    __hash__ = object.__hash__

    @property
    def type_url(self) -> TypeUrl:
        """The type URL, for readers who would wonder about `.value`."""
        return self.value

    @property
    def allows_wildcard(self) -> bool:
        """Whether an empty first subscription means "everything" (only LDS and CDS)."""
        return self in (ResourceType.CLUSTER, ResourceType.LISTENER)


RESOURCE_TYPES: dict[TypeUrl, ResourceType] = {kind.type_url: kind for kind in ResourceType}


class Message(Protocol):
    """What `build_resource` needs of a typed message: betterproto2's `bytes(message)`."""

    def __bytes__(self) -> bytes: ...


class Standing(Enum):
    """How far a client has come with one resource that it subscribes to."""

    ASKED = "asked"
    """It was sent nothing under this name yet."""
    SENT = "sent"
    """It has not answered yet."""
    APPLIED = "applied"
    REFUSED = "refused"
    ABSENT = "absent"
    """It was told that there is none."""


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """One resource from a client's point of view; `version` is the last one that it was sent."""

    kind: ResourceType
    name: str
    standing: Standing
    version: Version | None = None


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A name that one resource uses and another must define, e.g. a route's cluster."""

    kind: TypeUrl
    name: str


@dataclass(frozen=True, slots=True)
class Resource:
    """
    An immutable resource.

    `body` is the serialised resource message itself; `any_body` the serialised `google.protobuf.Any`
    around it, which is what goes on the wire.
    """

    kind: ResourceType
    name: str
    version: Version
    body: bytes = field(repr=False)
    any_body: bytes = field(repr=False)
    references: tuple[Reference, ...] = ()


_CONTINUES = 0x80
"""The bit that says that another byte of a varint follows."""


def hash_version(*parts: bytes) -> Version:
    """Return the version of `parts`: 16 hexadecimal digits of SHA-256 over length-prefixed parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return Version(digest.hexdigest()[:16])


_GUESSES_COST = 5_000
"""Rounds of PBKDF2 for the version of a secret: milliseconds for us, once, and for whoever guesses, each time."""


def hash_secret(name: str, body: bytes) -> Version:
    """
    Return the version of a secret: as long as any other, and slow to compute.

    Versions stand in logs, dumps and statistics. A quick hash there would let everybody who reads one try passwords.
    """
    return Version(hashlib.pbkdf2_hmac("sha256", body, name.encode(), _GUESSES_COST, dklen=8).hex())


def build_resource(kind: ResourceType, name: str, message: Message, references: Iterable[Reference] = ()) -> Resource:
    """Serialise `message` once and name its content by hash."""
    body = bytes(message)
    is_secret = kind is ResourceType.SECRET
    return Resource(
        kind=kind,
        name=name,
        version=hash_secret(name, body) if is_secret else hash_version(name.encode(), body),
        body=body,
        any_body=_encode_any(kind.type_url, body),
        references=tuple(sorted(set(references))),
    )


def _encode_any(type_url: TypeUrl, body: bytes) -> bytes:
    """Encode `google.protobuf.Any{type_url = 1, value = 2}` without a second copy through a library."""
    url = type_url.encode()
    return b"".join((b"\x0a", encode_varint(len(url)), url, b"\x12", encode_varint(len(body)), body))


def encode_varint(value: int) -> bytes:
    """Encode a non-negative integer as a base-128 varint (protobuf encoding guide)."""
    out = bytearray()
    while value >= _CONTINUES:
        out.append(value % _CONTINUES | _CONTINUES)
        value >>= 7
    out.append(value)
    return bytes(out)
