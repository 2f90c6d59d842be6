"""What holds of every compiled policy, whatever it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.policies import compile_good
from xds.explain.walk import Envoy
from xds.render import render_resource
from xds.resources import RESOURCE_TYPES, ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.facts import Facts
    from xds.policy.model import Policy
    from xds.snapshot import Snapshot

ROOT = Path(__file__).parents[2]
slow = settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.too_slow])


def bodies_of(snapshot: Snapshot) -> dict[tuple[ResourceType, str], bytes]:
    return {(kind, name): item.any_body for kind in ResourceType for name, item in snapshot.of(kind).items()}


@slow
@given(policy=strategies.policies(), facts=strategies.facts())
def test_compiling_again_gives_the_same_bytes(policy: Policy, facts: Facts) -> None:
    one, other = compile_good(policy, facts), compile_good(policy, facts)

    assert bodies_of(one) == bodies_of(other)
    assert one == other


@slow
@given(data=st.data(), policy=strategies.policies(), facts=strategies.facts())
def test_order_that_means_nothing_changes_nothing(data: st.DataObject, policy: Policy, facts: Facts) -> None:
    """Entries of one list, endpoints of one priority, proxies, synthetic ranges, facts."""
    other = data.draw(strategies.reordered(policy))
    found = data.draw(strategies.reordered_facts(facts))

    assert bodies_of(compile_good(other, found)) == bodies_of(compile_good(policy, facts))


@slow
@given(policy=strategies.policies(), facts=strategies.facts())
def test_nothing_refers_to_what_is_not_there(policy: Policy, facts: Facts) -> None:
    """The snapshot checks what it is told of references; here they are read from the resources themselves."""
    snapshot = compile_good(policy, facts)
    rendered = [render_resource(item) for kind in ResourceType for item in snapshot.of(kind).values()]
    clusters = {name for name in values_of(rendered, "cluster") if "%" not in name}  # the access log's is a format
    routes = set(values_of(rendered, "route_config_name"))
    chosen = set(chains_chosen_by(rendered))

    assert clusters <= set(snapshot.of(ResourceType.CLUSTER))
    assert routes <= set(snapshot.of(ResourceType.ROUTE))
    assert chosen <= set(Envoy(snapshot).chains)
    told = {
        (RESOURCE_TYPES[item.kind], item.name)
        for kind in ResourceType
        for resource in snapshot.of(kind).values()
        for item in resource.references
    }
    assert {(ResourceType.CLUSTER, name) for name in clusters} <= told
    assert {(ResourceType.ROUTE, name) for name in routes} <= told


@slow
@given(policy=strategies.policies(), facts=strategies.facts())
def test_names_are_unique_and_bounded(policy: Policy, facts: Facts) -> None:
    snapshot = compile_good(policy, facts)
    envoy = Envoy(snapshot)
    hosts = [(table, host.name) for table, routes in envoy.routes.items() for host in routes.virtual_hosts]
    every = [name for kind in ResourceType for name in snapshot.of(kind)]

    assert len(envoy.chains) == len(envoy.listener.filter_chains)
    assert len(set(hosts)) == len(hosts)
    assert all(0 < len(name) <= 300 for name in [*(name for _, name in hosts), *envoy.chains, *every])


def values_of(value: object, key: str) -> Iterator[str]:
    """Yield every text that stands under `key`, at any depth."""
    match value:
        case dict():
            if isinstance(value.get(key), str):
                yield value[key]
            for item in value.values():
                yield from values_of(item, key)
        case list():
            for item in value:
                yield from values_of(item, key)
        case _:
            return


def chains_chosen_by(value: object) -> Iterator[str]:
    """Yield what the listener's tree may choose: the only strings on their own."""
    match value:
        case {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": str(name)}:
            yield name
        case dict():
            for item in value.values():
                yield from chains_chosen_by(item)
        case list():
            for item in value:
                yield from chains_chosen_by(item)
        case _:
            return


SCRIPT = """
import json
from ipaddress import ip_network
from tests.support.policies import CORP, compile_good, default, endpoint, policy, proxy, rule, to
from xds.facts import DirectEndpoint, Facts
from xds.policy.model import AlwaysDirect, Deny, Direct, Tunnel
from xds.resources import ResourceType

found = [DirectEndpoint(reason=reason, network=ip_network(net)) for reason, net in
         {("DNS", "10.96.0.10/32"), ("the API server", "10.96.0.1/32"), ("the control plane", "10.96.0.2/32")}]
hosts = sorted({f"host{index}.example" for index in range(50)})
nets = sorted({f"10.{index}.0.0/16" for index in range(50)})
snapshot = compile_good(
    policy(
        rule(Direct(), *hosts, *nets, to("*", 22), to("a.example", 80, 443)),
        rule(Deny(), "ads.example", "0.0.0.0/0"),
        rule(Tunnel("other"), "www.host7.example"),
        proxies=tuple(proxy(name, endpoint(f"{name}.example", tls=True), endpoint()) for name in ("corp", "other")),
        always_direct=AlwaysDirect(),
        synthetic=("198.18.0.0/15",),
    ),
    Facts(always_direct=tuple(found)),
)
found = [item for kind in ResourceType for item in snapshot.of(kind).values()]
print(json.dumps({f"{item.kind.name}/{item.name}": item.version for item in found}))
"""


def versions_with_seed(seed: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    versions = json.loads(done.stdout)
    assert isinstance(versions, dict)
    return versions


def test_two_processes_agree_on_every_version() -> None:
    """Sets and dictionaries are hashed differently in each of them."""
    one, other = versions_with_seed("1"), versions_with_seed("2")

    assert {name.partition("/")[0] for name in one} == {"LISTENER", "ROUTE", "CLUSTER"}
    assert one == other
