"""What this machine is found to know: addresses of proxies, and what is always direct."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from xds.facts import DirectEndpoint, Facts
from xds.flags import DirectAddress, HostPort
from xds.settings import Settings
from xds.sources import facts as module
from xds.sources.facts import NetworkFacts, read_name_servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 10.0


class Names:
    """A resolver for tests: addresses by name; a name without any does not resolve."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def ask(self, host: str, port: None, *, type: int) -> list[tuple[object, ...]]:  # noqa: A002  # getaddrinfo's
        del port, type
        self.asked.append(host)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in self.known[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    resolver = Names()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.ask)
    return resolver


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]  # structlog's event dictionaries are mutable mappings


def settings(**changes: object) -> Settings:
    """Return settings that find nothing by themselves, with these changes."""
    return Settings(**{"resolv_conf": None, **changes})  # type: ignore[arg-type]  # the fields have various types


async def collect(found: NetworkFacts, *hosts: str) -> Facts:
    return await found.collect(frozenset(hosts))


async def test_names_are_looked_up_and_addresses_are_not(names: Names) -> None:
    names.known["proxy.example"] = ["192.0.2.2", "192.0.2.1", "2001:db8::1", "192.0.2.2"]

    found = await collect(NetworkFacts(settings()), "proxy.example", "192.0.2.9", "2001:db8::9")

    expected = tuple(ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1"))
    assert found.addresses == {"proxy.example": expected}
    assert names.asked == ["proxy.example"]


async def test_equal_answers_in_another_order_are_equal_facts(names: Names) -> None:
    names.known["proxy.example"] = ["192.0.2.2", "192.0.2.1"]
    before = await collect(NetworkFacts(settings()), "proxy.example")
    names.known["proxy.example"].reverse()

    assert await collect(NetworkFacts(settings()), "proxy.example") == before


async def test_a_name_without_an_answer_is_left_out_and_said_once(names: Names, logs: list[dict[str, object]]) -> None:
    found = NetworkFacts(settings())

    for _ in range(2):
        assert (await collect(found, "proxy.example")).addresses == {}

    assert [entry["host"] for entry in logs] == ["proxy.example"]
    assert names.asked == ["proxy.example"]


async def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(*_: object, **__: object) -> list[object]:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(PATIENCE)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    async with asyncio.timeout(PATIENCE / 2):
        found = await collect(NetworkFacts(settings(resolve_timeout=0.05)), "a.example", "b.example")
    release.set()

    assert found.addresses == {}


async def watch_until_change(found: NetworkFacts) -> None:
    async with asyncio.timeout(PATIENCE):
        async for _ in found.changes():
            return


async def test_a_new_address_is_announced(names: Names) -> None:
    names.known["proxy.example"] = ["192.0.2.1"]
    found = NetworkFacts(settings(resolve_interval=0.02))
    await collect(found, "proxy.example")
    names.known["proxy.example"] = ["192.0.2.2"]

    await watch_until_change(found)

    assert (await collect(found, "proxy.example")).addresses == {"proxy.example": (IPv4Address("192.0.2.2"),)}


async def test_a_name_that_resolves_at_last_is_announced(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.02)
    found = NetworkFacts(settings())
    await collect(found, "proxy.example")
    names.known["proxy.example"] = ["192.0.2.1"]

    await watch_until_change(found)

    assert "proxy.example" in (await collect(found, "proxy.example")).addresses


async def test_a_failing_lookup_keeps_the_last_addresses(names: Names) -> None:
    names.known = {"a.example": ["192.0.2.1"], "b.example": ["192.0.2.5"]}
    found = NetworkFacts(settings(resolve_interval=0.02))
    await collect(found, "a.example", "b.example")
    names.known = {"b.example": ["192.0.2.6"]}

    await watch_until_change(found)

    addresses = (await collect(found, "a.example", "b.example")).addresses
    assert addresses["a.example"] == (IPv4Address("192.0.2.1"),)
    assert addresses["b.example"] == (IPv4Address("192.0.2.6"),)


async def test_a_name_that_nobody_needs_any_more_is_not_looked_up_again(names: Names) -> None:
    names.known = {"a.example": ["192.0.2.1"], "b.example": ["192.0.2.5"]}
    found = NetworkFacts(settings(resolve_interval=0.02))
    await collect(found, "a.example", "b.example")
    await collect(found, "b.example")
    names.asked.clear()
    names.known["b.example"] = ["192.0.2.6"]

    await watch_until_change(found)

    assert set(names.asked) == {"b.example"}


def test_name_servers_are_those_of_other_hosts(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# nameserver 192.0.2.99\nsearch corp.example\nnameserver 10.96.0.10\nnameserver 127.0.0.53\n"
        "nameserver fe80::1%eth0\nnameserver\nnameserver nonsense\nnameserver 10.96.0.10\n"
    )

    assert [str(address) for address in read_name_servers(file)] == ["10.96.0.10", "fe80::1"]
    assert read_name_servers(tmp_path / "none") == ()


@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "missing"])
async def test_name_servers_stay_while_resolv_conf_is_written_anew(tmp_path: Path, is_there: bool) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 10.96.0.10\n")
    source = NetworkFacts(settings(resolv_conf=file))
    before = await collect(source)

    file.write_text("") if is_there else file.unlink()
    meanwhile = await collect(source)
    file.write_text("nameserver 10.96.0.11\n")
    after = await collect(source)

    assert meanwhile == before
    assert [str(direct.network) for direct in after.always_direct] == ["10.96.0.11/32"]


async def test_what_is_always_direct_has_a_reason_and_ports(names: Names, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 10.96.0.10\n")
    names.known["api.example"] = ["10.0.0.6"]
    chosen = settings(
        resolv_conf=tmp_path / "resolv.conf",
        api_server=HostPort(host="api.example", port=6443),
        listen=HostPort(host="10.0.0.7", port=18000),
        always_direct=(DirectAddress(reason="metrics", network=ip_network("10.9.0.0/16")),),
    )

    found = await collect(NetworkFacts(chosen))

    assert found.addresses == {}
    assert found.always_direct == (
        DirectEndpoint(reason="DNS servers", network=ip_network("10.96.0.10"), ports=(53,)),
        DirectEndpoint(reason="metrics", network=ip_network("10.9.0.0/16")),
        DirectEndpoint(reason="the API server", network=ip_network("10.0.0.6"), ports=(6443,)),
        DirectEndpoint(reason="the control plane", network=ip_network("10.0.0.7"), ports=(18000,)),
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "localhost"])
async def test_an_address_that_means_this_host_is_no_fact_for_others(host: str) -> None:
    found = await collect(NetworkFacts(settings(listen=HostPort(host=host, port=18000))))

    assert found.always_direct == ()


@pytest.mark.parametrize(("families", "has_ipv6"), [("dual", True), ("ipv4", False)])
async def test_pods_without_ipv6_are_what_the_operator_says(families: str, *, has_ipv6: bool) -> None:
    facts = await collect(NetworkFacts(settings(ip_families=families)))

    assert facts.has_ipv6 is has_ipv6


async def test_the_ranges_of_the_cluster_are_facts_in_one_form() -> None:
    given = tuple(ip_network(text) for text in ("fd00:10::/56", "10.97.0.0/16", "10.96.0.0/16"))

    found = await NetworkFacts(settings(cluster_cidr=given)).collect(frozenset())

    assert found.cluster_ranges == (ip_network("10.96.0.0/15"), ip_network("fd00:10::/56"))
