"""Istio is told of the corporate proxies as exactly as it can tell connections apart, and never of more."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import endpoint, policy, proxy
from xds.injection.service_entry import render_service_entries
from xds.policy.model import ProxyTls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.policy.model import Endpoint, Policy, Proxy

NAME = "proxy.corp.example"


def specs(*proxies: Proxy) -> list[Mapping[str, object]]:
    """Return what the entries of a policy with these proxies say."""
    found: list[Mapping[str, object]] = []
    for entry in render_service_entries(policy(proxies=proxies), "shop"):
        spec = entry["spec"]
        assert isinstance(spec, dict)
        found.append(spec)
    return found


def with_server_name(name: str, *endpoints: Endpoint) -> Proxy:
    return dataclasses.replace(proxy("corp", *endpoints), tls=ProxyTls(server_name=name))


def test_an_entry_is_for_the_pods_of_its_namespace_and_opaque_to_istio() -> None:
    (entry,) = render_service_entries(policy(proxies=(proxy("corp", endpoint(NAME)),)), "shop")

    assert entry == {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "egress-xds-proxy-corp-example-3128-0ab93dba", "namespace": "shop"},
        "spec": {
            "hosts": [NAME],
            "ports": [{"number": 3128, "name": "tcp-proxy", "protocol": "TCP"}],
            "location": "MESH_EXTERNAL",
            "resolution": "DNS",
            "endpoints": [{"address": NAME}],
            "exportTo": ["."],
        },
    }


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("tls", [False, True])
def test_an_address_is_told_by_address_and_port(address: str, *, tls: bool) -> None:
    (spec,) = specs(with_server_name(NAME, endpoint(address, tls=tls)))

    assert (spec["addresses"], spec["resolution"]) == ([address], "NONE")
    assert spec["ports"] == [{"number": 3128, "name": "tcp-proxy", "protocol": "TCP"}]
    assert str(spec["hosts"]).endswith(".invalid']")


@pytest.mark.parametrize(
    ("server_name", "told"), [(None, NAME), ("other.corp.example", "other.corp.example")], ids=["its own", "another"]
)
def test_tls_is_told_by_the_server_name_that_is_sent(server_name: str | None, told: str) -> None:
    corp = dataclasses.replace(proxy("corp", endpoint(NAME, tls=True)), tls=ProxyTls(server_name=server_name))
    (spec,) = specs(corp)

    assert (spec["hosts"], spec["resolution"], spec["endpoints"]) == ([told], "DNS", [{"address": NAME}])
    assert spec["ports"] == [{"number": 3128, "name": "tls-proxy", "protocol": "TLS"}]


def test_tls_that_sends_no_server_name_is_told_by_its_port() -> None:
    (spec,) = specs(with_server_name("192.0.2.9", endpoint(NAME, tls=True)))

    assert (spec["hosts"], spec["ports"]) == ([NAME], [{"number": 3128, "name": "tcp-proxy", "protocol": "TCP"}])


def test_names_that_share_a_port_are_reached_where_they_were_dialled() -> None:
    """By the port alone Istio would send what is for one to the other."""
    (spec,) = specs(proxy("corp", endpoint("b.example")), proxy("other", endpoint("a.example")))

    assert (spec["hosts"], spec["resolution"]) == (["a.example", "b.example"], "NONE")
    assert "endpoints" not in spec


def test_hosts_that_share_a_server_name_are_reached_where_they_were_dialled() -> None:
    (spec,) = specs(with_server_name(NAME, endpoint("a.example", tls=True), endpoint("b.example", tls=True)))

    assert (spec["hosts"], spec["resolution"]) == ([NAME], "NONE")


def test_names_with_tls_keep_their_own_entries_on_one_port() -> None:
    found = specs(proxy("corp", endpoint("a.example", 443, tls=True), endpoint("b.example", 443, tls=True)))

    assert [(spec["hosts"], spec["resolution"]) for spec in found] == [(["a.example"], "DNS"), (["b.example"], "DNS")]


def test_a_name_that_istio_would_refuse_is_in_no_entry() -> None:
    (spec,) = specs(proxy("corp", endpoint("corp_proxy.example")))

    assert (spec["hosts"], spec["resolution"]) == (["corp-proxy-example.egress-xds.invalid"], "NONE")


@pytest.mark.parametrize("host", ["squid.proxies.svc", "squid.proxies.svc.cluster.local"])
def test_a_service_of_the_cluster_keeps_its_name(host: str) -> None:
    assert specs(proxy("corp", endpoint(host))) == []


def test_an_endpoint_of_several_proxies_is_told_once() -> None:
    assert len(specs(proxy("corp", endpoint(NAME)), proxy("other", endpoint(NAME)))) == 1


def test_equal_policies_give_equal_entries_in_whatever_order_they_are_written() -> None:
    endpoints = [endpoint(f"proxy-{index}.example", 3128 + index % 3, tls=index % 2 == 0) for index in range(9)]

    def written(order: list[Endpoint]) -> Policy:
        return policy(proxies=(proxy("corp", *order),))

    assert render_service_entries(written(endpoints), "shop") == render_service_entries(
        written(endpoints[::-1]), "shop"
    )


def test_names_are_legal_and_tell_apart_what_reads_the_same() -> None:
    hosts = ["a-b.example", "a.b.example", "2001:db8::1", "x" * 63 + ".example", "x" * 63 + ".example.net"]
    ways = [endpoint(host, 443, tls=True) for host in hosts]
    names = [
        str(item["metadata"]["name"])  # type: ignore[index]  # what is rendered is plain data
        for item in render_service_entries(policy(proxies=(proxy("corp", *ways),)), "shop")
    ]

    assert names == sorted(set(names))
    assert len(names) == len(hosts)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)
