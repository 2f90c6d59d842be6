"""
What becomes of connections that are open while an Envoy takes over other resources.

Envoy's own rules (`source/common/listener_manager`: `ListenerImpl::supportUpdateFilterChain` and `diffFilterChain`;
`source/common/upstream/cluster_manager_impl.cc`): a listener of which only filter chains and their matcher differ is
changed in place, and the connections of those chains alone that are gone or have other content are drained. A listener
of which anything else differs is replaced, and all of its connections are drained. Drained connections go on until
the drain time is over (`--drain-time-s`) and are closed then. Routes, secrets, endpoints and clusters close nothing: a
tunnel keeps the connection that it has, whatever became of its cluster.

Listeners are read as bytes, top-level fields only (protobuf encoding guide): two fields are the same if their bytes
are, for each was serialised deterministically. Invariant: whatever is not understood counts as drained.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from xds import names
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xds.resources import Resource
    from xds.snapshot import Snapshot

_FILTER_CHAINS, _DEFAULT_CHAIN, _MATCHER = 3, 25, 32
"""Fields of `envoy.config.listener.v3.Listener` that may differ in a listener that is changed in place."""
_NAME_OF_CHAIN = 7
"""`envoy.config.listener.v3.FilterChain.name`."""
_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types."""

_SHORT_LIVED = frozenset({names.DENY_CHAIN})
"""Chains that close at once, so that nothing is open in them."""


class Cause(Enum):
    """Why connections are drained."""

    CHAIN_CHANGED = "chain-changed"
    CHAIN_REMOVED = "chain-removed"
    LISTENER_CHANGED = "listener-changed"
    LISTENER_REMOVED = "listener-removed"


@dataclass(frozen=True, slots=True, order=True)
class Drained:
    """The connections of one filter chain, which are closed when the drain time is over."""

    listener: str
    chain: str
    cause: Cause

    @property
    def what(self) -> str:
        """These connections, as people call them."""
        return _describe_chain(self.chain or self.listener)


@dataclass(frozen=True, slots=True)
class OpenConnections:
    """What becomes of the connections that are open; of those that are not named here: nothing."""

    drained: tuple[Drained, ...] = ()
    stay: tuple[str, ...] = ()
    """Proxies whose cluster is another one, or gone: what is open through them stays where it is; new ones do not."""
    is_next_request_elsewhere: bool = False
    """Whether the next request of an open plain HTTP connection follows other routes."""

    @property
    def is_untouched(self) -> bool:
        """Whether no open connection is closed."""
        return not self.drained


def predict(before: Snapshot, after: Snapshot) -> OpenConnections:
    """Return what becomes of open connections when an Envoy that has `before` is told `after`."""
    drained: list[Drained] = []
    there = after.of(ResourceType.LISTENER)
    for name, listener in before.of(ResourceType.LISTENER).items():
        drained += _compare_listeners(listener, there.get(name))
    clusters, routes = ResourceType.CLUSTER, ResourceType.ROUTE
    kept_routes = {
        name: (resource.version, after.of(routes)[name].version)
        for name, resource in before.of(routes).items()
        if name in after.of(routes)
    }
    return OpenConnections(
        drained=tuple(sorted(drained, key=lambda item: (item.listener, item.chain))),
        stay=tuple(
            name.removeprefix(_PROXY)
            for name, cluster in before.of(clusters).items()
            if name.startswith(_PROXY) and _version(after.of(clusters).get(name)) != cluster.version
        ),
        is_next_request_elsewhere=any(one != other for one, other in kept_routes.values()),
    )


def _version(resource: Resource | None) -> str | None:
    return None if resource is None else resource.version


def _compare_listeners(before: Resource, after: Resource | None) -> Iterator[Drained]:
    if after is not None and after.version == before.version:
        return
    have = _read_fields(before.body)
    chains = _chains(have)
    if after is None:
        yield from _all_of(before.name, chains, Cause.LISTENER_REMOVED)
        return
    want = _read_fields(after.body)
    kept = _chains(want)
    if not kept or _remaining(have) != _remaining(want):
        yield from _all_of(before.name, chains, Cause.LISTENER_CHANGED)
        return
    for chain, body in chains.items():
        if kept.get(chain) != body and chain not in _SHORT_LIVED:
            yield Drained(before.name, chain, Cause.CHAIN_CHANGED if chain in kept else Cause.CHAIN_REMOVED)


def _all_of(listener: str, chains: Iterable[str], cause: Cause) -> Iterator[Drained]:
    return (Drained(listener, chain, cause) for chain in chains if chain not in _SHORT_LIVED)


_Fields = dict[int, list[bytes]]


def _chains(fields: _Fields) -> Mapping[str, bytes]:
    """Return the chains by name. A listener without any holds no connections: it takes datagrams (DNS)."""
    chains = [*fields.get(_FILTER_CHAINS, ()), *fields.get(_DEFAULT_CHAIN, ())]
    return {b"".join(_read_fields(body).get(_NAME_OF_CHAIN, ())).decode(): body for body in chains}


def _remaining(fields: _Fields) -> dict[int, list[bytes]]:
    """Return what must be the same; the order within a field does not matter."""
    changeable = {_FILTER_CHAINS, _DEFAULT_CHAIN, _MATCHER}
    return {number: sorted(values) for number, values in fields.items() if number not in changeable}


def _read_fields(body: bytes) -> _Fields:
    """Return the raw values of a message's own fields by number, in their order."""
    fields: _Fields = defaultdict(list)
    position = 0
    while position < len(body):
        tag, position = _read_varint(body, position)
        match tag & 7:
            case wire if wire == _SIZED:
                size, position = _read_varint(body, position)
            case wire if wire in (_EIGHT_BYTES, _FOUR_BYTES):
                size = 8 if wire == _EIGHT_BYTES else 4
            case wire:
                assert wire == _VARINT, "proto3 has no groups"
                size = _read_varint(body, position)[1] - position
        fields[tag >> 3].append(body[position : position + size])
        position += size
    return fields


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  # the bit that says that another byte follows
            return value, position
        shift += 7


_PROXY = names.proxy_cluster("")
_CHAINS: Mapping[str, str] = {
    names.DIRECT_CHAIN: "direct connections",
    names.HTTP_CHAIN: "plain HTTP that is decided by its Host",
    names.HTTP_DENY_CHAIN: "plain HTTP that is refused",
    names.HTTP_SYNTHETIC_CHAIN: "plain HTTP to addresses that stand for names",
    names.EXPLICIT_CHAIN: "connections to the explicit port",
}
_PREFIXES: Mapping[str, str] = {
    names.tls_tunnel_chain(""): "TLS tunnels through {}",
    names.tcp_tunnel_chain(""): "TCP tunnels through {}",
    names.tcp_name_chain("", "").removesuffix("/"): "tunnels to {1} through {0}",
    names.http_proxy_chain(""): "plain HTTP through {}",
    names.http_address_chain(""): "plain HTTP to addresses through {}",
    names.http_tunnel(""): "plain HTTP in tunnels through {}",
    names.http_address_tunnel(""): "plain HTTP to addresses in tunnels through {}",
    names.https_tunnel("", None): "plain HTTP that is sent as HTTPS through {}",
}


def _describe_chain(chain: str) -> str:
    if chain in _CHAINS:
        return _CHAINS[chain]
    for prefix, text in _PREFIXES.items():
        if chain.startswith(prefix):
            return text.format(*chain.removeprefix(prefix).split("/"))
    return f"connections of {chain}"
