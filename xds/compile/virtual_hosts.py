"""
Virtual hosts: what the names of a decision plan settle beforehand, and the look-ups that are left for each request.

A virtual host holds the names for which the same is left to decide. What routes an action has is for others to say.
Invariant: for every Host, a route configuration decides what its plan decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol

from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, RouteList, VirtualHost
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

from xds.compile.decisions import AddressSegment, Aspect, Clauses, NameSegment, Plan, PortSegment
from xds.compile.hosts import ADDRESS_HOST, UNNAMED_HOST
from xds.compile.matchers import AUTHORITY, REQUEST, build_clauses, build_extension, build_patterns, build_segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds.policy.model import Action

KEPT_PROTO = "x-egress-xds-forwarded-proto"
"""Carries the application's own x-forwarded-proto past the place where Envoy would make one up."""

Step = Clauses | int
"""One part of a virtual host's decision: clauses that its names settled, or the segment still to look up, by index."""


class Claim(Enum):
    """What a request says of its host."""

    NAME = "a name"
    ADDRESS = "an address, or a name that decides nothing here"
    NOTHING = "no Host (HTTP/1.0)"


def build_claims(nothing: MatcherOnMatch, address: MatcherOnMatch, name: MatcherOnMatch) -> MatcherOnMatch:
    """Choose by what a request says of its host."""
    return build_patterns(AUTHORITY, [(re.escape(UNNAMED_HOST), nothing), (ADDRESS_HOST, address)], name)


def build_leaf(routes: list[Route]) -> MatcherOnMatch:
    """Build the end of a look-up."""
    return MatcherOnMatch(action=build_extension("routes", RouteList(routes=routes)))


def build_configuration(name: str, hosts: list[VirtualHost]) -> RouteConfiguration:
    """Build a route configuration that looks at Hosts without their ports."""
    for index, host in enumerate(hosts):
        host.name = f"{index}:{host.domains[0]}"
    return RouteConfiguration(
        name=name,
        virtual_hosts=hosts,
        ignore_port_in_host_matching=True,
        request_headers_to_remove=[KEPT_PROTO],
        validate_clusters=False,
    )


def steps_of(plan: Plan, node: str | None) -> tuple[Step, ...]:
    """
    Settle every segment but those that look at addresses for the name `node`, up to the first certainty.

    None is a Host that no name segment knows. A segment that decides nothing is no step: a virtual host needs either
    something to look up or a route.
    """
    steps: list[Step] = []
    for index, segment in enumerate(plan.segments):
        if isinstance(segment, AddressSegment):
            steps += [index] if segment.nodes else []
        elif clauses := _clauses_of(segment, node):
            steps.append(clauses)
            if clauses[-1].is_certain:
                break
    return tuple(steps)


def _clauses_of(segment: NameSegment | PortSegment, node: str | None) -> Clauses:
    if isinstance(segment, PortSegment):
        return segment.clauses
    return () if node is None else segment.clauses_of(node)


class Routes(Protocol):
    """Knows the routes of each action, of which the first that matches counts."""

    def routes_of(self, action: Action, claim: Claim) -> list[Route]:
        """Build the routes of one action."""

    def leaf_of(self, action: Action, claim: Claim) -> MatcherOnMatch:
        """Build the end of a look-up that comes to `action`; it may be shared, and must not be changed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the requests of one virtual host have in common."""

    plan: Plan
    steps: tuple[Step, ...]
    default: Action
    claim: Claim
    ends: Routes

    def routes(self, action: Action) -> list[Route]:
        """Build the routes of an action that needs no look-up."""
        return self.ends.routes_of(action, self.claim)

    def leaf(self, action: Action, aspect: Aspect) -> MatcherOnMatch:
        """Build the routes of an action that was decided by looking at `aspect`."""
        claim = Claim.ADDRESS if aspect is Aspect.ADDRESS and self.claim is Claim.NAME else self.claim
        return self.ends.leaf_of(action, claim)


def build_virtual_host(domains: Sequence[str], decision: Decision) -> VirtualHost:
    """Build a virtual host, without a matcher if its names settle everything."""
    match decision.steps:
        case ():
            return VirtualHost(domains=list(domains), routes=decision.routes(decision.default))
        case ((clause,), *_) if clause.is_certain:
            return VirtualHost(domains=list(domains), routes=decision.routes(clause.action))
        case _:
            return VirtualHost(domains=list(domains), matcher=build_steps(decision).matcher)


def build_steps(decision: Decision) -> MatcherOnMatch:
    """Chain the look-ups of a decision."""
    result = decision.leaf(decision.default, Aspect.NAME)
    for step in reversed(decision.steps):
        if isinstance(step, int):
            result = build_segment(decision.plan.segments[step], REQUEST, decision.leaf, result)
        else:
            decided = build_clauses(step, REQUEST, partial(decision.leaf, aspect=Aspect.NAME), result)
            assert decided is not None, "a step holds at least one clause"
            result = decided
    return result
