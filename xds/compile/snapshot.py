"""
`compile_snapshot`: the list of steps from a policy to its resources.

Pure: no clock, network, environment, randomness or logging. Equal arguments give byte-equal results.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from xds import names
from xds.compile.check import Checked, Compilation, check_policy
from xds.compile.clusters import build_direct_cluster, build_proxy_cluster
from xds.compile.dns import build_dns_listeners
from xds.compile.explicit import (
    build_direct_by_name_cluster,
    build_explicit_listener,
    build_explicit_routes,
)
from xds.compile.http_tunnels import build_http_tunnels
from xds.compile.listener import build_listener
from xds.compile.proxy_files import FILE_CODES, read_material
from xds.compile.routes import build_routes
from xds.compile.secrets import build_secrets, logins_of, secrets_of
from xds.compile.synthetic_chains import build_synthetic_routes
from xds.compile.wire import encode
from xds.resources import Reference, Resource, ResourceType, build_resource
from xds.snapshot import build_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.compile.explicit_plans import ExplicitPlans
    from xds.facts import Facts
    from xds.policy.model import Policy, Proxy


def compile_snapshot(policy: Policy, facts: Facts) -> Compilation:
    """Compile one policy for all the pods that it is in force for."""
    checked = check_policy(policy, facts)
    snapshot = build_snapshot(_build_resources(policy, facts, checked)) if checked.is_good else None
    return Compilation(snapshot, checked.diagnostics)


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


def _build_resources(policy: Policy, facts: Facts, checked: Checked) -> Iterable[Resource]:
    plan, http_plan, synthetic = checked.plan, checked.http_plan, checked.synthetic
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
    if checked.explicit is not None:
        yield from _build_explicit(policy, facts, checked.explicit, clusters)
    for configuration in routes:
        yield build_resource(ResourceType.ROUTE, configuration.name, encode(configuration), clusters)


@lru_cache(maxsize=1)
def _build_direct() -> Resource:
    return build_resource(ResourceType.CLUSTER, names.DIRECT_CLUSTER, encode(build_direct_cluster()))


def _build_explicit(
    policy: Policy, facts: Facts, plans: ExplicitPlans, clusters: list[Reference]
) -> Iterable[Resource]:
    """Build the listener for applications that know of a proxy, its routes and its cluster."""
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
