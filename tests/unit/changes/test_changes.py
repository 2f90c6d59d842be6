"""What is told of two versions of a policy: rules, settings, resources, pods and open connections."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import WHERE, default, endpoint, policy, proxy, rule, to
from xds import names
from xds.changes import Cause, Kind, Side, Standing, Told, WorldChange, compare_worlds, sample_decisions
from xds.changes.connections import predict
from xds.changes.rules import FieldChange, compare_rules
from xds.changes.settings import compare_settings
from xds.changes.words import describe_action, describe_destination, describe_endpoint, describe_pem
from xds.compile import compile_snapshot
from xds.facts import Facts, FileContent
from xds.judge import Judge, Judgement, SourceRead
from xds.names import NodeId
from xds.policy.model import (
    BasicLogin,
    Deny,
    Destination,
    Direct,
    DnsMode,
    DomainPattern,
    HealthCheck,
    Mode,
    Policy,
    ProxyTls,
    Rule,
    TlsOrigination,
    Tunnel,
    Workload,
)
from xds.policy.parse import Document

if TYPE_CHECKING:
    from xds.snapshot import Snapshot

A, B, C = (rule(Direct(), f"{name}.example", name=name) for name in "abc")
PEM = "-----BEGIN CERTIFICATE-----\ncanary\n-----END CERTIFICATE-----\n"
FACTS = Facts(files={"/login": FileContent("user:canary"), "/other": FileContent("other:canary")})


def told(*found: object) -> list[str]:
    """Return what became of each rule, in short."""
    changes = compare_rules(*(policy(*rules) for rules in found))  # type: ignore[misc]  # each is a list of rules
    return [f"{change.kind.value} {change.name}" for change in changes]


def compiled(written: Policy) -> Snapshot:
    snapshot = compile_snapshot(written, FACTS).snapshot
    assert snapshot is not None
    return snapshot


RULES = [
    pytest.param([A, B], [A, B], [], id="nothing changes"),
    pytest.param([A], [A, B], ["added b"], id="one is added"),
    pytest.param([A, B], [B], ["removed a"], id="one is removed, and the others have not moved"),
    pytest.param([A, B, C], [C, A, B], ["moved c"], id="one is moved to the front"),
    pytest.param([A, B, C], [B, C, A], ["moved a"], id="one is moved to the end"),
    pytest.param([A], [replace(A, action=Deny())], ["changed a"], id="another action"),
    pytest.param([A], [replace(A, http_action=Deny())], ["changed a"], id="another action for plain HTTP"),
    pytest.param([A], [replace(A, name="z")], ["changed z"], id="another name"),
    pytest.param([A], [B], ["removed a", "added b"], id="another name and other content is another rule"),
    pytest.param(
        [replace(A, name="rule-1"), replace(B, name="rule-2")],
        [replace(B, name="rule-1")],
        ["removed rule-1"],
        id="rules without names are known by their content",
    ),
    pytest.param(
        [replace(A, name="rule-1")],
        [replace(A, name="rule-1", action=Deny())],
        ["changed rule-1"],
        id="a rule without a name whose content is another is known by its place",
    ),
    pytest.param([A], [replace(A, name="rule-1")], ["changed rule-1"], id="a name that is gone"),
]


@pytest.mark.parametrize(("before", "after", "expected"), RULES)
def test_rules_are_known_again(before: list[object], after: list[object], expected: list[str]) -> None:
    assert told(before, after) == expected


def test_a_rule_that_is_changed_and_moved_tells_both() -> None:
    (change,) = compare_rules(policy(A, B, C), policy(B, C, rule(Deny(), "a.example", "10.0.0.0/8", name="a")))

    assert change.kind is Kind.CHANGED
    assert change.is_moved
    assert change.before is not None
    assert change.after is not None
    assert (change.before.position, change.after.position) == (1, 3)
    assert change.fields == (
        FieldChange("to", (), ("10.0.0.0/8",)),
        FieldChange("action", ("direct",), ("deny",)),
    )


DESTINATIONS = [
    (to("*"), "any host"),
    (to("*", 22, 25), "any host:22,25"),
    (to("x.example"), "x.example"),
    (to(".x.example", 443), "*.x.example:443"),
    (to("=x.example"), "x.example itself"),
    (to("10.0.0.0/8"), "10.0.0.0/8"),
    (to("192.0.2.7/32", 22), "192.0.2.7:22"),
    (to("2001:db8::/32", 22), "[2001:db8::]/32:22"),
    (to("2001:db8::1/128", 22), "[2001:db8::1]:22"),
    (to("2001:db8::1/128"), "2001:db8::1"),
    (
        Destination(DomainPattern("db.example", subdomains=False), (5432,), plain_tcp=True),
        "db.example itself:5432 whatever is spoken",
    ),
]


@pytest.mark.parametrize(("destination", "text"), DESTINATIONS, ids=[text for _, text in DESTINATIONS])
def test_destinations_read_like_those_of_a_document(destination: Destination, text: str) -> None:
    assert describe_destination(destination) == text


def test_actions_and_endpoints_read_like_those_of_a_document() -> None:
    assert describe_action(Tunnel("corp")) == "tunnel through corp"
    assert describe_action(Tunnel("corp", TlsOrigination())) == "tunnel through corp as HTTPS"
    assert describe_action(Tunnel("corp", TlsOrigination(PEM))).startswith(
        "tunnel through corp as HTTPS with PEM sha256:"
    )
    assert describe_endpoint(endpoint("2001:db8::1", 1, tls=True, priority=2)) == "https://[2001:db8::1]:1 priority 2"


SETTINGS = [
    ({"default": default(Deny())}, "default", ("tunnel through corp",), ("deny",)),
    ({"priority": 7}, "priority", ("0",), ("7",)),
    ({"dns_mode": DnsMode.CAPTURE}, "dns.mode", ("off",), ("capture",)),
    ({"access_log": None}, "accessLog.path", ("stdout",), ("off",)),
    ({"explicit_port": 15002}, "explicit.port", (), ("15002",)),
    ({"mode": Mode.ENV}, "mode", ("transparent",), ("env",)),
    ({"trusted_ca": PEM}, "trustedCA", (), (describe_pem(PEM),)),
    ({"server_first_ports": (25,)}, "serverFirstPorts", (), ("25",)),
    (
        {"proxies": (proxy("corp", endpoint("192.0.2.9")),)},
        "proxies.corp.endpoints",
        ("http://192.0.2.1:3128",),
        ("http://192.0.2.9:3128",),
    ),
    ({"proxies": (replace(proxy(), login=BasicLogin(file="/login")),)}, "proxies.corp.auth.basic", (), ("'/login'",)),
    ({"proxies": (replace(proxy(), tls=ProxyTls(server_name="x")),)}, "proxies.corp.tls.serverName", (), ("x",)),
    ({"proxies": (replace(proxy(), connect_timeout=9),)}, "proxies.corp.connectTimeout", ("5s",), ("9s",)),
    ({"proxies": (replace(proxy(), idle_timeout=60),)}, "proxies.corp.idleTimeout", ("never",), ("60s",)),
    ({"proxies": (replace(proxy(), connect_ports=(443,)),)}, "proxies.corp.connectPorts", ("any",), ("443",)),
]


@pytest.mark.parametrize(("changed", "key", "removed", "added"), SETTINGS, ids=[key for _, key, _, _ in SETTINGS])
def test_a_setting_is_told_by_its_key(
    changed: dict[str, object], key: str, removed: tuple[str, ...], added: tuple[str, ...]
) -> None:
    (change,) = compare_settings(policy(), replace(policy(), **changed))  # type: ignore[arg-type]  # fields by name

    assert (change.key, change.removed, change.added) == (key, removed, added)


def test_a_new_proxy_is_told_without_what_every_proxy_has() -> None:
    both = policy(proxies=(proxy(), replace(proxy("lab"), health=HealthCheck())))

    keys = [change.key for change in compare_settings(policy(), both)]

    assert keys == ["proxies.lab.endpoints", "proxies.lab.health"]


def test_a_new_policy_is_told_without_what_every_policy_has() -> None:
    written = replace(policy(), server_first_ports=Policy(name="", default=default(), where=WHERE).server_first_ports)

    keys = [change.key for change in compare_settings(None, written)]

    assert keys == [
        "default",
        "proxies.corp.endpoints",
        "alwaysDirect.loopback",
        "alwaysDirect.linkLocal",
        "alwaysDirect.clusterLocal",
    ]


TUNNELS = {names.tls_tunnel_chain("corp"), names.tcp_tunnel_chain("corp")}


def test_rules_and_moved_proxies_cut_nothing_and_the_latter_are_told() -> None:
    before, after = (
        policy(A, B),
        policy(B, C, otherwise=default(Deny()), proxies=(proxy("corp", endpoint("192.0.2.9")),)),
    )

    connections = predict(compiled(before), compiled(after))

    assert connections.is_untouched
    assert connections.stay == ("corp",)
    assert connections.is_next_request_elsewhere


def test_a_login_that_is_renewed_touches_nothing_and_another_one_touches_its_proxy_alone() -> None:
    before = policy(proxies=(replace(proxy(), login=BasicLogin(file="/login")), proxy("lab")))
    after = policy(proxies=(replace(proxy(), login=BasicLogin(file="/other")), proxy("lab")))
    renewed = compile_snapshot(before, replace(FACTS, files={"/login": FileContent("user:new")})).snapshot
    assert renewed is not None

    assert predict(compiled(before), renewed).is_untouched
    drained = predict(compiled(before), compiled(after)).drained
    assert {item.chain for item in drained if item.listener == names.OUTBOUND_LISTENER} == TUNNELS
    assert {item.cause for item in drained} == {Cause.CHAIN_CHANGED}
    assert not any("lab" in item.what for item in drained)


def test_a_proxy_that_is_gone_takes_its_chains_with_it() -> None:
    both, one = policy(proxies=(proxy(), proxy("lab"))), policy()

    drained = predict(compiled(both), compiled(one)).drained

    of_main = [item for item in drained if item.listener == names.OUTBOUND_LISTENER]
    assert {item.cause for item in of_main} == {Cause.CHAIN_REMOVED}
    assert {item.what for item in of_main} >= {"TLS tunnels through lab", "TCP tunnels through lab"}
    assert {item.cause for item in drained if item not in of_main} == {Cause.LISTENER_REMOVED}


def test_whatever_concerns_the_listener_itself_cuts_all_of_its_connections_but_what_is_closed_anyway() -> None:
    before = policy(A)
    after = replace(before, server_first_ports=(25,))

    drained = predict(compiled(before), compiled(after)).drained

    assert {item.cause for item in drained} == {Cause.LISTENER_CHANGED}
    assert {item.chain for item in drained} >= {names.DIRECT_CHAIN, names.HTTP_CHAIN, *TUNNELS}
    assert names.DENY_CHAIN not in {item.chain for item in drained}


def test_decisions_are_asked_of_what_was_compiled() -> None:
    before, after = policy(A), policy(rule(Deny(), "a.example", name="a"))

    sample = sample_decisions(Side(before, compiled(before)), Side(after, compiled(after)))

    assert [(item.target, item.protocol.value, item.before, item.after) for item in sample.changed] == [
        ("a.example:443", "tls", "direct", "refused"),
        ("a.example:80", "http/1.1", "direct", "refused"),
        ("any.a.example:443", "tls", "direct", "refused"),
        ("any.a.example:80", "http/1.1", "direct", "refused"),
    ]
    assert sample.probed == sample.known


def test_of_thousands_of_names_those_that_differ_are_asked_for_first() -> None:
    common = [f"host-{number}.example" for number in range(3000)]
    before, after = policy(rule(Direct(), *common, name="a")), policy(rule(Direct(), *common, "new.test", name="a"))

    sample = sample_decisions(Side(before, compiled(before)), Side(after, compiled(after)))

    assert {item.target for item in sample.changed} >= {"new.test:443", "any.new.test:80"}
    assert sample.probed < sample.known


def networks(*cidrs: str) -> Policy:
    destinations = tuple(Destination(host=ip_network(cidr)) for cidr in cidrs)
    return policy(Rule(name="a", destinations=destinations, action=Direct(), http_action=Direct(), where=WHERE))


@pytest.mark.parametrize(
    ("before", "after", "target"),
    [
        pytest.param(["10.0.0.0/8"], ["10.0.0.0/9"], "10.255.255.254:443", id="the end of a network"),
        pytest.param(["10.0.0.0/8"], ["10.0.0.0/9"], "10.128.0.0:443", id="where what is left ends"),
        pytest.param(["10.0.0.0/8"], ["10.0.0.0/9", "10.192.0.0/10"], "10.128.0.0:443", id="a hole within a network"),
        pytest.param(["10.0.0.0/9", "10.192.0.0/10"], ["10.0.0.0/8"], "10.128.0.0:443", id="a hole that is filled"),
        pytest.param(["fd00::/8"], ["fd00::/9", "fdc0::/10"], "[fd80::]:443", id="IPv6"),
    ],
)
def test_where_networks_differ_is_asked_for(before: list[str], after: list[str], target: str) -> None:
    old, new = networks(*before), networks(*after)

    sample = sample_decisions(Side(old, compiled(old)), Side(new, compiled(new)))

    assert target in {item.target for item in sample.changed}


# ------------------------------------------------------------------------------------------------------------ worlds

SHORT = "name: {name}\nhttpProxy: http://192.0.2.{host}:3128\nhttpsProxy: http://192.0.2.{host}:3128\ndialect: go\n"
PODS = {
    NodeId(f"{pod}.{space}"): Workload(pod=pod, namespace=space) for pod, space in (("a", "x"), ("b", "x"), ("c", "y"))
}


def judge(*documents: tuple[str, str]) -> Judgement:
    own = Judge()
    read = SourceRead(tuple(Document(source=source, text=text) for source, text in documents))
    return own.judge(own.parse(read), Facts())


def short(name: str, host: int = 1, namespace: str = "") -> tuple[str, str]:
    text = SHORT.format(name=name, host=host)
    return f"{name}.yaml", f"{text}namespace: {namespace}\n" if namespace else text


def groups(change: WorldChange) -> list[tuple[Told, Told, tuple[str, ...]]]:
    return [(group.before, group.after, group.pods) for group in change.pods]


def test_pods_that_get_another_policy_are_told_apart_from_those_whose_policy_changes() -> None:
    change = compare_worlds(judge(short("wide")), judge(short("wide", 2), short("narrow", 3, "y")), PODS)

    wide, narrow = Told((None, "wide")), Told(("y", "narrow"))
    assert groups(change) == [(wide, wide, ("a.x", "b.x")), (wide, narrow, ("c.y",))]
    assert [group.is_told_another for group in change.pods] == [False, True]
    assert change.touched_pods == change.all_pods == 3
    assert [(item.key, item.kind) for item in change.policies] == [
        ((None, "wide"), Kind.CHANGED),
        (("y", "narrow"), Kind.ADDED),
    ]


def test_pods_without_a_policy_are_refused_everything_and_a_policy_that_goes_leaves_them_so() -> None:
    change = compare_worlds(judge(short("wide")), judge(("other.yaml", short("narrow", 3, "y")[1])), PODS)

    assert (Told((None, "wide")), Told(None), ("a.x", "b.x")) in groups(change)
    (gone,) = [item for item in change.policies if item.kind is Kind.REMOVED]
    assert (gone.before, gone.after, gone.connections) == (Standing.IN_FORCE, Standing.ABSENT, None)


def test_pods_whose_connections_are_not_captured_are_not_told_of_what_concerns_only_those() -> None:
    pods = {node: replace(workload, mode=Mode.EXPLICIT) for node, workload in PODS.items() if node == "a.x"} | {
        NodeId("b.x"): PODS[NodeId("b.x")]
    }
    (source, text) = short("wide")
    other = (source, text.replace("192.0.2.1", "192.0.2.2", 1) + "mode: explicit\n")
    same = (source, text + "mode: explicit\n")
    change = compare_worlds(judge(same), judge(other), pods)

    drained = {
        group.pods: {item.listener for item in group.connections.drained}
        for group in change.pods
        if group.connections is not None
    }
    assert drained[NodeId("b.x"),] >= {names.OUTBOUND_LISTENER}
    assert names.OUTBOUND_LISTENER not in drained[NodeId("a.x"),]


def test_pods_of_a_document_that_breaks_at_once_are_told_nothing_and_keep_what_they_have() -> None:
    change = compare_worlds(judge(short("wide")), judge(("wide.yaml", "nonsense: [")), PODS)

    (group,) = change.pods
    assert group.after.is_held
    assert group.connections is not None
    assert group.connections.is_untouched


def handed_over(before: Judgement, after: Judgement) -> list[tuple[Told, Told, bool]]:
    return [(item.before, item.after, item.is_whole) for item in compare_worlds(before, after, {}).handovers]


SHORT_ONE, SHADOW, NARROW = Told((None, "short")), Told((None, "shadow")), Told(("y", "narrow"))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(
            [short("short")],
            [short("short"), short("shadow", 2)],
            [(SHORT_ONE, SHADOW, True)],
            id="one that sorts first takes all",
        ),
        pytest.param([short("short")], [short("short"), short("zed", 2)], [], id="one that sorts last takes nobody"),
        pytest.param(
            [short("short")],
            [short("short"), short("narrow", 2, "y")],
            [(SHORT_ONE, NARROW, False)],
            id="a narrow one takes those that it selects",
        ),
        pytest.param(
            [short("short"), short("shadow")],
            [short("short")],
            [(SHADOW, SHORT_ONE, True)],
            id="another one follows one that is gone",
        ),
        pytest.param([short("short")], [("x.yaml", "name: [")], None, id="pods are told nothing"),
        pytest.param(
            [short("short"), short("narrow", 2, "y")],
            [short("narrow", 2, "y")],
            [(SHORT_ONE, Told(None), True)],
            id="nobody follows one that is gone",
        ),
        pytest.param([short("short")], [short("short", 2)], [], id="who serves whom stays"),
    ],
)
def test_where_no_pods_are_known_selectors_say_which_policy_loses_whom(
    before: list[tuple[str, str]], after: list[tuple[str, str]], expected: list[tuple[Told, Told, bool]] | None
) -> None:
    found = handed_over(judge(*before), judge(*after))

    if expected is None:
        ((was, will, _),) = found
        assert (was, will.is_held) == (SHORT_ONE, True)
    else:
        assert found == expected


def test_of_pods_that_were_told_nothing_nobody_knows_what_they_have() -> None:
    change = compare_worlds(judge(("wide.yaml", "nonsense: [")), judge(short("wide")), PODS)

    assert [group.connections for group in change.pods] == [None]
