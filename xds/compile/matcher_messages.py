"""
The two xDS matcher messages that `envoy-data-plane` leaves out, as typed messages like all others.

`xds.type.matcher.v3.IPMatcher` and `ServerNameMatcher` (cncf/xds, `xds/type/matcher/v3/ip.proto` and
`domain.proto`) are imported by no Envoy API file, so a package generated from Envoy's API does not have
them. They are declared here with the field numbers of those files and registered in the package's own
message pool, so that `Any.pack` and `Any.unpack` treat them like the rest. Nothing else belongs here.
"""

# ruff: noqa: RUF009, TC002 - this is how betterproto2 declares fields; it resolves their types at run time
from __future__ import annotations

from dataclasses import dataclass

import betterproto2
from envoy_data_plane.message_pool import default_message_pool
from envoy_data_plane.xds.core.v3 import CidrRange
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

_PACKAGE = "xds.type.matcher.v3"


@dataclass(eq=False, repr=False)
class IPMatcherIPRangeMatcher(betterproto2.Message):
    """Ranges that share one result; `exclusive` ranges count only as the longest match."""

    ranges: list[CidrRange] = betterproto2.field(1, betterproto2.TYPE_MESSAGE, repeated=True)
    on_match: MatcherOnMatch | None = betterproto2.field(2, betterproto2.TYPE_MESSAGE, optional=True)
    exclusive: bool = betterproto2.field(3, betterproto2.TYPE_BOOL)


@dataclass(eq=False, repr=False)
class IPMatcher(betterproto2.Message):
    """A trie of address ranges, the longest matching prefix first."""

    range_matchers: list[IPMatcherIPRangeMatcher] = betterproto2.field(1, betterproto2.TYPE_MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class ServerNameMatcherDomainMatcher(betterproto2.Message):
    """Domains (`x.example`, `*.x.example`, `*`) that share one result."""

    domains: list[str] = betterproto2.field(1, betterproto2.TYPE_STRING, repeated=True)
    on_match: MatcherOnMatch | None = betterproto2.field(2, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class ServerNameMatcher(betterproto2.Message):
    """A trie of domains: exact, then the longest wildcard, then `*`."""

    domain_matchers: list[ServerNameMatcherDomainMatcher] = betterproto2.field(
        1, betterproto2.TYPE_MESSAGE, repeated=True
    )


default_message_pool.register_message(_PACKAGE, "IPMatcher", IPMatcher)
default_message_pool.register_message(_PACKAGE, "IPMatcher.IPRangeMatcher", IPMatcherIPRangeMatcher)
default_message_pool.register_message(_PACKAGE, "ServerNameMatcher", ServerNameMatcher)
default_message_pool.register_message(_PACKAGE, "ServerNameMatcher.DomainMatcher", ServerNameMatcherDomainMatcher)
