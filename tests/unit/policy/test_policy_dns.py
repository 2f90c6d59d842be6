"""Names in `to.tcp` and the ranges of addresses that stand for names."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.unit.policy.policy_texts import codes, good, long_form, only, parse, to_rule
from xds.policy.model import Destination, DnsMode, DomainPattern

BOTH = "dns: {mode: capture, syntheticRange: [198.18.0.0/15, 'fd00:18::/64']}"


def with_dns(dns: str) -> str:
    return long_form(f"default: {{action: deny}}\ndns: {dns}")


def test_capture_keeps_its_ranges() -> None:
    policy = good(long_form(f"default: {{action: deny}}\n{BOTH}"))

    assert policy.dns_mode is DnsMode.CAPTURE
    assert policy.synthetic_ranges == (ip_network("198.18.0.0/15"), ip_network("fd00:18::/64"))


@pytest.mark.parametrize(
    ("dns", "code"),
    [
        pytest.param("{mode: capture}", "EX230", id="no range"),
        pytest.param("{mode: capture, syntheticRange: []}", "EX230", id="an empty list of ranges"),
        pytest.param("{syntheticRange: [198.18.0.0/15, 198.19.0.0/16]}", "EX231", id="one range inside another"),
        pytest.param("{syntheticRange: ['fd00::/64', 'fd00::/48']}", "EX231", id="IPv6 ranges that overlap"),
        pytest.param("{mode: capture, syntheticRange: [198.18.0.0/31, 'fd00::/64']}", "EX231", id="no room, IPv4"),
        pytest.param("{mode: capture, syntheticRange: [198.18.0.0/15, 'fd00::/127']}", "EX231", id="no room, IPv6"),
        pytest.param("{mode: capture, syntheticRange: [127.0.0.0/8, 'fd00::/64']}", "EX231", id="loopback"),
        pytest.param("{mode: capture, syntheticRange: [224.0.0.0/8, 'fd00::/64']}", "EX231", id="multicast"),
        pytest.param("{mode: capture, syntheticRange: [198.18.0.0/15, 'fe80::/64']}", "EX231", id="link-local"),
    ],
)
def test_ranges_that_no_name_can_use_are_errors(dns: str, code: str) -> None:
    found = only(parse(with_dns(dns)))

    assert (found.code, found.is_error) == (code, True)
    assert found.where.line


@pytest.mark.parametrize("network", ["198.18.0.0/15", "fd00::/64"])
def test_names_of_one_family_are_worth_a_warning(network: str) -> None:
    assert codes(parse(with_dns(f"{{mode: capture, syntheticRange: ['{network}']}}"))) == ["EX234"]


def test_the_same_range_twice_is_one_range() -> None:
    ranges = "{syntheticRange: [198.18.0.0/15, 198.18.0.1/15]}"

    assert good(with_dns(ranges)).synthetic_ranges == (ip_network("198.18.0.0/15"),)


def test_a_name_of_tcp_is_one_name_with_its_ports() -> None:
    tcp = "[{host: DB.Partner.Example., ports: [5433, 5432]}, {host: db.partner.example, ports: [1]}]"
    (rule,) = good(to_rule(f"{{tcp: {tcp}}}", "tunnel", extra=BOTH)).rules

    name = DomainPattern("db.partner.example", subdomains=False)
    assert rule.destinations == (Destination(name, (1, 5432, 5433), plain_tcp=True),)


def test_names_of_tcp_and_domains_stay_apart() -> None:
    (rule,) = good(to_rule("{domains: [a.example], tcp: [{host: a.example}], ports: [9]}", "tunnel", extra=BOTH)).rules

    assert rule.destinations == (
        Destination(DomainPattern("a.example"), (9,)),
        Destination(DomainPattern("a.example", subdomains=False), (9,), plain_tcp=True),
    )


@pytest.mark.parametrize(
    ("host", "action", "extra", "code"),
    [
        pytest.param("db.example", "tunnel", "", "EX232", id="a name without addresses for names"),
        pytest.param("db.example", "direct", BOTH, "EX233", id="a name that goes direct"),
        pytest.param("*.db.example", "tunnel", BOTH, "EX204", id="a wildcard"),
        pytest.param(".db.example", "tunnel", BOTH, "EX204", id="all below a name"),
        pytest.param("-db.example", "tunnel", BOTH, "EX201", id="no name"),
    ],
)
def test_what_is_no_name_for_tcp_is_an_error(host: str, action: str, extra: str, code: str) -> None:
    found = only(parse(to_rule(f"{{tcp: [{{host: '{host}', ports: [5432]}}]}}", action, extra=extra)))

    assert (found.code, found.where.key) == (code, "spec.rules[0].to.tcp[0].host")


def test_a_name_without_capture_names_the_remedy() -> None:
    found = only(parse(to_rule("{tcp: [{host: db.example, ports: [5432]}]}", "tunnel")))

    assert "dns: {mode: capture" in found.hint


def test_so_many_ranges_that_comparing_them_takes_long_are_refused() -> None:
    ranges = ", ".join(f"10.{n}.0.0/16" for n in range(65))
    assert only(parse(long_form(f"default: {{action: deny}}\ndns: {{syntheticRange: [{ranges}]}}"))).code == "EX231"
