"""
Decision plans as Envoy matcher trees (`xds.type.matcher.v3.Matcher`).

One builder serves the listener, which chooses a filter chain, and the route table, which chooses a route:
they differ in their inputs and in their leaves only. A tree whose nested matcher does not match falls
through to `on_no_match` (Envoy, "Unified Matcher API"), and that is how one segment follows another.
Entries with the same clauses share one node, and everything is sorted, so equal plans give equal bytes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Protocol, assert_never

from envoy_data_plane.envoy.extensions.matching.common_inputs.network.v3 import (
    ApplicationProtocolInput,
    DestinationIpInput,
    DestinationPortInput,
    FilterStateInput,
    ServerNameInput,
    TransportProtocolInput,
)
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput
from envoy_data_plane.xds.core.v3 import CidrRange, TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherList,
    MatcherMatcherListFieldMatcher,
    MatcherMatcherListPredicate,
    MatcherMatcherListPredicateSinglePredicate,
    MatcherMatcherTree,
    MatcherMatcherTreeMatchMap,
    MatcherOnMatch,
    RegexMatcher,
    RegexMatcherGoogleRe2,
    StringMatcher,
)

from xds.compile.decisions import AddressSegment, Aspect, Clause, Clauses, NameSegment, PortSegment, Segment
from xds.compile.matcher_messages import (
    IPMatcher,
    IPMatcherIPRangeMatcher,
    ServerNameMatcher,
    ServerNameMatcherDomainMatcher,
)
from xds.compile.wire import pack
from xds.policy.model import Action, Deny, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from betterproto2 import Message

ADDRESS_KEY = "egress-xds.address"
PORT_KEY = "egress-xds.port"
"""Filter state keys under which the HTTP chain keeps the address and port that the application dialled."""


def build_extension(name: str, message: Message) -> TypedExtensionConfig:
    """Wrap `message` as an extension's configuration."""
    return TypedExtensionConfig(name=name, typed_config=pack(message))


class Leaf(Protocol):
    """Builds what happens for an action; `aspect` is what was looked at to decide on it."""

    def __call__(self, action: Action, aspect: Aspect) -> MatcherOnMatch:
        """Build the leaf."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where a tree reads the destination's address and port."""

    address: TypedExtensionConfig
    port: TypedExtensionConfig


CONNECTION = Inputs(
    address=build_extension("destination-ip", DestinationIpInput()),
    port=build_extension("destination-port", DestinationPortInput()),
)
"""For the listener's `filter_chain_matcher`."""

REQUEST = Inputs(
    address=build_extension("destination-ip", FilterStateInput(key=ADDRESS_KEY)),
    port=build_extension("destination-port", FilterStateInput(key=PORT_KEY)),
)
"""For a virtual host's `matcher`, which may look at headers and filter state only."""

SERVER_NAME = build_extension("server-name", ServerNameInput())
TRANSPORT_PROTOCOL = build_extension("transport-protocol", TransportProtocolInput())
AUTHORITY = build_extension("authority", HttpRequestHeaderMatchInput(header_name=":authority"))
METHOD = build_extension("method", HttpRequestHeaderMatchInput(header_name=":method"))
APPLICATION_PROTOCOL = build_extension("application-protocol", ApplicationProtocolInput())


def build_map(
    value: TypedExtensionConfig, entries: Mapping[str, MatcherOnMatch], otherwise: MatcherOnMatch | None
) -> MatcherOnMatch:
    """Look `value` up in `entries`; `otherwise` None falls through to the matcher around this one."""
    table = MatcherMatcherTreeMatchMap(map={key: entries[key] for key in sorted(entries)})
    return _on_match(MatcherMatcherTree(input=value, exact_match_map=table), otherwise)


def build_patterns(
    value: TypedExtensionConfig, entries: Iterable[tuple[str, MatcherOnMatch]], otherwise: MatcherOnMatch
) -> MatcherOnMatch:
    """Match `value` in full against regular expressions (RE2), in their order."""
    matchers = [
        MatcherMatcherListFieldMatcher(
            predicate=MatcherMatcherListPredicate(
                single_predicate=MatcherMatcherListPredicateSinglePredicate(
                    input=value,
                    value_match=StringMatcher(
                        safe_regex=RegexMatcher(google_re2=RegexMatcherGoogleRe2(), regex=pattern)
                    ),
                )
            ),
            on_match=on_match,
        )
        for pattern, on_match in entries
    ]
    return MatcherOnMatch(matcher=Matcher(matcher_list=MatcherMatcherList(matchers=matchers), on_no_match=otherwise))


def build_names(entries: Iterable[tuple[Sequence[str], MatcherOnMatch]], otherwise: MatcherOnMatch) -> MatcherOnMatch:
    """Look the server name up; a connection without one goes to `otherwise`."""
    matchers = [ServerNameMatcherDomainMatcher(domains=list(names), on_match=leaf) for names, leaf in entries]
    custom = build_extension("server-names", ServerNameMatcher(domain_matchers=matchers))
    return _on_match(MatcherMatcherTree(input=SERVER_NAME, custom_match=custom), otherwise)


def build_clauses(
    clauses: Clauses, inputs: Inputs, leaf: Callable[[Action], MatcherOnMatch], otherwise: MatcherOnMatch | None = None
) -> MatcherOnMatch | None:
    """Decide by port, and by address where a clause asks for it; None if nothing is decided and nowhere else to go."""
    result = otherwise
    for within, run in reversed(
        [(within, list(run)) for within, run in groupby(clauses, key=lambda item: item.within)]
    ):
        if within:
            decided = _build_ports(run, inputs, leaf, None)
            assert decided is not None, "a clause decides something"
            result = _look_up_networks([(within, decided)], inputs, result)
        else:
            result = _build_ports(run, inputs, leaf, result)
    return result


def _build_ports(
    clauses: Sequence[Clause],
    inputs: Inputs,
    leaf: Callable[[Action], MatcherOnMatch],
    otherwise: MatcherOnMatch | None,
) -> MatcherOnMatch | None:
    ports = {str(port): leaf(clause.action) for clause in reversed(clauses) for port in clause.ports}
    rest = leaf(clauses[-1].action) if not clauses[-1].ports else otherwise
    return build_map(inputs.port, ports, rest) if ports else rest


def build_segment(segment: Segment, inputs: Inputs, leaf: Leaf, otherwise: MatcherOnMatch) -> MatcherOnMatch:
    """Build one segment; what it does not decide goes to `otherwise`."""
    match segment:
        case NameSegment():
            return build_names(_name_entries(segment, inputs, partial(leaf, aspect=Aspect.NAME)), otherwise)
        case AddressSegment():
            return _build_addresses(segment, inputs, partial(leaf, aspect=Aspect.ADDRESS), otherwise)
        case PortSegment(clauses):
            decided = build_clauses(clauses, inputs, partial(leaf, aspect=Aspect.PORT), otherwise)
            assert decided is not None
            return decided
        case other:
            assert_never(other)


def build_segments(
    segments: Sequence[Segment],
    inputs: Inputs,
    leaf: Leaf,
    otherwise: MatcherOnMatch,
) -> MatcherOnMatch:
    """Chain segments: each falls through to the next, the last to `otherwise`."""
    result = otherwise
    for segment in reversed(segments):
        result = build_segment(segment, inputs, leaf, result)
    return result


def _name_entries(
    segment: NameSegment, inputs: Inputs, leaf: Callable[[Action], MatcherOnMatch]
) -> list[tuple[list[str], MatcherOnMatch]]:
    groups: dict[Clauses, list[str]] = defaultdict(list)
    for node in segment.entries:
        groups[segment.clauses_of(node)].append(node)
    entries = []
    for clauses, nodes in sorted(groups.items(), key=lambda group: group[1][0]):
        decided = build_clauses(clauses, inputs, leaf)
        assert decided is not None, "a name node has at least its own clause"
        entries.append((spellings(nodes), decided))
    return entries


def spellings(nodes: Iterable[str]) -> list[str]:
    """
    Spell each node with and without a trailing dot.

    A client may write the name with its trailing dot; that must not get it past a rule.
    """
    return sorted(spelling for node in nodes for spelling in (node, f"{node}."))


def _build_addresses(
    segment: AddressSegment, inputs: Inputs, leaf: Callable[[Action], MatcherOnMatch], otherwise: MatcherOnMatch
) -> MatcherOnMatch:
    groups: dict[Clauses, list[Network]] = defaultdict(list)
    for network, clauses in segment.nodes.items():
        groups[clauses].append(network)
    undecided = build_undecided(inputs, leaf(Deny()))
    entries = [(networks, build_clauses(clauses, inputs, leaf) or undecided) for clauses, networks in groups.items()]
    return build_networks(entries, inputs, otherwise)


def build_networks(
    entries: Iterable[tuple[Iterable[Network], MatcherOnMatch]], inputs: Inputs, otherwise: MatcherOnMatch
) -> MatcherOnMatch:
    """Look the address up, of which the longest prefix alone counts; no network is listed twice."""
    listed = list(entries)
    return _look_up_networks(listed, inputs, otherwise) if listed else otherwise


def _look_up_networks(
    entries: Iterable[tuple[Iterable[Network], MatcherOnMatch]], inputs: Inputs, otherwise: MatcherOnMatch | None
) -> MatcherOnMatch:
    ranges = [
        IPMatcherIPRangeMatcher(
            ranges=[_cidr_range(network) for network in networks], on_match=on_match, exclusive=True
        )
        for networks, on_match in entries
    ]
    custom = build_extension("addresses", IPMatcher(range_matchers=ranges))
    return _on_match(MatcherMatcherTree(input=inputs.address, custom_match=custom), otherwise)


def build_undecided(inputs: Inputs, never: MatcherOnMatch) -> MatcherOnMatch:
    """Build a node that matches but decides nothing, shielding it from wider ranges: nobody connects to port 0."""
    return build_map(inputs.port, {"0": never}, None)


def _cidr_range(network: Network) -> CidrRange:
    return CidrRange(address_prefix=str(network.network_address), prefix_len=network.prefixlen)


def _on_match(tree: MatcherMatcherTree, otherwise: MatcherOnMatch | None) -> MatcherOnMatch:
    return MatcherOnMatch(matcher=Matcher(matcher_tree=tree, on_no_match=otherwise))
