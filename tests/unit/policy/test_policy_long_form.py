"""The long form: every key becomes a value, and every mistake of meaning a finding at its place."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from tests.unit.policy.policy_texts import FULL, PEM, PROXY, codes, good, long_form, only, parse, rules, to_rule
from xds.policy.model import (
    SERVER_FIRST_PORTS,
    AlwaysDirect,
    Default,
    Deny,
    Destination,
    Dialect,
    Direct,
    DomainPattern,
    LabelRequirement,
    Operator,
    Selector,
    TlsOrigination,
    Tunnel,
    UnknownName,
)

if TYPE_CHECKING:
    from xds.policy.model import Network
    from xds.policy.parse import ParseResult


def test_every_key_of_the_long_form_is_read() -> None:
    policy = parse(FULL).policies[0]
    assert (policy.name, policy.namespace, policy.priority) == ("full", "team-a", 7)
    assert policy.selector == Selector(
        namespaces=("team-a", "team-b"),
        labels=(
            LabelRequirement(key="app", operator=Operator.IN, values=("web",)),
            LabelRequirement(key="example.com/tier", operator=Operator.NOT_IN, values=("a", "b")),
            LabelRequirement(key="old", operator=Operator.DOES_NOT_EXIST),
        ),
        service_accounts=("web",),
    )
    assert policy.default == Default(action=Deny(), http_action=Tunnel("corp"), on_unknown_name=UnknownName.DENY)
    assert policy.dialect is Dialect.NODE
    assert policy.synthetic_ranges == (ip_network("198.18.0.0/15"), ip_network("fd00::/64"))
    assert policy.server_first_ports == (22, 25)
    assert policy.always_direct == AlwaysDirect(
        loopback=True, link_local=False, cluster_local=False, cluster_networks=False
    )
    assert policy.proxies[0].connect_ports == (443, 2525)


def test_rules_keep_their_order_and_know_their_place() -> None:
    first, second = parse(FULL).policies[0].rules
    assert (first.name, first.action, first.http_action) == ("rule-1", Direct(), Deny())
    assert (second.name, second.action, second.http_action) == ("db", Tunnel("corp"), Tunnel("corp"))
    assert (second.where.source, second.where.key, second.where.line) == ("corp.yaml", "spec.rules[1]", 19)
    assert second.destinations == (
        Destination(ip_network("192.0.2.7"), (5432, 5433)),
        Destination(ip_network("2001:db8::/32")),
    )


def test_what_is_not_said_has_a_default() -> None:
    policy = good(long_form("default: {action: direct}"))
    assert policy.dialect is Dialect.GO
    assert policy.server_first_ports == SERVER_FIRST_PORTS
    assert policy.always_direct == AlwaysDirect()
    assert policy.default == Default(action=Direct(), http_action=Direct(), on_unknown_name=UnknownName.CONNECT_IP)
    assert (policy.namespace, policy.priority, policy.rules, policy.proxies) == (None, 0, (), ())


def test_a_range_of_synthetic_addresses_may_be_one_text() -> None:
    policy = good(long_form("default: {action: deny}\ndns: {syntheticRange: 198.18.0.1/15}"))
    assert policy.synthetic_ranges == (ip_network("198.18.0.0/15"),)


def destinations(to: str, action: str = "deny") -> tuple[Destination, ...]:
    return good(to_rule(to, action)).rules[0].destinations


def test_ports_of_a_rule_are_those_of_entries_without_one() -> None:
    found = destinations(
        "{domains: [a.example, 'b.example:1'], cidrs: [10.0.0.0/8], tcp: [{host: 192.0.2.7}], ports: [9, 8]}"
    )
    assert found == (
        Destination(DomainPattern("a.example"), (8, 9)),
        Destination(DomainPattern("b.example"), (1,)),
        Destination(ip_network("10.0.0.0/8"), (8, 9)),
        Destination(ip_network("192.0.2.7"), (8, 9)),
    )


def test_ports_alone_are_any_host_on_them() -> None:
    assert destinations("{ports: [25]}", "direct") == (Destination(None, (25,)),)


def test_a_star_is_any_host_where_it_bypasses_nothing() -> None:
    assert destinations("{domains: ['*']}") == (Destination(None),)
    assert destinations("{domains: ['*:25']}", "tunnel") == (Destination(None, (25,)),)
    assert destinations("{cidrs: ['0.0.0.0/0']}") == (Destination(ip_network("0.0.0.0/0")),)


def test_the_order_of_entries_means_nothing() -> None:
    one = destinations("{domains: [b.example, a.example], cidrs: [10.0.0.0/8, '2001:db8::/32', 9.0.0.0/8]}")
    two = destinations("{domains: [a.example, b.example], cidrs: [9.0.0.0/8, 10.0.0.0/8, '2001:db8::/32']}")
    assert one == two


def test_ports_of_one_host_are_joined() -> None:
    assert destinations("{domains: ['a.example:2', 'a.example:1']}") == (
        Destination(DomainPattern("a.example"), (1, 2)),
    )
    assert destinations("{domains: ['a.example:2', 'a.example']}") == (Destination(DomainPattern("a.example")),)


def test_a_name_and_what_is_below_it_are_told_apart_only_where_they_differ() -> None:
    node = {"action": "deny", "dialect": "node"}
    both = good(to_rule("{domains: [a.example, '*.a.example']}", **node)).rules[0].destinations
    assert both == (Destination(DomainPattern("a.example")),)
    apart = good(to_rule("{domains: ['a.example:1', '*.a.example:2']}", **node)).rules[0].destinations
    assert apart == (
        Destination(DomainPattern("a.example", apex=False), (2,)),
        Destination(DomainPattern("a.example", subdomains=False), (1,)),
    )
    assert good(to_rule("{domains: [a.example]}", **node)).rules[0].destinations == (
        Destination(DomainPattern("a.example", subdomains=False)),
    )


@pytest.mark.parametrize(
    "to",
    [
        "{domains: ['*']}",
        "{domains: ['*:443']}",
        "{cidrs: [0.0.0.0/0]}",
        "{cidrs: [1.2.3.4/0]}",
        "{cidrs: ['::/0']}",
        "{cidrs: ['::ffff:0:0/96']}",
        "{cidrs: ['0.0.0.0/0:443']}",
        "{tcp: [{host: 0.0.0.0/0, ports: [443]}]}",
    ],
)
@pytest.mark.parametrize("action", ["direct", "tunnel, http: {action: direct}", "direct, http: {action: tunnel}"])
def test_everything_goes_direct_only_on_purpose(to: str, action: str) -> None:
    found = only(parse(to_rule(to, action)))
    assert found.code == "EX203"
    assert "default: {action: direct}" in found.hint


@pytest.mark.parametrize(
    ("to", "place", "hint"),
    [
        ("{domains: [10.0.0.0/8]}", "spec.rules[0].to.domains[0]", "`cidrs`"),
        ("{domains: [a.example, '[2001:db8::1]:1']}", "spec.rules[0].to.domains[1]", "`cidrs`"),
        ("{cidrs: [10.0.0.0/8, a.example]}", "spec.rules[0].to.cidrs[1]", "`domains`"),
        ("{cidrs: ['*']}", "spec.rules[0].to.cidrs[0]", "`domains`"),
    ],
)
def test_each_list_takes_its_own_kind(to: str, place: str, hint: str) -> None:
    found = only(parse(to_rule(to, "deny")))
    assert (found.code, found.where.key) == ("EX207", place)
    assert hint in found.hint


@pytest.mark.parametrize("to", ["{}", "{domains: []}", "{domains: [], cidrs: [], tcp: [], ports: []}"])
def test_a_rule_that_matches_nothing_is_an_error(to: str) -> None:
    assert codes(parse(to_rule(to))) == ["EX209"]


@pytest.mark.parametrize(
    ("host", "code"),
    [("db.partner.example", "EX232"), ("10.0.0.0/33", "EX205"), ("192.0.2.7:22", "EX205"), ("''", "EX201")],
)
def test_tcp_takes_addresses(host: str, code: str) -> None:
    found = only(parse(to_rule(f"{{tcp: [{{host: '{host.strip(chr(39))}', ports: [5432]}}]}}", "tunnel")))
    assert (found.code, found.where.key) == (code, "spec.rules[0].to.tcp[0].host")


TWO = f"proxies: {{a: {PROXY}, b: {PROXY}}}\n"


@pytest.mark.parametrize(
    ("spec", "code", "key", "hint"),
    [
        pytest.param("default: {action: tunnel}", "EX305", "spec.default", "under `spec.proxies`", id="none to take"),
        pytest.param(
            TWO + "default: {action: tunnel}", "EX305", "spec.default", "`a`, `b`", id="several to choose from"
        ),
        pytest.param(
            TWO + "default: {action: tunnel, proxy: c}", "EX304", "spec.default.proxy", "`a`, `b`", id="an unknown one"
        ),
        pytest.param(
            "default: {action: tunnel, proxy: c}", "EX304", "spec.default.proxy", "describe it", id="one of none"
        ),
        pytest.param(
            TWO + "default: {action: tunnel, proxy: a, http: {action: tunnel, proxy: c}}",
            "EX304",
            "spec.default.http.proxy",
            "`a`, `b`",
            id="an unknown one for plain HTTP",
        ),
        pytest.param(
            TWO + "default: {action: direct, proxy: a}", "EX311", "spec.default.proxy", "tunnel", id="one for a bypass"
        ),
    ],
)
def test_a_tunnel_names_a_proxy_of_the_policy(spec: str, code: str, key: str, hint: str) -> None:
    found = only(parse(long_form(spec)))
    assert (found.code, found.where.key) == (code, key)
    assert hint in found.hint


def test_rules_have_different_names() -> None:
    found = only(parse(rules("{name: x, to: {ports: [1]}, action: deny}", "{name: x, to: {ports: [2]}, action: deny}")))
    assert (found.code, found.where.key, found.where.line) == ("EX403", "spec.rules[1].name", 9)
    assert "line 8" in found.message


def test_a_default_name_is_a_name_too() -> None:
    result = parse(rules("{name: rule-2, to: {ports: [1]}, action: deny}", "{to: {ports: [2]}, action: deny}"))
    assert codes(result) == ["EX403"]


def test_a_repeated_name_is_seen_even_if_the_first_rule_is_wrong() -> None:
    result = parse(
        rules("{name: x, to: {domains: ['a b']}, action: deny}", "{name: x, to: {ports: [2]}, action: deny}")
    )
    assert codes(result) == ["EX202", "EX403"]


@pytest.mark.parametrize("name", ["''", "'a b'", "-a", "a/b", "x" * 64, "é"])
def test_a_rules_name_is_short_and_plain(name: str) -> None:
    assert codes(parse(rules(f"{{name: {name}, to: {{ports: [1]}}, action: deny}}"))) == ["EX401"]


@pytest.mark.parametrize(
    "metadata", ["{name: Default}", "{name: ''}", "{name: a_b}", "{name: -a}", f"{{name: {'x' * 254}}}", "{name: a..b}"]
)
def test_a_policys_name_is_that_of_a_kubernetes_object(metadata: str) -> None:
    found = only(parse(long_form("default: {action: deny}", metadata)))
    assert (found.code, found.where.key, found.where.line) == ("EX401", "metadata.name", 3)


@pytest.mark.parametrize(
    ("selector", "code", "key"),
    [
        ("{namespaces: [a.b]}", "EX401", "namespaces[0]"),
        ("{namespaces: [a, '']}", "EX401", "namespaces[1]"),
        ("{serviceAccounts: [A]}", "EX401", "serviceAccounts[0]"),
        ("{podLabels: {matchLabels: {'a b': c}}}", "EX402", "podLabels.matchLabels[a b]"),
        ("{podLabels: {matchLabels: {a: 'b c'}}}", "EX402", "podLabels.matchLabels.a"),
        ("{podLabels: {matchLabels: {Example.com/a: b}}}", "EX402", "podLabels.matchLabels[Example.com/a]"),
        ("{podLabels: {matchLabels: {/a: b}}}", "EX402", "podLabels.matchLabels[/a]"),
        (f"{{podLabels: {{matchLabels: {{a: {'x' * 64}}}}}}}", "EX402", "podLabels.matchLabels.a"),
        ("{podLabels: {matchExpressions: [{key: a, operator: In}]}}", "EX402", "podLabels.matchExpressions[0]"),
        (
            "{podLabels: {matchExpressions: [{key: a, operator: NotIn, values: []}]}}",
            "EX402",
            "podLabels.matchExpressions[0]",
        ),
        (
            "{podLabels: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "EX402",
            "podLabels.matchExpressions[0].values",
        ),
        ("{podLabels: {matchExpressions: [{key: '', operator: Exists}]}}", "EX402", "podLabels.matchExpressions[0]"),
        (
            "{podLabels: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
            "EX109",
            "podLabels.matchExpressions[0].operator",
        ),
        ("{podLabels: {matchLabels: {a: true}}}", "EX107", "podLabels.matchLabels.a"),
    ],
)
def test_a_selector_is_one_that_kubernetes_would_take(selector: str, code: str, key: str) -> None:
    result = parse(long_form(f"default: {{action: deny}}\nselector: {selector}"))
    found = only(result)
    assert (found.code, found.where.key) == (code, f"spec.selector.{key}")
    assert result.held[0].is_unreadable


def test_labels_of_kubernetes_are_taken() -> None:
    selector = "{podLabels: {matchLabels: {app.kubernetes.io/name: My_App.1, empty: ''}}}"
    assert len(good(long_form(f"default: {{action: deny}}\nselector: {selector}")).selector.labels) == 2


@pytest.mark.parametrize(
    ("dns", "code"),
    [
        ("{syntheticRange: 0.0.0.0/0}", "EX205"),
        ("{syntheticRange: [198.18.0.0/33]}", "EX205"),
        ("{syntheticRange: a.example}", "EX205"),
        ("{syntheticRange: 5}", "EX107"),
        ("{mode: on}", "EX109"),
    ],
)
def test_synthetic_ranges_are_networks(dns: str, code: str) -> None:
    assert codes(parse(long_form(f"default: {{action: deny}}\ndns: {dns}"))) == [code]


@pytest.mark.parametrize("mode", ["off", "'off'", "Off", "false"])
def test_dns_capture_may_be_said_to_be_off(mode: str) -> None:
    assert good(long_form(f"default: {{action: deny}}\ndns: {{mode: {mode}}}")).synthetic_ranges == ()


@pytest.mark.parametrize(
    ("source", "metadata", "expected"),
    [
        (None, "{name: a}", None),
        (None, "{name: a, namespace: team-a}", "team-a"),
        ("team-a", "{name: a}", "team-a"),
        ("team-a", "{name: a, namespace: team-a}", "team-a"),
    ],
)
def test_the_source_or_the_text_says_which_namespace(source: str | None, metadata: str, expected: str | None) -> None:
    assert good(long_form("default: {action: deny}", metadata), namespace=source).namespace == expected


def test_the_text_may_not_contradict_the_source() -> None:
    result = parse(long_form("default: {action: deny}", "{name: a, namespace: team-b}"), namespace="team-a")
    assert (only(result).code, only(result).where.key) == ("EX404", "metadata.namespace")
    assert result.held[0].namespace == "team-a"


def test_a_selector_outside_the_policys_namespace_is_a_warning() -> None:
    text = long_form("default: {action: deny}\nselector: {namespaces: [team-b]}")
    assert codes(parse(text, namespace="team-a")) == ["EX406"]
    assert codes(parse(text, namespace="team-b")) == []
    assert codes(parse(text)) == []


def originating(http: str, to: str = "{domains: [a.example]}") -> ParseResult:
    rule = f"{{name: r, to: {to}, action: tunnel, http: {http}}}"
    return parse(long_form(f"proxies: {{p: {PROXY}}}\nrules: [{rule}]\ndefault: {{action: tunnel}}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", TlsOrigination()),
        (f"{{ca: {json.dumps(PEM)}}}", TlsOrigination(ca_pem=PEM)),
        (f"{{ca: {{pem: {json.dumps(PEM)}}}}}", TlsOrigination(ca_pem=PEM)),
    ],
)
def test_a_rule_may_originate_tls_for_plain_http(text: str, expected: TlsOrigination) -> None:
    result = originating(f"{{action: tunnel, originateTLS: {text}}}")
    (rule,) = result.policies[0].rules
    assert (rule.action, rule.http_action) == (Tunnel("p"), Tunnel("p", expected))


@pytest.mark.parametrize(
    ("http", "to", "code"),
    [
        ("{action: direct, originateTLS: {}}", "{domains: [a.example]}", "EX315"),
        ("{action: tunnel, originateTLS: {}}", "{domains: [a.example], cidrs: [10.0.0.0/8]}", "EX315"),
        ("{action: tunnel, originateTLS: {}}", "{ports: [80]}", "EX315"),
        ("{action: tunnel, originateTLS: {ca: hello}}", "{domains: [a.example]}", "EX307"),
        ("{action: tunnel, originateTLS: {ca: {file: /ca.pem}}}", "{domains: [a.example]}", "EX307"),
        ("{action: tunnel, originateTLS: yes}", "{domains: [a.example]}", "EX107"),
    ],
)
def test_tls_is_originated_to_names_in_tunnels_only(http: str, to: str, code: str) -> None:
    assert code in codes(originating(http, to))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", ()),
        ("10.0.0.0/8", (ip_network("10.0.0.0/8"),)),
        ("[2001:db8::/32, 10.1.2.3/8]", (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))),
    ],
)
def test_a_bypass_by_name_is_verified_by_networks(text: str, expected: tuple[Network, ...]) -> None:
    """N20."""
    (rule,) = good(rules(f"{{name: a, to: {{domains: [a.example]}}, action: direct, verify: {text}}}")).rules
    assert rule.verify == expected


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("{name: a, to: {domains: [a.example]}, action: deny, verify: 10.0.0.0/8}", "EX226"),
        ("{name: a, to: {cidrs: [10.0.0.0/8]}, action: direct, verify: 10.0.0.0/8}", "EX226"),
        ("{name: a, to: {domains: [a.example]}, action: direct, verify: 0.0.0.0/0}", "EX226"),
        ("{name: a, to: {domains: [a.example]}, action: direct, verify: 10.0.0.0/33}", "EX205"),
        ("{name: a, to: {domains: [a.example]}, action: direct, verify: []}", "EX109"),
    ],
)
def test_verification_that_verifies_nothing_is_refused(rule: str, code: str) -> None:
    assert code in codes(parse(rules(rule)))


NAMESPACE_LABELS = (
    "default: {action: deny}\nselector: {namespaceLabels: {matchLabels: {zone: front}, "
    "matchExpressions: [{key: env, operator: NotIn, values: [test]}]}}"
)


def test_namespaces_are_selected_by_label() -> None:
    result = parse(long_form(NAMESPACE_LABELS), secrets="egress-system")

    assert result.diagnostics == ()
    assert result.policies[0].selector == Selector(
        namespace_labels=(
            LabelRequirement(key="env", operator=Operator.NOT_IN, values=("test",)),
            LabelRequirement(key="zone", operator=Operator.IN, values=("front",)),
        )
    )


def test_outside_kubernetes_labels_of_namespaces_are_a_warning() -> None:
    found = only(parse(long_form(NAMESPACE_LABELS)))

    assert (found.code, found.is_error, found.where.key) == ("EX407", False, "spec.selector.namespaceLabels")


def test_a_label_of_a_namespace_that_is_no_label_claims_all_pods() -> None:
    result = parse(long_form(NAMESPACE_LABELS.replace("front", "'a b'")), secrets="egress-system")

    assert codes(result) == ["EX402"]
    assert [item.is_unreadable for item in result.held] == [True]
