"""The networks of a cluster: as few as say it, whatever the API server is able or allowed to tell."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from xds.kubernetes.networks import ClusterNetworks, build_networks

SERVICES = (ip_network("10.96.0.0/12"),)


def networks(*texts: str) -> tuple[object, ...]:
    """Parse networks."""
    return tuple(map(ip_network, texts))


def test_services_within_a_known_network_are_not_listed() -> None:
    found = build_networks(service_cidrs=[SERVICES], services=[(ip_address("10.96.0.1"),)], nodes=[])

    assert found.services == SERVICES


def test_without_known_networks_each_service_is_listed() -> None:
    found = build_networks(
        service_cidrs=[],
        services=[(ip_address("10.96.0.1"), ip_address("fd00::1")), (ip_address("10.96.0.9"),)],
        nodes=[],
    )

    assert found.services == networks("10.96.0.1", "10.96.0.9", "fd00::1")


def test_neighbouring_nodes_make_one_network() -> None:
    nodes = [(ip_network("10.244.1.0/24"), ip_network("192.0.2.10")), (ip_network("10.244.0.0/24"),)]

    found = build_networks(service_cidrs=[], services=[], nodes=nodes)

    assert found == build_networks(service_cidrs=[], services=[], nodes=reversed(nodes))
    assert found.nodes == networks("10.244.0.0/23", "192.0.2.10")


@pytest.mark.parametrize("everything", ["0.0.0.0/0", "::/0"])
def test_a_network_that_is_everything_never_makes_everything_direct(everything: str) -> None:
    whole = (ip_network(everything),)

    assert build_networks(service_cidrs=[whole], services=[], nodes=[whole]) == ClusterNetworks()


def test_halves_of_everything_do_not_either() -> None:
    halves = (ip_network("0.0.0.0/1"), ip_network("128.0.0.0/1"))

    assert build_networks(service_cidrs=[halves], services=[], nodes=[halves]) == ClusterNetworks()


def test_each_network_is_direct_with_its_reason() -> None:
    found = build_networks(service_cidrs=[SERVICES], services=[], nodes=[(ip_network("10.244.0.0/16"),)])

    assert {(str(direct.network), direct.reason) for direct in found.direct} == {
        ("10.96.0.0/12", "Services of the cluster"),
        ("10.244.0.0/16", "pods and nodes of the cluster"),
    }
    assert found.ranges == networks("10.96.0.0/12", "10.244.0.0/16")


def test_many_networks_that_add_up_to_everything_do_not_either() -> None:
    parts = tuple(ip_network(f"{first}.0.0.0/8") for first in range(256))

    assert build_networks(service_cidrs=[parts], services=[], nodes=[parts]) == ClusterNetworks()
