"""
A small Envoy: which chain takes a connection and what it does with it, read from compiled resources.

It follows Envoy's own semantics and nothing of how the compiler works: the matcher trees (`source/common/matcher`,
`source/extensions/common/matcher/{domain_matcher,ip_range_matcher}.h`), the choice of a virtual host
(`source/common/router/config_impl.cc`) and the command operators of the few fields that are formatted. Whatever it
meets that it does not know is an AssertionError, never a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Protocol, TypeVar

from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.rbac.v3 import RbacAction
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, RouteList
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 import Config as HeaderToMetadata
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as HttpSetFilterState
from envoy_data_plane.envoy.extensions.filters.network.direct_response.v3 import Config as DirectResponse
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy
from envoy_data_plane.envoy.extensions.formatter.generic_secret.v3 import GenericSecret
from envoy_data_plane.envoy.extensions.matching.common_inputs.network.v3 import (
    ApplicationProtocolInput,
    DestinationIpInput,
    DestinationPortInput,
    FilterStateInput,
    ServerNameInput,
    TransportProtocolInput,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput
from envoy_data_plane.google.protobuf import Any, StringValue

from tests.support.traffic import Connection, Fate, Outcome
from tests.support.traffic import Protocol as Spoken
from xds import names
from xds.compile.matcher_messages import IPMatcher, ServerNameMatcher
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from betterproto2 import Message
    from envoy_data_plane.envoy.config.listener.v3 import (
        FilterChain,
        ListenerFilter,
        ListenerFilterChainMatchPredicate,
    )
    from envoy_data_plane.envoy.config.route.v3 import VirtualHost
    from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
    from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
    from envoy_data_plane.xds.type.matcher.v3 import Matcher, MatcherMatcherList, MatcherOnMatch

    from xds.snapshot import Snapshot

_OPERATOR = re.compile(r"%([A-Z_]+(?:\([^)]*\))?)%")

M = TypeVar("M", bound="Message")


class _Extension(Protocol):
    @property
    def typed_config(self) -> Any | None: ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a connection ended: the chain that took it and what that chain did."""

    chain: str
    outcome: Outcome


@dataclass(frozen=True)
class Envoy:
    """An Envoy that has taken a snapshot."""

    snapshot: Snapshot

    @cached_property
    def listener(self) -> Listener:
        """The outbound listener."""
        return Listener.parse(self.snapshot.of(ResourceType.LISTENER)[names.OUTBOUND_LISTENER].body)

    @cached_property
    def chains(self) -> Mapping[str, FilterChain]:
        """The listener's filter chains by name; two of one name are a NACK."""
        chains = {chain.name: chain for chain in self.listener.filter_chains}
        assert len(chains) == len(self.listener.filter_chains)
        return chains

    @cached_property
    def routes(self) -> Mapping[str, RouteConfiguration]:
        """The route configurations by name."""
        served = self.snapshot.of(ResourceType.ROUTE).values()
        return {resource.name: RouteConfiguration.parse(resource.body) for resource in served}

    def take(self, connection: Connection) -> Arrival:
        """Say what becomes of `connection`."""
        seen = inspect(self.listener.listener_filters, connection)
        assert self.listener.filter_chain_matcher is not None
        leaf = evaluate(self.listener.filter_chain_matcher, seen)
        assert leaf is not None, "Envoy closes a connection that no chain takes"
        chain = unpack_as(leaf, StringValue).value
        outcome = self._run(self.chains[chain], seen, connection)
        assert outcome.cluster in ("", *self.snapshot.of(ResourceType.CLUSTER))
        return Arrival(chain, outcome)

    def _run(self, chain: FilterChain, seen: Seen, connection: Connection) -> Outcome:
        for item in chain.filters:
            match unpack(item):
                case SetFilterState() as config:
                    seen = self._remember(config.on_new_connection, seen)
                case TcpProxy() as config:
                    return _tunnel(config, seen)
                case DirectResponse():
                    return Outcome(Fate.CLOSED)
                case HttpConnectionManager() as config:
                    assert connection.protocol.is_http, "bytes that are not HTTP reach an HTTP chain"
                    return self._forward(config, connection, seen)
                case other:
                    raise AssertionError(other)
        raise AssertionError("a chain without a terminal filter")

    def _forward(self, manager: HttpConnectionManager, connection: Connection, seen: Seen) -> Outcome:
        outcome, seen = _forward(manager, self._routes_of(manager), connection, seen)
        inside = self.snapshot.of(ResourceType.LISTENER).get(outcome.cluster)
        if inside is None:
            return outcome
        (chain,) = Listener.parse(inside.body).filter_chains
        return self._run(chain, seen, connection)

    def _remember(self, values: Sequence[FilterStateValue], seen: Seen) -> Seen:
        secrets: Seen = {}
        for item in values:
            assert isinstance(item.format_string, SubstitutionFormatString)
            for extension in item.format_string.formatters:
                formatter = unpack(extension)
                assert isinstance(formatter, GenericSecret)
                secrets |= {
                    f"SECRET({key})": self._secret(asked.name) for key, asked in formatter.secret_configs.items()
                }
        return seen | _remember(values, seen | secrets)

    def _secret(self, name: str) -> str:
        found = Secret.parse(self.snapshot.of(ResourceType.SECRET)[name].body).generic_secret
        assert found is not None
        assert found.secret is not None
        assert found.secret.inline_string is not None
        return found.secret.inline_string

    def _routes_of(self, manager: HttpConnectionManager) -> RouteConfiguration:
        if manager.rds is not None:
            return self.routes[manager.rds.route_config_name]
        assert manager.route_config is not None
        return manager.route_config


Seen = dict[str, str]
"""What matchers and formats can read: values by the name of their input or operator."""


def inspect(filters: Sequence[ListenerFilter], connection: Connection) -> Seen:
    """Return what the listener filters find out; a disabled inspector finds nothing."""
    seen = {
        "address": str(connection.address),
        "port": str(connection.port),
        "transport": "raw_buffer",
        "server_name": "",
        "application": "",
        "DOWNSTREAM_LOCAL_ADDRESS": connection.dialled,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": str(connection.address),
        "DOWNSTREAM_LOCAL_PORT": str(connection.port),
        "REQUESTED_SERVER_NAME": "",
    }
    for item in filters:
        if item.filter_disabled is not None and _is_disabled(item.filter_disabled, connection):
            continue
        if item.name == "envoy.filters.listener.tls_inspector" and connection.protocol is Spoken.TLS:
            # ConnectionInfoSetterImpl::setRequestedServerName lowers the case.
            name = connection.name.lower()
            seen |= {"transport": "tls", "server_name": name, "REQUESTED_SERVER_NAME": name}
        if item.name == "envoy.filters.listener.http_inspector" and connection.protocol.is_http:
            seen |= {"application": f"'{connection.protocol.value}'"}
    return seen


def _is_disabled(predicate: ListenerFilterChainMatchPredicate, connection: Connection) -> bool:
    if predicate.or_match is not None:
        assert len(predicate.or_match.rules) >= 2, "Envoy refuses a set of fewer than two"
        return any(_is_disabled(item, connection) for item in predicate.or_match.rules)
    ports = predicate.destination_port_range
    assert ports is not None
    return ports.start <= connection.port < ports.end


def evaluate(matcher: Matcher, seen: Mapping[str, str]) -> Any | None:
    """Walk a matcher tree; None is "no match"."""
    for candidate in _candidates(matcher, seen):
        result = _follow(candidate, seen)
        if result is not None:
            return result
    return None if matcher.on_no_match is None else _follow(matcher.on_no_match, seen)


def _follow(on_match: MatcherOnMatch, seen: Mapping[str, str]) -> Any | None:
    if on_match.matcher is not None:
        return evaluate(on_match.matcher, seen)
    assert on_match.action is not None
    assert on_match.action.typed_config is not None
    return on_match.action.typed_config


def _candidates(matcher: Matcher, seen: Mapping[str, str]) -> Iterable[MatcherOnMatch]:
    """Yield what may decide, in the order in which Envoy asks."""
    if matcher.matcher_list is not None:
        return _by_pattern(matcher.matcher_list, seen)
    tree = matcher.matcher_tree
    assert tree is not None
    assert tree.input is not None
    value = _read(tree.input, seen)
    if tree.exact_match_map is not None:
        found = tree.exact_match_map.map.get(value)
        return [] if found is None or not value else [found]
    assert tree.custom_match is not None
    match unpack(tree.custom_match):
        case IPMatcher() as custom:
            return _by_address(custom, value)
        case ServerNameMatcher() as custom:
            return _by_name(custom, value)
        case other:
            raise AssertionError(other)


def _read(extension: TypedExtensionConfig, seen: Mapping[str, str]) -> str:
    match unpack(extension):
        case DestinationIpInput():
            return seen["address"]
        case DestinationPortInput():
            return seen["port"]
        case ServerNameInput():
            return seen["server_name"]
        case TransportProtocolInput():
            return seen["transport"]
        case ApplicationProtocolInput():
            return seen["application"]
        case HttpRequestHeaderMatchInput(header_name=":authority"):
            return seen["REQ(:AUTHORITY)"]
        case HttpRequestHeaderMatchInput(header_name=":method"):
            return seen["REQ(:METHOD)"]
        case FilterStateInput(key=key):
            return seen[f"state:{key}"]
        case other:
            raise AssertionError(other)


def _by_pattern(listed: MatcherMatcherList, seen: Mapping[str, str]) -> Iterable[MatcherOnMatch]:
    for item in listed.matchers:
        assert item.predicate is not None
        single = item.predicate.single_predicate
        assert single is not None
        assert single.input is not None
        assert single.value_match is not None
        assert single.value_match.safe_regex is not None
        assert item.on_match is not None
        if re.fullmatch(single.value_match.safe_regex.regex, _read(single.input, seen)):
            yield item.on_match


def _by_address(custom: IPMatcher, value: str) -> Iterable[MatcherOnMatch]:
    try:
        address = ip_address(value)
    except ValueError:
        return
    hits = []
    for index, item in enumerate(custom.range_matchers):
        for cidr in item.ranges:
            network = ip_network(f"{cidr.address_prefix}/{cidr.prefix_len}")
            if address.version == network.version and address in network:
                hits.append((-network.prefixlen, index, item))
    hits.sort(key=lambda hit: hit[:2])
    for position, (_, _, item) in enumerate(hits):
        assert item.on_match is not None
        if position == 0 or not item.exclusive:
            yield item.on_match


def _by_name(custom: ServerNameMatcher, value: str) -> Iterable[MatcherOnMatch]:
    if not value:
        return
    table: dict[str, MatcherOnMatch] = {}
    for item in custom.domain_matchers:
        assert item.on_match is not None
        for domain in item.domains:
            assert domain not in table, "Envoy refuses a domain that is listed twice"
            assert "*" not in domain.removeprefix("*.") or domain == "*"
            table[domain] = item.on_match
    labels = value.split(".")
    below = [f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels))]
    yield from (table[key] for key in (value, *below, "*") if key in table)


def _remember(values: Sequence[FilterStateValue], seen: Seen) -> Seen:
    kept = {}
    for item in values:
        assert isinstance(item.format_string, SubstitutionFormatString)
        source = item.format_string.text_format_source
        assert source is not None
        assert source.inline_string is not None
        kept[f"state:{item.object_key}"] = expand(source.inline_string, seen)
        kept[f"FILTER_STATE({item.object_key}:PLAIN)"] = kept[f"state:{item.object_key}"]
    return kept


def _tunnel(config: TcpProxy, seen: Seen) -> Outcome:
    assert config.cluster
    if config.tunneling_config is None:
        return Outcome(Fate.DIRECT, config.cluster)
    for option in config.tunneling_config.headers_to_add:
        assert option.header is not None
        assert option.header.key == "proxy-authorization"
        assert expand(option.header.value, seen).startswith("Basic ")
    return Outcome(Fate.TUNNELLED, config.cluster, expand(config.tunneling_config.hostname, seen))


def _forward(
    manager: HttpConnectionManager, routes: RouteConfiguration, connection: Connection, seen: Seen
) -> tuple[Outcome, Seen]:
    host = connection.name
    if not host and connection.protocol is Spoken.HTTP_10:
        assert manager.http_protocol_options is not None
        host = manager.http_protocol_options.default_host_for_http_10
    seen = seen | {"REQ(:AUTHORITY)": host, "PATH(NQ)": "/path"}
    for item in manager.http_filters:
        match unpack(item):
            case Rbac() as config:
                if not _is_allowed(config, host):
                    return Outcome(Fate.FORBIDDEN), seen
            case HeaderToMetadata() as config:
                seen |= _read_header(config, host)
            case HttpSetFilterState() as config:
                seen |= _remember(config.on_request_headers, seen)
            case Router():
                return _route(routes, host, seen), seen
            case other:
                raise AssertionError(other)
    raise AssertionError("a connection manager without a router")


def _is_allowed(config: Rbac, host: str) -> bool:
    assert config.rules is not None
    assert config.rules.action is RbacAction.ALLOW
    for policy in config.rules.policies.values():
        assert [principal.any for principal in policy.principals] == [True]
        for permission in policy.permissions:
            assert permission.header is not None
            assert permission.header.name == ":authority"
            assert permission.header.string_match is not None
            assert permission.header.string_match.safe_regex is not None
            if re.fullmatch(permission.header.string_match.safe_regex.regex, host):
                return True
    return False


def _read_header(config: HeaderToMetadata, host: str) -> Seen:
    kept = {}
    for rule in config.request_rules:
        assert rule.header == ":authority"
        pair = rule.on_header_present
        assert pair is not None
        assert pair.regex_value_rewrite is not None
        assert pair.regex_value_rewrite.pattern is not None
        value = re.sub(pair.regex_value_rewrite.pattern.regex, pair.regex_value_rewrite.substitution, host)
        kept[f"DYNAMIC_METADATA({pair.metadata_namespace}:{pair.key})"] = value
    return kept


def _route(routes: RouteConfiguration, name: str, seen: Seen) -> Outcome:
    host = find_virtual_host(routes, name)
    assert host is not None, "Envoy answers 404 where no virtual host fits"
    route = next(route for route in routes_in(host, seen) if _fits(route, seen))
    if route.direct_response is not None:
        assert route.direct_response.status == 403
        return Outcome(Fate.FORBIDDEN)
    assert route.route is not None
    assert route.route.cluster
    if not route.route.path_rewrite:
        return Outcome(Fate.DIRECT, route.route.cluster)
    return Outcome(Fate.FORWARDED, route.route.cluster, expand(route.route.path_rewrite, seen))


def routes_in(host: VirtualHost, seen: Seen) -> Sequence[Route]:
    """Return the routes among which Envoy takes the first that fits."""
    if host.matcher is None:
        return host.routes
    leaf = evaluate(host.matcher, seen)
    assert leaf is not None, "Envoy answers 404 where a virtual host's matcher does not match"
    return unpack_as(leaf, RouteList).routes


def _fits(route: Route, seen: Seen) -> bool:
    assert route.match is not None
    assert route.match.prefix == "/"
    # The connections of these tests ask for no other protocol.
    assert [header.name for header in route.match.headers] in ([], ["upgrade"])
    if route.match.headers:
        return False
    for state in route.match.filter_state:
        assert state.string_match is not None
        if seen[f"state:{state.key}"] != state.string_match.exact:
            return False
    return True


def find_virtual_host(routes: RouteConfiguration, host: str) -> VirtualHost | None:
    """Choose by Host: exact, the longest `*suffix`, the longest `prefix*`, `*`."""
    assert routes.ignore_port_in_host_matching
    table: dict[str, VirtualHost] = {}
    for item in routes.virtual_hosts:
        for domain in item.domains:
            assert domain.lower() not in table, "Envoy refuses a domain that is listed twice"
            table[domain.lower()] = item
    assert len({item.name for item in routes.virtual_hosts}) == len(routes.virtual_hosts)
    value = re.sub(r":[0-9]+$", "", host.lower())
    # A wildcard stands for at least one character.
    suffixes = [f"*{value[start:]}" for start in range(1, len(value))]
    prefixes = [f"{value[:end]}*" for end in range(len(value) - 1, 0, -1)]
    return next((table[key] for key in (value, *suffixes, *prefixes, "*") if key in table), None)


def expand(text: str, values: Mapping[str, str]) -> str:
    """Expand command operators; one that is not known, or a lone `%`, is an AssertionError."""
    assert "%" not in _OPERATOR.sub("", text)
    return _OPERATOR.sub(lambda operator: values[operator[1]], text)


def unpack(extension: _Extension) -> Message:
    """Return the message inside an extension or filter."""
    assert extension.typed_config is not None
    return _parse(extension.typed_config.type_url, extension.typed_config.value)


def unpack_as(packed: Any, kind: type[M]) -> M:
    """Return the message inside `packed`, which must be a `kind`."""
    message = _parse(packed.type_url, packed.value)
    assert isinstance(message, kind)
    return message


@lru_cache(maxsize=1024)
def _parse(type_url: str, value: bytes) -> Message:
    """Parse what is inside an Any; nobody changes the result, so equal bytes share it."""
    message = Any(type_url=type_url, value=value).unpack()
    assert message is not None
    return message
