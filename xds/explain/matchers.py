"""
What Envoy's inspectors see of a connection, and how its matcher trees decide on that.

It follows `source/common/matcher` and `source/extensions/common/matcher/{domain_matcher,ip_range_matcher}.h` of Envoy,
and nothing of how the compiler works. Invariant: what is not known here is an UnknownConfigurationError.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.extensions.matching.common_inputs.network.v3 import (
    ApplicationProtocolInput,
    DestinationIpInput,
    DestinationPortInput,
    FilterStateInput,
    ServerNameInput,
    TransportProtocolInput,
)
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput

from xds.compile.matcher_messages import IPMatcher, ServerNameMatcher
from xds.explain.connection import Protocol
from xds.explain.messages import expand, unpack
from xds.explain.unknown import UnknownConfigurationError, expect, need

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from envoy_data_plane.envoy.config.listener.v3 import ListenerFilter, ListenerFilterChainMatchPredicate
    from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
    from envoy_data_plane.google.protobuf import Any
    from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
    from envoy_data_plane.xds.type.matcher.v3 import Matcher, MatcherMatcherList, MatcherOnMatch

    from xds.explain.connection import Connection

_FEWEST = 2
"""Members of an `or_match` that Envoy takes."""
_MANY = 65536
"""Networks that are remembered."""

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
        if item.name == "envoy.filters.listener.tls_inspector" and connection.protocol is Protocol.TLS:
            # ConnectionInfoSetterImpl::setRequestedServerName lowers the case.
            name = connection.name.lower()
            seen |= {"transport": "tls", "server_name": name, "REQUESTED_SERVER_NAME": name}
        if item.name == "envoy.filters.listener.http_inspector" and connection.protocol.is_http:
            seen |= {"application": f"'{connection.protocol.value}'"}
    return seen


def _is_disabled(predicate: ListenerFilterChainMatchPredicate, connection: Connection) -> bool:
    if predicate.or_match is not None:
        expect(len(predicate.or_match.rules) >= _FEWEST, "an or_match of fewer than two, which Envoy refuses")
        return any(_is_disabled(item, connection) for item in predicate.or_match.rules)
    ports = need(predicate.destination_port_range, "a listener filter that is disabled other than by port")
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
    action = need(on_match.action, "a match without an action")
    return need(action.typed_config, "a match without an action")


def _candidates(matcher: Matcher, seen: Mapping[str, str]) -> Iterable[MatcherOnMatch]:
    """Yield what may decide, in the order in which Envoy asks."""
    if matcher.matcher_list is not None:
        return _by_pattern(matcher.matcher_list, seen)
    if matcher.matcher_tree is None:
        # Whatever comes, nothing matches.
        return []
    tree = matcher.matcher_tree
    value = _read(need(tree.input, "a matcher without input"), seen)
    if tree.exact_match_map is not None:
        found = tree.exact_match_map.map.get(value)
        return [] if found is None or not value else [found]
    match unpack(need(tree.custom_match, "a matcher that compares prefixes")):
        case IPMatcher() as custom:
            return _by_address(custom, value)
        case ServerNameMatcher() as custom:
            return _by_name(custom, value)
        case other:
            raise UnknownConfigurationError(other)


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
        case FilterStateInput(key=key) if f"state:{key}" in seen:
            return seen[f"state:{key}"]
        case other:
            raise UnknownConfigurationError(other)


def _by_pattern(listed: MatcherMatcherList, seen: Mapping[str, str]) -> Iterable[MatcherOnMatch]:
    for item in listed.matchers:
        predicate = need(item.predicate, "a matcher without a predicate")
        single = need(predicate.single_predicate, "a predicate of several")
        value_match = need(single.value_match, "a predicate that is not for text")
        pattern = need(value_match.safe_regex, "a predicate without a regular expression").regex
        if re.fullmatch(pattern, _read(need(single.input, "a predicate without input"), seen)):
            yield need(item.on_match, "a matcher without a result")


def _by_address(custom: IPMatcher, value: str) -> Iterable[MatcherOnMatch]:
    try:
        address = ip_address(value)
    except ValueError:
        return
    hits = []
    for index, item in enumerate(custom.range_matchers):
        for cidr in item.ranges:
            network = _network(cidr.address_prefix, cidr.prefix_len)
            if address.version == network.version and address in network:
                hits.append((-network.prefixlen, index, item))
    hits.sort(key=lambda hit: hit[:2])
    for position, (_, _, item) in enumerate(hits):
        if position == 0 or not item.exclusive:
            yield need(item.on_match, "a range without a result")


@lru_cache(maxsize=_MANY)
def _network(prefix: str, length: int | None) -> IPv4Network | IPv6Network:
    return ip_network(f"{prefix}/{length or 0}")


def _by_name(custom: ServerNameMatcher, value: str) -> Iterable[MatcherOnMatch]:
    if not value:
        return
    table: dict[str, MatcherOnMatch] = {}
    for item in custom.domain_matchers:
        for domain in item.domains:
            expect(domain not in table, "a domain that is listed twice, which Envoy refuses")
            expect("*" not in domain.removeprefix("*.") or domain == "*", f"the domain {domain}")
            table[domain] = need(item.on_match, "a domain without a result")
    labels = value.split(".")
    below = [f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels))]
    yield from (table[key] for key in (value, *below, "*") if key in table)


def remember(values: Sequence[FilterStateValue], seen: Seen) -> Seen:
    """Return what a filter keeps as filter state, as matchers and as formats read it."""
    kept = {}
    for item in values:
        if not isinstance(item.format_string, SubstitutionFormatString):
            raise UnknownConfigurationError(item)
        source = need(item.format_string.text_format_source, "filter state without a format")
        text = need(source.inline_string, "a format that is in a file")
        kept[f"state:{item.object_key}"] = expand(text, seen)
        kept[f"FILTER_STATE({item.object_key}:PLAIN)"] = kept[f"state:{item.object_key}"]
    return kept
