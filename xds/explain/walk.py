"""
A small Envoy: which chain takes a captured connection and what it does with it, read from resources.

It follows Envoy's own semantics and nothing of how the compiler works. No secret that it reads is part of a result.
Invariant: whatever it meets that it does not know is an UnknownConfigurationError, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.network.direct_response.v3 import Config as DirectResponse
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy
from envoy_data_plane.envoy.extensions.formatter.generic_secret.v3 import GenericSecret
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret
from envoy_data_plane.google.protobuf import StringValue

from xds import names
from xds.errors import REDACTED
from xds.explain.connection import Arrival, Fate, Hop, Outcome
from xds.explain.matchers import evaluate, inspect, remember
from xds.explain.messages import expand, parse_resource, unpack, unpack_as
from xds.explain.routes import forward
from xds.explain.unknown import UnknownConfigurationError, expect, need
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from envoy_data_plane.envoy.config.listener.v3 import FilterChain
    from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue

    from xds.explain.connection import Connection
    from xds.explain.matchers import Seen
    from xds.snapshot import Snapshot


@dataclass(frozen=True)
class Envoy:
    """An Envoy that has taken a snapshot."""

    snapshot: Snapshot

    @cached_property
    def listener(self) -> Listener:
        """The outbound listener."""
        found = self.snapshot.of(ResourceType.LISTENER).get(names.OUTBOUND_LISTENER)
        return Listener.parse(need(found, f"no listener {names.OUTBOUND_LISTENER}").body)

    @cached_property
    def chains(self) -> Mapping[str, FilterChain]:
        """The listener's filter chains by name; two of one name are a NACK."""
        chains = {chain.name: chain for chain in self.listener.filter_chains}
        expect(len(chains) == len(self.listener.filter_chains), "two chains of one name, which Envoy refuses")
        return chains

    @cached_property
    def routes(self) -> Mapping[str, RouteConfiguration]:
        """The route configurations by name."""
        served = self.snapshot.of(ResourceType.ROUTE).values()
        return {resource.name: RouteConfiguration.parse(resource.body) for resource in served}

    def take(self, connection: Connection) -> Arrival:
        """
        Say what becomes of `connection`.

        Raises UnknownConfigurationError where the resources hold something that is not known here.
        """
        seen = inspect(self.listener.listener_filters, connection)
        matcher = need(self.listener.filter_chain_matcher, "a listener that chooses chains without a matcher")
        leaf = evaluate(matcher, seen)
        if leaf is None:
            # Envoy closes a connection that no chain takes.
            return Arrival("", Outcome(Fate.CLOSED), (Hop(""),))
        chain = unpack_as(leaf, StringValue).value
        expect(chain in self.chains, f"a matcher that chooses {chain}, a chain that there is not")
        outcome, hops = self._run(self.chains[chain], seen, connection)
        expect(outcome.cluster in ("", *self.snapshot.of(ResourceType.CLUSTER)), f"no cluster {outcome.cluster}")
        return Arrival(chain, outcome, hops)

    def _run(self, chain: FilterChain, seen: Seen, connection: Connection) -> tuple[Outcome, tuple[Hop, ...]]:
        for item in chain.filters:
            match unpack(item):
                case SetFilterState() as config:
                    seen = self._remember(config.on_new_connection, seen)
                case TcpProxy() as config:
                    outcome = open_tunnel(config, seen)
                    return outcome, (Hop(chain.name, outcome.cluster),)
                case DirectResponse():
                    return Outcome(Fate.CLOSED), (Hop(chain.name),)
                case HttpConnectionManager() as config:
                    return self._forward(chain.name, config, connection, seen)
                case other:
                    raise UnknownConfigurationError(other)
        raise UnknownConfigurationError("a chain without a terminal filter")

    def _forward(
        self, chain: str, manager: HttpConnectionManager, connection: Connection, seen: Seen
    ) -> tuple[Outcome, tuple[Hop, ...]]:
        expect(connection.protocol.is_http, "bytes that are not HTTP in a chain for HTTP")
        outcome, seen = forward(manager, self._routes_of(manager), connection, seen)
        hop = Hop(chain, outcome.cluster)
        inside = self.snapshot.of(ResourceType.LISTENER).get(outcome.cluster)
        if inside is None:
            return outcome, (hop,)
        (tunnel,) = parse_resource(Listener, inside.body).filter_chains
        outcome, hops = self._run(tunnel, seen, connection)
        return outcome, (hop, *hops)

    def _remember(self, values: Sequence[FilterStateValue], seen: Seen) -> Seen:
        secrets: Seen = {}
        for item in values:
            if not isinstance(item.format_string, SubstitutionFormatString):
                raise UnknownConfigurationError(item)
            for extension in item.format_string.formatters:
                formatter = unpack(extension)
                if not isinstance(formatter, GenericSecret):
                    raise UnknownConfigurationError(formatter)
                secrets |= {
                    f"SECRET({key})": self._secret(asked.name) for key, asked in formatter.secret_configs.items()
                }
        return seen | remember(values, seen | secrets)

    def _secret(self, name: str) -> str:
        served = need(self.snapshot.of(ResourceType.SECRET).get(name), f"no secret {name}")
        found = need(Secret.parse(served.body).generic_secret, "a secret that is no text")
        return need(need(found.secret, "an empty secret").inline_string, "a secret in a file")

    def _routes_of(self, manager: HttpConnectionManager) -> RouteConfiguration:
        if manager.rds is not None:
            return need(self.routes.get(manager.rds.route_config_name), f"no routes {manager.rds.route_config_name}")
        return need(manager.route_config, "a connection manager without routes")


def open_tunnel(config: TcpProxy, seen: Mapping[str, str]) -> Outcome:
    """Say where a TCP proxy leads."""
    cluster = need(config.cluster, "a TCP proxy with several clusters")
    if config.tunneling_config is None:
        return Outcome(Fate.DIRECT, cluster)
    for option in config.tunneling_config.headers_to_add:
        header = need(option.header, "a header without a name")
        expect(header.key == "proxy-authorization", f"the header {header.key} of a tunnel")
        login = expand(header.value, seen)
        # Where nobody read the files that logins are in, they are empty; what an Envoy tells of them is redacted.
        expect(login in ("", REDACTED) or login.startswith("Basic "), "a login that is not Basic")
    return Outcome(Fate.TUNNELLED, cluster, expand(config.tunneling_config.hostname, seen))
