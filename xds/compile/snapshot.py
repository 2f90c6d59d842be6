"""
`compile_snapshot`: the list of steps from a policy to its resources.

Pure: no clock, network, environment, randomness or logging. Equal arguments give byte-equal results.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from xds import names
from xds.compile.builtin import builtin_rules
from xds.compile.clusters import build_direct_cluster, build_proxy_cluster
from xds.compile.decisions import Plan, build_plan
from xds.compile.dns import build_dns_listeners
from xds.compile.explicit import (
    build_direct_by_name_cluster,
    build_explicit_listener,
    build_explicit_plans,
    build_explicit_routes,
)
from xds.compile.http_tunnels import build_http_tunnels
from xds.compile.listener import build_listener
from xds.compile.proxy_files import FILE_CODES, read_material
from xds.compile.proxy_tls import is_address
from xds.compile.routes import build_routes
from xds.compile.secrets import build_secrets, logins_of, secrets_of
from xds.compile.synthetic import Synthetic, build_synthetic, check_synthetic
from xds.compile.synthetic_chains import build_synthetic_routes
from xds.compile.wire import encode
from xds.diagnostics import Diagnostic
from xds.policy.model import DnsMode
from xds.resources import Reference, Resource, ResourceType, build_resource
from xds.snapshot import build_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.facts import Facts
    from xds.policy.model import Policy, Proxy
    from xds.snapshot import Snapshot

MAX_SEGMENTS = 40
"""Each look-up nests two messages deeper, and protobuf parsers stop at a hundred."""


@dataclass(frozen=True, slots=True)
class Compilation:
    """The result: `snapshot` is None exactly if a diagnostic is an error."""

    snapshot: Snapshot | None
    diagnostics: tuple[Diagnostic, ...]


def compile_snapshot(policy: Policy, facts: Facts) -> Compilation:
    """Compile one policy for all the pods that it is in force for."""
    rules = builtin_rules(policy, facts) + policy.rules
    shields = policy.synthetic_ranges
    plan = build_plan(rules, lambda rule: rule.action, policy.default.action, shields)
    http_plan = build_plan(rules, lambda rule: rule.http_action, policy.default.http_action, shields)
    synthetic = build_synthetic(policy, rules, plan, http_plan)
    diagnostics = tuple(_check(policy, facts, (plan, http_plan)))
    if synthetic is not None:
        diagnostics += tuple(check_synthetic(synthetic, policy, builtin_rules(policy, facts)))
    if any(diagnostic.is_error for diagnostic in diagnostics):
        return Compilation(None, diagnostics)
    return Compilation(build_snapshot(_build_resources(policy, facts, plan, http_plan, synthetic)), diagnostics)


def renew_files(known: Compilation, policy: Policy, facts: Facts) -> Compilation:
    """
    Return what `compile_snapshot` would, given what it made of facts that differ in files and time only.

    A large policy takes seconds to compile, and a new login must be in force within one.
    """
    assert known.snapshot is not None, "there is nothing to renew"
    findings = tuple(finding for proxy in policy.proxies for finding in read_material(proxy, facts)[1])
    diagnostics = (*(finding for finding in known.diagnostics if finding.code not in FILE_CODES), *findings)
    if any(finding.is_error for finding in findings):
        return Compilation(None, diagnostics)
    clusters = {names.proxy_cluster(proxy.name): proxy for proxy in policy.proxies}
    renewed = [resource for name, proxy in clusters.items() for resource in _build_proxy(name, proxy, facts)]
    made = {(resource.kind, resource.name) for resource in renewed}
    kept = [
        resource
        for kind in ResourceType
        for resource in known.snapshot.of(kind).values()
        if (kind, resource.name) not in made
    ]
    return Compilation(build_snapshot([*kept, *renewed]), diagnostics)


def _build_resources(
    policy: Policy, facts: Facts, plan: Plan, http_plan: Plan, synthetic: Synthetic | None
) -> Iterable[Resource]:
    proxies = [names.proxy_cluster(proxy.name) for proxy in policy.proxies]
    clusters = [Reference(ResourceType.CLUSTER.type_url, name) for name in (names.DIRECT_CLUSTER, *proxies)]
    routes = list(build_routes(http_plan.split_leading()[1], policy))
    if synthetic is not None:
        routes.append(build_synthetic_routes(http_plan, policy))
        for answering in build_dns_listeners(synthetic, has_ipv6=facts.has_ipv6):
            yield build_resource(ResourceType.LISTENER, answering.name, encode(answering))
    routes_references = [Reference(ResourceType.ROUTE.type_url, configuration.name) for configuration in routes]
    yield _build_direct()
    for name, proxy in zip(proxies, policy.proxies, strict=True):
        yield from _build_proxy(name, proxy, facts)
    logins = logins_of(policy.proxies)
    ways_in = list(build_http_tunnels(policy))
    for name, cluster, inside in ways_in:
        inside_reference = Reference(ResourceType.LISTENER.type_url, name)
        yield build_resource(ResourceType.CLUSTER, name, encode(cluster), [inside_reference])
        yield build_resource(ResourceType.LISTENER, name, encode(inside), [*clusters, *logins])
    clusters += [Reference(ResourceType.CLUSTER.type_url, name) for name, _, _ in ways_in]
    listener = build_listener(policy, plan, http_plan, has_ipv6=facts.has_ipv6, synthetic=synthetic)
    references = [*clusters, *routes_references, *logins]
    yield build_resource(ResourceType.LISTENER, names.OUTBOUND_LISTENER, encode(listener), references)
    if policy.explicit_port is not None:
        yield from _build_explicit(policy, facts, clusters)
    for configuration in routes:
        yield build_resource(ResourceType.ROUTE, configuration.name, encode(configuration), clusters)


@lru_cache(maxsize=1)
def _build_direct() -> Resource:
    return build_resource(ResourceType.CLUSTER, names.DIRECT_CLUSTER, encode(build_direct_cluster()))


def _explicit_plans(policy: Policy, facts: Facts) -> tuple[Plan, ...]:
    if policy.explicit_port is None:
        return ()
    plans = build_explicit_plans(builtin_rules(policy, facts) + policy.rules, policy)
    return plans.connect, plans.http


def _build_explicit(policy: Policy, facts: Facts, clusters: list[Reference]) -> Iterable[Resource]:
    """Build the listener for applications that know of a proxy, its routes and its cluster."""
    plans = build_explicit_plans(builtin_rules(policy, facts) + policy.rules, policy)
    direct = Reference(ResourceType.CLUSTER.type_url, names.DIRECT_BY_NAME_CLUSTER)
    routes = Reference(ResourceType.ROUTE.type_url, names.EXPLICIT_CHAIN)
    listener = build_explicit_listener(policy, has_ipv6=facts.has_ipv6)
    configuration = build_explicit_routes(plans, policy)
    yield build_resource(ResourceType.CLUSTER, names.DIRECT_BY_NAME_CLUSTER, encode(build_direct_by_name_cluster()))
    yield build_resource(ResourceType.LISTENER, names.EXPLICIT_LISTENER, encode(listener), [*clusters, direct, routes])
    yield build_resource(ResourceType.ROUTE, names.EXPLICIT_CHAIN, encode(configuration), [*clusters, direct])


def _build_proxy(name: str, proxy: Proxy, facts: Facts) -> Iterable[Resource]:
    """Build the cluster of a proxy and the secrets that it waits for."""
    material, _ = read_material(proxy, facts)
    yield build_resource(ResourceType.CLUSTER, name, encode(build_proxy_cluster(proxy, material)), secrets_of(proxy))
    yield from build_secrets(proxy, material)


def _check(policy: Policy, facts: Facts, plans: Iterable[Plan]) -> Iterable[Diagnostic]:
    deepest = max(len(plan.segments) for plan in (*plans, *_explicit_plans(policy, facts)))
    # Two more look-ups are for the addresses that stand for names.
    most = MAX_SEGMENTS - 2 * (policy.dns_mode is DnsMode.CAPTURE)
    if deepest > most:
        yield Diagnostic(
            "EX501",
            policy.where,
            f"the rules change between names, addresses and ports {deepest} times; {most} is the most",
            "put rules with the same action next to each other, addresses before names",
        )
    for proxy in policy.proxies:
        yield from read_material(proxy, facts)[1]
        for endpoint in proxy.endpoints:
            if endpoint.tls and is_address(endpoint.host) and proxy.tls.server_name is None:
                yield Diagnostic(
                    "EX502",
                    proxy.where,
                    f"proxy {proxy.name!r} is reached by TLS at an address, so its certificate names an unknown host",
                    "write the proxy's name in its URL, or the name in its certificate as tls.serverName",
                )
