"""Whatever list is rendered of a policy, no client goes direct by it where the policy says otherwise."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.oracle import Oracle
from tests.support.policies import CORP, WHERE, default, proxy
from xds.dialects.clients import CLIENTS, decide
from xds.explain.connection import Connection, Fate, Protocol
from xds.facts import DirectEndpoint, Facts
from xds.injection.environment import CannotDeliverError, Variables, render_env_mode, render_explicit_mode
from xds.policy.model import Default, Direct, DomainPattern, Policy, Rule

if TYPE_CHECKING:
    from xds.facts import Network

NOWHERE = ip_address("203.0.113.99")
"""An address that no rule of these policies has: where the names of these tests are, as far as anybody knows."""
EXAMPLES = max(1, settings().max_examples // 3)
"""Each draws several whole policies."""
PROTOCOLS = {"https": Protocol.TLS, "http": Protocol.HTTP_11}


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Draw a policy that is mostly direct rules; every other one is drawn from all that there are."""
    drawn = draw(strategies.policies())
    if draw(st.booleans()):
        return dataclasses.replace(drawn, server_first_ports=(), synthetic_ranges=())
    found = draw(st.lists(strategies.destinations(), max_size=5))
    sayable = [item for item in found if _is_sayable(item.host, has_ports=bool(item.ports))]
    rules = [Rule(name="direct", destinations=tuple(sayable), action=Direct(), http_action=Direct(), where=WHERE)]
    if draw(st.booleans()):
        others = draw(st.lists(strategies.destinations(), min_size=1, max_size=2))
        rules.append(Rule(name="corp", destinations=tuple(others), action=CORP, http_action=CORP, where=WHERE))
    return Policy(
        name="drawn",
        proxies=(proxy(),),
        rules=tuple(item for item in rules if item.destinations),
        default=draw(st.sampled_from([default(), Default(action=CORP, http_action=Direct())])),
        server_first_ports=(),
        always_direct=drawn.always_direct,
        where=WHERE,
    )


def _is_sayable(host: object, *, has_ports: bool) -> bool:
    match host:
        case DomainPattern(_, apex, subdomains):
            return subdomains or not apex
        case IPv4Network() | IPv6Network():
            return not has_ports or host.prefixlen == host.max_prefixlen
        case _:
            return False


@st.composite
def hosts(draw: st.DrawFn, policy: Policy) -> str:
    """Draw what stands in a URL: a name, or an address."""
    drawn = draw(strategies.connections(policy))
    named = draw(strategies.names())
    known = [
        item.host.name for rule in policy.rules for item in rule.destinations if isinstance(item.host, DomainPattern)
    ]
    below = [f"{label}{name}" for name in known for label in ("", "a.", "b.a.", "x")]
    return draw(st.sampled_from([str(drawn.address), named, *below]))


def connection(host: str, port: int, scheme: str) -> Connection:
    """Return what a sidecar would see of a client's URL."""
    try:
        address = ip_address(host)
    except ValueError:
        return Connection(NOWHERE, port, PROTOCOLS[scheme], host)
    return Connection(
        address, port, PROTOCOLS[scheme], "" if scheme == "https" else host if "." in host else f"[{host}]"
    )


def is_own(policy: Policy, host: str) -> bool:
    """Whether an entry of the policy is to be taken for `host` by most clients: `.x` is `x`, too."""
    below = {
        item.host.name
        for rule in policy.rules
        for item in rule.destinations
        if rule.action == Direct() and isinstance(item.host, DomainPattern) and not item.host.apex
    }
    return host in below or host in {"svc", "cluster.local"}


def goes_direct(client: str, no_proxy: str, host: str, port: int, scheme: str = "https") -> bool:
    """Whether the list makes `client` go direct, which it would not do without."""
    by_itself = decide(client, "unrelated.test", host, port, scheme=scheme).goes_direct
    return not by_itself and decide(client, no_proxy, host, port, scheme=scheme).goes_direct


def rendered(policy: Policy, networks: tuple[Network, ...]) -> Variables:
    try:
        return render_env_mode(policy, networks)
    except CannotDeliverError:
        assume(condition=False)
        raise


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_no_client_goes_direct_where_the_policy_says_otherwise(data: st.DataObject) -> None:
    policy = data.draw(policies())
    networks = tuple(data.draw(st.lists(strategies.networks().filter(lambda item: item.prefixlen > 0), max_size=2)))
    variables = rendered(policy, networks)
    facts = Facts(cluster_direct=tuple(DirectEndpoint(reason="the cluster", network=item) for item in networks))
    for _ in range(5):
        host, port = data.draw(hosts(policy)), data.draw(st.sampled_from(strategies.PORTS))
        scheme = data.draw(st.sampled_from(list(PROTOCOLS)))
        if is_own(policy, host):
            continue
        meant = Oracle(policy, facts).decide(connection(host, port, scheme)).fate
        for name in CLIENTS:
            has_proxy = dict(variables.items())[f"{scheme}_proxy"] != ""
            is_direct = not has_proxy or goes_direct(name, variables.no_proxy, host, port, scheme)
            assert meant is Fate.DIRECT or not is_direct, (name, scheme, host, port, variables.no_proxy)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_in_explicit_mode_no_client_passes_the_sidecar_but_to_what_is_always_direct(data: st.DataObject) -> None:
    policy = dataclasses.replace(
        data.draw(strategies.policies()), explicit_port=15002, server_first_ports=(), synthetic_ranges=()
    )
    networks = tuple(data.draw(st.lists(strategies.networks().filter(lambda item: item.prefixlen > 0), max_size=2)))
    no_proxy = render_explicit_mode(policy, networks).no_proxy
    facts = Facts(cluster_direct=tuple(DirectEndpoint(reason="the cluster", network=item) for item in networks))
    built_in = dataclasses.replace(policy, rules=(), default=default(), proxies=(proxy(),))
    for _ in range(5):
        host, port = data.draw(hosts(policy)), data.draw(st.sampled_from(strategies.PORTS))
        if host in {"svc", "cluster.local"}:
            continue
        meant = Oracle(built_in, facts).decide(connection(host, port, "https")).fate
        for name in CLIENTS:
            assert meant is Fate.DIRECT or not goes_direct(name, no_proxy, host, port), (name, host, no_proxy)
