"""`compile_snapshot`: what a policy becomes as a whole, and what it says when it can't."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import CORP, compile_good, default, endpoint, policy, proxy, rule
from xds import names
from xds.compile import compile_snapshot
from xds.compile.check import MAX_SEGMENTS
from xds.diagnostics import Where
from xds.explain.connection import Connection, Fate, Protocol
from xds.explain.walk import Envoy
from xds.facts import Facts
from xds.policy.model import Deny, Direct, ProxyTls, Tunnel
from xds.render import render_resource
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.policy.model import Policy, Proxy, Rule

DIRECT, DENY = Direct(), Deny()
HERE = Where("file.yaml", "spec.proxies.corp", 7)


def changing_its_mind(times: int) -> tuple[Rule, ...]:
    """Write rules whose actions and aspects both alternate, so that nothing commutes."""
    hosts = [f"host{index}.example" if index % 2 else f"10.{index}.0.0/16" for index in range(times)]
    return tuple(rule(DENY if index % 2 else CORP, host) for index, host in enumerate(hosts))


def test_a_policy_becomes_clusters_one_listener_and_its_routes() -> None:
    snapshot = compile_good(policy(proxies=(proxy("b"), proxy("a")), otherwise=default(Tunnel("a"))))

    ways_in = ["http-address-tunnel/a", "http-address-tunnel/b", "http-tunnel/a", "http-tunnel/b"]
    assert {kind: list(snapshot.of(kind)) for kind in ResourceType} == {
        ResourceType.CLUSTER: ["direct", *ways_in, "proxy/a", "proxy/b"],
        ResourceType.ENDPOINT: [],
        ResourceType.LISTENER: [names.OUTBOUND_LISTENER, *ways_in],
        ResourceType.ROUTE: ["http", "http-address/a", "http-address/b", "http-deny", "http/a", "http/b"],
        ResourceType.SECRET: [],
    }


def test_a_policy_without_proxies_has_one_way_out() -> None:
    snapshot = compile_good(policy(rule(DIRECT, "10.0.0.0/8"), proxies=(), otherwise=default(DENY)))

    assert list(snapshot.of(ResourceType.CLUSTER)) == [names.DIRECT_CLUSTER]


def test_a_policy_may_change_its_mind_as_often_as_messages_may_nest() -> None:
    envoy = Envoy(compile_good(policy(*changing_its_mind(MAX_SEGMENTS))))
    last = Connection(ip_address("203.0.113.1"), 443, Protocol.TLS, f"host{MAX_SEGMENTS - 1}.example")

    assert envoy.take(last).outcome.fate is Fate.CLOSED


def test_a_policy_that_changes_its_mind_too_often_is_refused_with_a_remedy() -> None:
    written = dataclasses.replace(policy(*changing_its_mind(MAX_SEGMENTS + 1)), where=HERE)
    compilation = compile_snapshot(written, Facts())
    (diagnostic,) = compilation.diagnostics

    assert compilation.snapshot is None
    assert (diagnostic.code, diagnostic.where) == ("EX501", HERE)
    assert f"{MAX_SEGMENTS + 1} times" in diagnostic.message
    assert "next to each other" in diagnostic.hint


def test_plain_http_alone_may_change_its_mind_too_often() -> None:
    rules = tuple(dataclasses.replace(item, action=CORP) for item in changing_its_mind(MAX_SEGMENTS + 1))

    assert [item.code for item in compile_snapshot(policy(*rules), Facts()).diagnostics] == ["EX501"]


@pytest.mark.parametrize(
    ("key", "hint"), [("httpsProxy", "tls.serverName in the long form"), ("spec.proxies.corp", "tls.serverName")]
)
def test_the_remedy_for_tls_to_an_address_is_one_of_the_form(key: str, hint: str) -> None:
    where = dataclasses.replace(HERE, key=key)
    corp = dataclasses.replace(proxy("corp", endpoint("10.0.0.1", tls=True)), where=where)

    (diagnostic,) = compile_snapshot(policy(proxies=(corp,)), Facts()).diagnostics

    assert diagnostic.hint.endswith(hint)


@pytest.mark.parametrize("host", ["10.0.0.1", "2001:db8::1"])
def test_tls_to_an_address_needs_a_name_to_verify(host: str) -> None:
    corp = dataclasses.replace(proxy("corp", endpoint(host, tls=True)), where=HERE)
    compilation = compile_snapshot(policy(proxies=(corp,)), Facts())
    (diagnostic,) = compilation.diagnostics

    assert compilation.snapshot is None
    assert (diagnostic.code, diagnostic.where) == ("EX502", HERE)
    assert "'corp'" in diagnostic.message
    assert "serverName" in diagnostic.hint


@pytest.mark.parametrize(
    "corp",
    [
        pytest.param(proxy("corp", endpoint("proxy.example", tls=True)), id="an endpoint with a name"),
        pytest.param(proxy("corp", endpoint("10.0.0.1")), id="an endpoint without TLS"),
        pytest.param(
            dataclasses.replace(proxy("corp", endpoint("10.0.0.1", tls=True)), tls=ProxyTls(server_name="p.example")),
            id="an address with a name given",
        ),
    ],
)
def test_tls_with_something_to_verify_is_accepted(corp: Proxy) -> None:
    assert compile_snapshot(policy(proxies=(corp,)), Facts()).diagnostics == ()


@pytest.mark.parametrize("hostile", ["%REQ(authorization)%", "100%", "%", "%%", "a%20b"])
def test_the_name_of_a_proxy_reaches_no_formatter(hostile: str) -> None:
    """A stray `%` would be a NACK, and a whole operator would say what it should not."""
    assert formatted_by(tunnelling_by(hostile)) == formatted_by(tunnelling_by("plain"))


def formatted_by(written: Policy) -> list[str]:
    """Collect all text with a `%` in it, anywhere."""
    snapshot = compile_good(written)
    rendered = [render_resource(item) for kind in ResourceType for item in snapshot.of(kind).values()]
    return sorted(text for text in strings_in(rendered) if "%" in text)


def strings_in(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from (text for pair in value.items() for part in pair for text in strings_in(part))
        case list():
            yield from (text for item in value for text in strings_in(item))
        case _:
            return


def tunnelling_by(name: str) -> Policy:
    return policy(proxies=(proxy(name),), otherwise=default(Tunnel(name)))
