"""A real Envoy takes what the golden cases are too tame for, and refuses what it should."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import CORP, compile_good, default, endpoint, policy, proxy, rule, to
from tests.support.validation import complaints_of_envoy
from xds import names
from xds.compile import compile_snapshot
from xds.compile.check import MAX_SEGMENTS
from xds.compile.clusters import build_proxy_cluster
from xds.compile.proxy_files import Material
from xds.facts import Facts
from xds.policy.model import Deny, Direct, ProxyTls, Tunnel, UnknownName
from xds.resources import ResourceType, build_resource
from xds.snapshot import build_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from xds.policy.model import Policy, Rule

pytestmark = pytest.mark.e2e
DIRECT, DENY = Direct(), Deny()


def restless(times: int, kinds: tuple[str, str] = ("host{}.example", "10.{}.0.0/16")) -> tuple[Rule, ...]:
    """Write rules that look at another thing each time, on some ports only, so that nothing commutes or ends early."""
    hosts = [to(kinds[index % 2].format(index), 80, 443 + index) for index in range(times)]
    return tuple(rule((DENY, CORP, DIRECT)[index % 3], host) for index, host in enumerate(hosts))


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(
            policy(
                *restless(MAX_SEGMENTS - 1),
                proxies=(proxy(connect_ports=(443, 8443)),),
                otherwise=default(unknown=UnknownName.DENY),
            ),
            id="as many look-ups as are allowed, the one for the proxy itself among them",
        ),
        pytest.param(
            dataclasses.replace(
                policy(
                    *restless(MAX_SEGMENTS - 3, ("host{}.example", "*")),
                    proxies=(proxy(connect_ports=(443, 8443)),),
                    otherwise=default(unknown=UnknownName.DENY),
                ),
                explicit_port=15002,
            ),
            id="as many look-ups as are allowed, in explicit mode too",
        ),
        pytest.param(
            policy(proxies=(proxy("%REQ(x)%/" + "x" * 300),), otherwise=default(Tunnel("%REQ(x)%/" + "x" * 300))),
            id="a proxy whose name is long and odd",
        ),
        pytest.param(
            policy(rule(DENY, "0.0.0.0/0", "::/0", "10.0.0.0/8"), rule(DIRECT, to("*", 1, 65535))), id="all addresses"
        ),
        pytest.param(policy(rule(DENY, ".example", "=example"), rule(DIRECT, "a.b.c.example")), id="a single label"),
        pytest.param(
            policy(rule(DENY, "198.18.0.0/15"), synthetic=("198.18.0.0/15",)), id="a rule that matches nothing"
        ),
        pytest.param(policy(server_first_ports=(22,)), id="one port whose server speaks first"),
    ],
)
def test_a_real_envoy_accepts(written: Policy, tmp_path: Path) -> None:
    assert complaints_of_envoy(compile_good(written), tmp_path) == ""


def test_the_deepest_policy_is_as_deep_as_may_be() -> None:
    restless_by_one = policy(*restless(MAX_SEGMENTS))

    assert [item.code for item in compile_snapshot(restless_by_one, Facts()).diagnostics] == ["EX501"]


def test_a_real_envoy_refuses_an_authority_that_is_none(tmp_path: Path) -> None:
    """What shows that its silence means something."""
    corp = dataclasses.replace(proxy("corp", endpoint("proxy.example", tls=True)), tls=ProxyTls(ca_pem="no PEM"))
    cluster = build_proxy_cluster(corp, Material(authorities="no PEM"))
    broken = build_resource(ResourceType.CLUSTER, names.proxy_cluster("corp"), cluster)
    good = compile_good(policy())
    others = [item for kind in ResourceType for item in good.of(kind).values() if item.name != broken.name]

    assert "trusted CA" in complaints_of_envoy(build_snapshot([*others, broken]), tmp_path)
