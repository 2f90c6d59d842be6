"""Explicit mode: what it asks for and of whom, who decides, and that nothing goes round in circles."""

from __future__ import annotations

import dataclasses

import pytest
from envoy_data_plane.envoy.config.listener.v3 import Listener

from tests.support.policies import CORP, compile_good, default, endpoint, policy, proxy, rule, to
from xds import names
from xds.explain.connection import Fate, Outcome
from xds.explain.explicit import ask
from xds.facts import Facts
from xds.policy.model import BasicLogin, Deny, Direct, PlainHttp, Policy, Rule, UnknownName
from xds.resources import ResourceType

DIRECT, DENY = Direct(), Deny()
FORBIDDEN = Outcome(Fate.FORBIDDEN)
DIALLED = Outcome(Fate.DIRECT, names.DIRECT_BY_NAME_CLUSTER)


def explicit(*rules: Rule, base: Policy | None = None) -> Policy:
    return dataclasses.replace(base or policy(*rules), explicit_port=15002)


def tunnelled(target: str) -> Outcome:
    return Outcome(Fate.TUNNELLED, "proxy/corp", target)


def forwarded(url: str) -> Outcome:
    return Outcome(Fate.FORWARDED, "proxy/corp", url)


@pytest.mark.parametrize(
    ("method", "authority", "expected"),
    [
        ("CONNECT", "a.example:443", tunnelled("a.example:443")),
        ("GET", "a.example", forwarded("http://a.example/")),
        ("GET", "a.example:80", forwarded("http://a.example/")),
        ("GET", "a.example:8080", forwarded("http://a.example:8080/")),
        ("CONNECT", "192.0.2.7:22", tunnelled("192.0.2.7:22")),
        ("GET", "[2001:db8::1]", forwarded("http://[2001:db8::1]:80/")),
        ("CONNECT", "denied.example:443", FORBIDDEN),
        ("CONNECT", "DENIED.example.:443", FORBIDDEN),
        ("GET", "denied.example", FORBIDDEN),
        ("CONNECT", "direct.example:443", DIALLED),
        ("GET", "www.direct.example:8080", DIALLED),
        ("CONNECT", "10.1.2.3:5432", DIALLED),
        ("GET", "[fd00::1]:80", DIALLED),
        ("CONNECT", "ports.example:443", FORBIDDEN),
        ("CONNECT", "ports.example:8443", tunnelled("ports.example:8443")),
        ("GET", "both.example", forwarded("http://both.example/")),
        ("CONNECT", "both.example:443", FORBIDDEN),
        ("CONNECT", "a.example:0443", FORBIDDEN),
        ("CONNECT", "a.example:65535", tunnelled("a.example:65535")),
        ("CONNECT", "a.example:65536", FORBIDDEN),
        ("CONNECT", "a.example:0", FORBIDDEN),
        ("CONNECT", "[2001:db8::1]:443", tunnelled("[2001:db8::1]:443")),
        ("CONNECT", "[2001:db8::1]:0443", FORBIDDEN),
        ("CONNECT", "2130706433:443", FORBIDDEN),
        ("GET", "x@a.example", FORBIDDEN),
        ("GET", "0.0.0.0", FORBIDDEN),
        ("CONNECT", "a.example:15002", FORBIDDEN),
        ("GET", "127.0.0.1:15002", FORBIDDEN),
    ],
)
def test_the_authority_decides(method: str, authority: str, expected: Outcome) -> None:
    written = explicit(
        rule(DENY, "denied.example", to("ports.example", 443)),
        rule(DIRECT, "direct.example", "10.0.0.0/8", "fd00::/8"),
        rule(DENY, "both.example", http=CORP),
    )
    assert ask(compile_good(written), method, authority).outcome == expected


def test_what_names_no_host_is_treated_as_the_default_says() -> None:
    """N18."""
    snapshot = compile_good(explicit(base=policy(otherwise=default(unknown=UnknownName.DIRECT))))
    assert ask(snapshot, "CONNECT", "192.0.2.7:443").outcome == DIALLED
    assert ask(snapshot, "CONNECT", "a.example:443").outcome == tunnelled("a.example:443")


def test_a_proxy_that_is_asked_for_by_name_is_dialled_and_not_wrapped() -> None:
    """N15."""
    snapshot = compile_good(explicit(base=policy(proxies=(proxy("corp", endpoint("proxy.example")),))), Facts())
    assert ask(snapshot, "CONNECT", "proxy.example:3128").outcome == DIALLED
    assert ask(snapshot, "CONNECT", "proxy.example:443").outcome == tunnelled("proxy.example:443")


def test_ports_that_the_proxy_takes_count_for_connect_and_for_plain_http_in_tunnels() -> None:
    """N19."""
    corp = proxy(connect_ports=(443, 8080), plain_http=PlainHttp.CONNECT)
    snapshot = compile_good(explicit(base=policy(proxies=(corp,))))
    assert ask(snapshot, "CONNECT", "a.example:22").outcome == FORBIDDEN
    assert ask(snapshot, "CONNECT", "a.example:443").outcome == tunnelled("a.example:443")
    assert ask(snapshot, "GET", "a.example").outcome == FORBIDDEN
    assert ask(snapshot, "GET", "a.example:8080").outcome == tunnelled("a.example:8080")


def test_an_application_is_not_asked_for_the_login_that_is_given_for_it() -> None:
    for login in (None, BasicLogin(file="/login")):
        corp = dataclasses.replace(proxy(), login=login)
        snapshot = compile_good(explicit(base=policy(proxies=(corp,))), Facts(reads_files=False))
        served = snapshot.of(ResourceType.ROUTE)[names.EXPLICIT_CHAIN].body
        assert (b"proxy-authenticate" in served) is (login is not None)


@pytest.mark.parametrize("has_ipv6", [True, False])
def test_it_listens_on_loopback_alone(has_ipv6: bool) -> None:
    snapshot = compile_good(explicit(), Facts(has_ipv6=has_ipv6))
    listener = Listener.parse(snapshot.of(ResourceType.LISTENER)[names.EXPLICIT_LISTENER].body)
    found = [listener.address, *(item.address for item in listener.additional_addresses)]
    sockets = [item.socket_address for item in found if item is not None]
    assert [(item.address, item.port_value) for item in sockets if item is not None] == [
        ("127.0.0.1", 15002),
        ("::1", 15002),
    ][: 1 + has_ipv6]


def test_without_it_nothing_of_it_is_there() -> None:
    snapshot = compile_good(policy())
    assert names.EXPLICIT_LISTENER not in snapshot.of(ResourceType.LISTENER)
    assert names.DIRECT_BY_NAME_CLUSTER not in snapshot.of(ResourceType.CLUSTER)
    assert names.EXPLICIT_CHAIN not in snapshot.of(ResourceType.ROUTE)


def test_another_rule_changes_routes_and_no_listener() -> None:
    """N23."""
    one, other = (compile_good(explicit(rule(DENY, name))) for name in ("a.example", "b.example"))
    kind = ResourceType.LISTENER
    assert one.of(kind)[names.EXPLICIT_LISTENER].version == other.of(kind)[names.EXPLICIT_LISTENER].version
    assert one.of(ResourceType.ROUTE)[names.EXPLICIT_CHAIN] != other.of(ResourceType.ROUTE)[names.EXPLICIT_CHAIN]
