"""What the walk does not know it says so of, instead of guessing; it may be given another server's resources."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.network.echo.v3 import Echo
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy
from envoy_data_plane.google.protobuf import Any, StringValue
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import Matcher, MatcherOnMatch

from tests.support.policies import compile_good, policy, rule
from xds import names
from xds.explain.connection import Connection, Fate, Hop, Protocol
from xds.explain.dns import names_at, resolve
from xds.explain.explicit import ask, has_explicit
from xds.explain.messages import expand, unpack
from xds.explain.unknown import UnknownConfigurationError
from xds.explain.walk import Envoy
from xds.policy.model import Direct
from xds.resources import ResourceType, build_resource
from xds.snapshot import build_snapshot

if TYPE_CHECKING:
    from xds.snapshot import Snapshot

SOMEWHERE = Connection(ip_address("203.0.113.9"), 443, Protocol.TLS, "api.example")


def snapshot_of(*listeners: Listener) -> Snapshot:
    return build_snapshot(build_resource(ResourceType.LISTENER, item.name, item) for item in listeners)


def to_chain(name: str) -> Matcher:
    action = TypedExtensionConfig(name=name, typed_config=Any.pack(StringValue(value=name)))
    return Matcher(on_no_match=MatcherOnMatch(action=action))


def outbound(*filters: Filter, matcher: Matcher | None) -> Listener:
    chains = [FilterChain(name="one", filters=list(filters))]
    return Listener(name=names.OUTBOUND_LISTENER, filter_chains=chains, filter_chain_matcher=matcher)


ECHO = Filter(name="echo", typed_config=Any.pack(Echo()))
NOWHERE = Filter(name="tcp", typed_config=Any.pack(TcpProxy(stat_prefix="x", cluster="nowhere")))

UNKNOWN = [
    pytest.param(snapshot_of(), "no listener egress-outbound", id="no listener"),
    pytest.param(snapshot_of(outbound(ECHO, matcher=None)), "without a matcher", id="chains chosen otherwise"),
    pytest.param(snapshot_of(outbound(ECHO, matcher=to_chain("one"))), "Echo", id="a filter that is not known"),
    pytest.param(snapshot_of(outbound(matcher=to_chain("one"))), "terminal filter", id="a chain without an end"),
    pytest.param(snapshot_of(outbound(ECHO, matcher=to_chain("two"))), "chooses two", id="a chain that is not there"),
    pytest.param(
        snapshot_of(outbound(NOWHERE, matcher=to_chain("one"))), "no cluster nowhere", id="a cluster that is not there"
    ),
]


@pytest.mark.parametrize(("snapshot", "words"), UNKNOWN)
def test_what_is_not_known_is_said(snapshot: Snapshot, words: str) -> None:
    with pytest.raises(UnknownConfigurationError, match=words) as raised:
        Envoy(snapshot).take(SOMEWHERE)

    assert raised.value.exit_code == 1
    assert "access log" in str(raised.value)


def test_a_connection_that_no_chain_takes_is_closed() -> None:
    envoy = Envoy(compile_good(policy(rule(Direct(), "10.0.0.0/8"))))
    envoy.listener.filter_chain_matcher = Matcher(matcher_tree=envoy.listener.filter_chain_matcher.matcher_tree)  # type: ignore[union-attr]  # there is one
    taken = envoy.take(SOMEWHERE)
    assert (taken.chain, taken.outcome.fate, taken.hops) == ("", Fate.CLOSED, (Hop(""),))


@pytest.mark.parametrize("text", ["100%", "%NO_SUCH_THING%", "%lower%"])
def test_a_format_that_is_not_known_is_never_taken_literally(text: str) -> None:
    with pytest.raises(UnknownConfigurationError):
        expand(text, {"PORT": "1"})


def test_formats_are_expanded_as_envoy_does() -> None:
    assert expand("%HOST%%PORT%:100%%", {"HOST": "a", "PORT": "1"}) == "a1:100%"


@pytest.mark.parametrize("type_url", ["type.googleapis.com/no.such.Message", ""])
def test_a_message_of_a_type_that_is_not_known_is_said(type_url: str) -> None:
    with pytest.raises(UnknownConfigurationError):
        unpack(Filter(name="x", typed_config=Any(type_url=type_url)))


def test_without_listeners_for_names_no_name_is_answered() -> None:
    snapshot = compile_good(policy())

    assert resolve(snapshot, "api.example") == ()
    assert names_at(snapshot, ip_address("198.18.0.1")) == ()


def test_without_explicit_mode_nothing_is_asked() -> None:
    snapshot = compile_good(policy())

    assert not has_explicit(snapshot)
    with pytest.raises(UnknownConfigurationError, match="explicit mode"):
        ask(snapshot, "CONNECT", "api.example:443")
