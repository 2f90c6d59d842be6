"""
What an Envoy says that it holds, as a snapshot that can be walked.

Only listeners and routes are read; of clusters and secrets it is enough that they are there, and the values of secrets
are not told anyway. A message inside another one can be read only if the module of its type was imported; those that
the compiler packs are, for it imports them. Invariant: a resource that can't be read is an UnknownConfigurationError,
never left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import GenericSecret, Secret
from envoy_data_plane.message_pool import default_message_pool

from xds.compile import snapshot  # noqa: F401  # registers the types of all that is ever packed
from xds.explain.unknown import UnknownConfigurationError
from xds.names import TypeUrl
from xds.resources import RESOURCE_TYPES, ResourceType, build_resource
from xds.snapshot import build_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xds.resources import Message
    from xds.snapshot import Snapshot


def read_held(held: Iterable[tuple[str, str, Mapping[str, object]]]) -> Snapshot:
    """Build a snapshot of resources, each given as its type URL, its name and its content as Envoy writes JSON."""
    found = []
    for type_url, name, content in held:
        kind = RESOURCE_TYPES.get(TypeUrl(type_url))
        if kind is not None and kind is not ResourceType.ENDPOINT:
            found.append(build_resource(kind, name, _read(kind, name, content)))
    return build_snapshot(found)


def _read(kind: ResourceType, name: str, content: Mapping[str, object]) -> Message:
    if kind is ResourceType.CLUSTER:
        return Cluster(name=name)
    if kind is ResourceType.SECRET:
        return Secret(name=name, generic_secret=GenericSecret(secret=DataSource(inline_string="")))
    fields = {key: value for key, value in content.items() if key != "@type"}
    try:
        return (Listener if kind is ResourceType.LISTENER else RouteConfiguration).from_dict(fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        unknown = sorted(set(_types_in(fields)) - default_message_pool.url_to_type.keys())
        what = f" with {', '.join(url.rpartition('/')[2] for url in unknown)}" if unknown else ""
        raise UnknownConfigurationError(f"{kind.name.lower()} {name}{what}") from error


def _types_in(value: object) -> Iterator[str]:
    """Yield the type URLs of all messages that stand in others."""
    if isinstance(value, dict):
        url = value.get("@type")
        if isinstance(url, str):
            yield url
        for item in value.values():
            yield from _types_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _types_in(item)
