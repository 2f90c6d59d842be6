"""Verification of a bypass by name (N20): who is believed, who is not, and whoever left it open is told."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tests.unit.policy.policy_texts import codes, good, only, parse, rules

SHORT = "httpProxy: deny\nhttpsProxy: deny\ndialect: go\n"
NAMES = "to: {domains: [a.example, b.example]}"
DIRECT_RULE = f"{{name: a, {NAMES}, action: direct%s}}"


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(f"{{name: a, {NAMES}, action: direct}}", id="all of a rule"),
        pytest.param(f"{{name: a, {NAMES}, action: deny, http: {{action: direct}}}}", id="plain HTTP alone"),
    ],
)
def test_a_bypass_by_name_that_leaves_it_open_is_one_warning(rule: str) -> None:
    found = only(parse(rules(rule)))

    assert (found.code, found.where.key) == ("EX227", "spec.rules[0].to.domains")
    assert "`a.example` and 1 more" in found.message
    assert "`verify: none`" in found.hint


def test_each_rule_is_warned_of_by_itself() -> None:
    one, other = (f"{{name: {name}, to: {{domains: [{name}.example]}}, action: direct}}" for name in ("a", "b"))
    assert codes(parse(rules(one, other))) == ["EX227", "EX227"]


@pytest.mark.parametrize("verify", ["none", "[none]", "10.0.0.0/8", "[10.0.0.0/8, '2001:db8::/32']"])
def test_a_choice_ends_the_warning(verify: str) -> None:
    assert codes(parse(rules(DIRECT_RULE % f", verify: {verify}"))) == []


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(f"{{name: a, {NAMES}, action: deny}}", id="names that are refused"),
        pytest.param("{name: a, to: {cidrs: [10.0.0.0/8]}, action: direct}", id="networks"),
        pytest.param("{name: a, to: {ports: [443]}, action: direct}", id="ports"),
        pytest.param("{name: a, to: {domains: [localhost], cidrs: [10.0.0.0/8]}, action: direct}", id="no name left"),
    ],
)
def test_nobody_is_asked_to_verify_what_needs_it_not(rule: str) -> None:
    assert "EX227" not in codes(parse(rules(rule)))


def test_networks_are_merged() -> None:
    (rule,) = good(
        rules(DIRECT_RULE % ", verify: [10.1.0.0/16, '2001:db8::/33', 10.0.0.0/8, '2001:db8:8000::/33']")
    ).rules
    assert rule.verify == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


def test_none_beside_networks_is_refused() -> None:
    found = only(parse(rules(DIRECT_RULE % ", verify: [10.0.0.0/8, none]")))
    assert (found.code, found.where.key) == ("EX226", "spec.rules[0].verify[1]")


def test_a_rule_whose_names_are_in_error_is_not_told_that_it_has_none() -> None:
    rule = "{name: a, to: {domains: ['-a.example']}, action: direct, verify: 10.0.0.0/8}"
    assert codes(parse(rules(rule))) == ["EX201"]


def test_the_short_form_verifies_all_its_names() -> None:
    (rule,) = good(f"{SHORT}noProxy: [.corp.example, 192.0.2.0/24]\nnoProxyVerify: 10.0.0.0/8\n").rules
    assert rule.verify == (ip_network("10.0.0.0/8"),)


def test_the_short_form_is_warned_once_in_its_own_words() -> None:
    found = only(parse(f"{SHORT}noProxy: [.a.example, .b.example, 10.0.0.0/8]\n"))

    assert (found.code, found.where.key) == ("EX227", "noProxy")
    assert "`a.example` and 1 more" in found.message
    assert "`noProxyVerify: none`" in found.hint


@pytest.mark.parametrize("no_proxy", ["", "noProxy: 10.0.0.0/8\n", "noProxy: localhost\n"])
def test_the_short_form_needs_names_to_verify(no_proxy: str) -> None:
    assert "EX226" in codes(parse(f"{SHORT}{no_proxy}noProxyVerify: 10.0.0.0/8\n"))
