"""Which rule and which line caused a decision, and why others did not."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import CORP, compile_good, default, policy, proxy, rule, to
from xds.compile import compile_snapshot
from xds.explain.cause import BUILT_IN, Cause, Verdict
from xds.explain.connection import Fate, Protocol
from xds.explain.explanation import Question, Subject, explain
from xds.explain.written import Place
from xds.facts import DirectEndpoint, Facts
from xds.policy.model import (
    AlwaysDirect,
    Deny,
    Direct,
    DnsMode,
    PlainHttp,
    TlsOrigination,
    Tunnel,
    UnknownName,
)

if TYPE_CHECKING:
    from xds.explain.explanation import Decision, Explanation
    from xds.policy.model import Policy, Rule

DIRECT, DENY = Direct(), Deny()
HERE = ("203.0.113.10",)
RANGES = ("198.18.0.0/15",)


def ask(
    written: Policy,
    host: str = "api.example",
    port: int = 443,
    protocol: Protocol = Protocol.TLS,
    *,
    at: tuple[str, ...] = HERE,
    facts: Facts | None = None,
    shown: str | None = None,
    is_explicit: bool = False,
) -> Explanation:
    there = facts or Facts()
    snapshot = compile_snapshot(written, there).snapshot
    assert snapshot is not None
    addresses = () if host[0].isdigit() or ":" in host or is_explicit else tuple(map(ip_address, at))
    question = Question(
        host=host, port=port, protocol=protocol, addresses=addresses, shown=shown, is_explicit=is_explicit
    )
    found = explain(Subject(snapshot=snapshot, policy=written, facts=there), question)
    assert found.contradictions == ()
    return found


def cause_of(*args: object, **kwargs: object) -> Cause:
    return known(ask(*args, **kwargs).decision)  # type: ignore[arg-type]  # handed on as they are


def known(decision: Decision) -> Cause:
    """Return the cause of what is decided by a policy."""
    assert decision.cause is not None
    return decision.cause


def named(name: str, item: Rule) -> Rule:
    return dataclasses.replace(item, name=name)


def test_the_first_rule_that_matches_is_the_cause() -> None:
    written = policy(
        named("first", rule(DENY, "ads.example")),
        named("second", rule(DIRECT, "api.example")),
        named("third", rule(DENY, "api.example")),
    )

    cause = cause_of(written)

    assert (cause.rule, cause.verdict) == ("second", Verdict.DIRECT)
    assert cause.reason == "the rule lists api.example and below"


def test_without_a_rule_the_default_is_the_cause() -> None:
    cause = cause_of(policy())

    assert (cause.rule, cause.verdict, cause.proxy) == ("default", Verdict.PROXY, "corp")
    assert cause.reason == "no rule matches"


@pytest.mark.parametrize(
    ("unknown", "verdict"),
    [
        pytest.param(UnknownName.CONNECT_IP, Verdict.PROXY, id="the address is asked for"),
        pytest.param(UnknownName.DENY, Verdict.REFUSED, id="it is refused"),
        pytest.param(UnknownName.DIRECT, Verdict.DIRECT, id="it is dialled"),
    ],
)
def test_what_names_no_host_is_the_defaults_to_say(unknown: UnknownName, verdict: Verdict) -> None:
    """N18."""
    cause = cause_of(policy(otherwise=default(unknown=unknown)), protocol=Protocol.OTHER)

    assert (cause.rule, cause.verdict) == ("default", verdict)
    assert f"onUnknownName: {unknown.value}" in cause.reason


REFUSED_LATER = [
    pytest.param(
        policy(proxies=(proxy(connect_ports=(443,)),)), 8443, Protocol.TLS, "CONNECT for port 443 only", id="N19"
    ),
    pytest.param(
        policy(proxies=(proxy(plain_http=PlainHttp.DENY),)), 80, Protocol.HTTP_11, "no plain HTTP", id="no plain HTTP"
    ),
    pytest.param(
        policy(proxies=(proxy(plain_http=PlainHttp.CONNECT, connect_ports=(443,)),)),
        80,
        Protocol.HTTP_11,
        "CONNECT for port 443 only",
        id="plain HTTP in a tunnel to a port that is not taken",
    ),
    pytest.param(
        policy(
            rule(CORP, "api.example", http=Tunnel("corp", TlsOrigination())), proxies=(proxy(connect_ports=(8443,)),)
        ),
        80,
        Protocol.HTTP_11,
        "CONNECT for port 8443 only",
        id="TLS that is originated goes to 443",
    ),
]


@pytest.mark.parametrize(("written", "port", "protocol", "words"), REFUSED_LATER)
def test_what_the_proxy_does_not_take_is_refused_and_said(
    written: Policy, port: int, protocol: Protocol, words: str
) -> None:
    cause = cause_of(written, port=port, protocol=protocol)

    assert (cause.verdict, cause.proxy) == (Verdict.REFUSED, "corp")
    assert words in cause.reason


def test_originated_tls_is_asked_for_at_its_port() -> None:
    written = policy(rule(CORP, "api.example", http=Tunnel("corp", TlsOrigination())))

    decision = ask(written, port=80, protocol=Protocol.HTTP_11).decision

    assert (decision.fate, decision.target) == (Fate.TUNNELLED, "api.example:443")
    assert [hop.cluster for hop in decision.arrival.hops] == ["https-tunnel/corp", "proxy/corp"]


CASES_BUILT_IN = [
    pytest.param("127.0.0.1", 8080, Protocol.OTHER, None, "built-in: this host and its links", id="loopback"),
    pytest.param("127.0.0.1", 15001, Protocol.OTHER, None, "built-in: Envoy's own port", id="Envoy itself"),
    pytest.param("192.0.2.1", 3128, Protocol.OTHER, None, "built-in: the proxy itself", id="the proxy itself (N15)"),
    pytest.param("192.0.2.53", 53, Protocol.OTHER, None, "built-in: DNS servers", id="a fact"),
    pytest.param("203.0.113.1", 443, Protocol.TLS, "a..b", "built-in: plain names only", id="an odd claim"),
    pytest.param("203.0.113.1", 443, Protocol.TLS, "x.svc", "built-in: names inside the cluster", id="in the cluster"),
]


@pytest.mark.parametrize(("host", "port", "protocol", "shown", "expected"), CASES_BUILT_IN)
def test_what_is_built_in_has_a_name(
    host: str, port: int, protocol: Protocol, shown: str | None, expected: str
) -> None:
    facts = Facts(
        always_direct=(DirectEndpoint(reason="DNS servers", network=ip_network("192.0.2.53/32"), ports=(53,)),)
    )

    decision = ask(policy(always_direct=AlwaysDirect()), host, port, protocol, facts=facts, shown=shown).decision

    assert known(decision).rule == expected
    assert known(decision).is_built_in
    assert decision.place == Place(BUILT_IN)


def test_an_odd_claim_is_dialled_where_nobody_has_to_look() -> None:
    decision = ask(policy(rule(DIRECT, "203.0.113.0/24")), shown="a..b").decision

    assert (decision.fate, known(decision).rule) == (Fate.DIRECT, "rule")


MISSES = [
    pytest.param(
        rule(DIRECT, to("api.example", 80, 8080)),
        {},
        "api.example and below is listed for ports 80, 8080 only",
        id="port",
    ),
    pytest.param(
        rule(DIRECT, ".api.example"), {}, "it is for names below api.example, not for api.example itself", id="the apex"
    ),
    pytest.param(rule(DIRECT, "=example"), {}, "it is for example itself, not for names below it", id="what is below"),
    pytest.param(
        rule(DIRECT, "api.example"),
        {"protocol": Protocol.OTHER},
        "it names api.example, but what is neither TLS nor HTTP shows no name",
        id="a protocol without names",
    ),
    pytest.param(
        rule(DIRECT, "api.example"),
        {"shown": ""},
        "it names api.example, but the client shows no name",
        id="a client that shows no name",
    ),
    pytest.param(
        rule(DIRECT, "api.example"),
        {"shown": "10.0.0.1"},
        "it names api.example, but the client shows an address instead",
        id="a client that shows an address",
    ),
    pytest.param(
        rule(DIRECT, "api.example"),
        {"port": 22},
        "it names api.example, but port 22 is one of serverFirstPorts, so that no name is read",
        id="a port whose server speaks first",
    ),
    pytest.param(
        dataclasses.replace(rule(DIRECT, "api.example"), verify=(ip_network("10.0.0.0/8"),)),
        {},
        "api.example is believed only at an address in 10.0.0.0/8 (verify)",
        id="an address that is not verified (N20)",
    ),
    pytest.param(
        rule(DIRECT, to("203.0.113.0/24", 80)), {}, "203.0.113.0/24 is listed for port 80 only", id="a network's port"
    ),
    pytest.param(
        rule(DIRECT, "198.18.0.0/16"),
        {"at": ("198.18.0.9",)},
        "198.18.0.0/16 is a network, and the address stands for a name",
        id="a synthetic address (N10)",
    ),
]


@pytest.mark.parametrize(("near", "options", "why"), MISSES)
def test_a_rule_that_nearly_matched_says_why_not(near: Rule, options: dict[str, object], why: str) -> None:
    written = policy(named("near", near), server_first_ports=(22,), synthetic=RANGES)

    (miss,) = cause_of(written, **options).misses

    assert (miss.rule, miss.why) == ("near", why)


def test_a_rule_that_has_nothing_to_do_with_it_is_not_spoken_of() -> None:
    assert cause_of(policy(rule(DIRECT, "other.example", "10.0.0.0/8", to("*", 22)))).misses == ()


def captured(*rules: Rule) -> Policy:
    return dataclasses.replace(policy(*rules, synthetic=RANGES), dns_mode=DnsMode.CAPTURE)


TCP_NAME = dataclasses.replace(rule(CORP), destinations=(dataclasses.replace(to("=db.example", 5432), plain_tcp=True),))


def test_a_name_that_is_captured_has_an_address_that_stands_for_it() -> None:
    explanation = ask(captured(TCP_NAME), "db.example", 5432, Protocol.OTHER, at=())

    (address,) = explanation.synthetic
    assert address in ip_network(RANGES[0])
    assert explanation.decision.target == "db.example:5432"
    assert known(explanation.decision).rule == "rule"


SYNTHETIC = [
    pytest.param("198.18.77.77", 443, Protocol.TLS, "www.example", "no name has it", id="nobody's address"),
    pytest.param("name", 80, Protocol.HTTP_11, "10.0.0.1", "the Host shows none", id="plain HTTP without a name"),
    pytest.param("name", 443, Protocol.OTHER, "", "shared by names that clients must show", id="an address of many"),
    pytest.param("name", 443, Protocol.TLS, "a..b", "neither a name nor an address", id="an odd claim"),
    pytest.param("name", 443, Protocol.TLS, "way.example", "nothing can be dialled there", id="what would go direct"),
]


@pytest.mark.parametrize(("host", "port", "protocol", "shown", "words"), SYNTHETIC)
def test_what_is_refused_at_a_synthetic_address_is_said(
    host: str, port: int, protocol: Protocol, shown: str, words: str
) -> None:
    written = captured(rule(CORP, "api.example"), rule(DIRECT, "way.example"))
    if host == "name":
        host = str(ask(written, "api.example", at=()).synthetic[0])

    cause = cause_of(written, host, port, protocol, shown=shown)

    assert cause.verdict is Verdict.REFUSED
    assert words in cause.reason


EXPLICIT = [
    pytest.param("api.example", 443, "rule", Verdict.DIRECT, id="a name by the rules for names"),
    pytest.param("10.1.2.3", 443, "inside", Verdict.REFUSED, id="an address by those for networks"),
    pytest.param("203.0.113.9", 15002, "built-in: this listener", Verdict.REFUSED, id="its own port"),
    pytest.param("proxy.example", 3128, "built-in: the proxy itself", Verdict.DIRECT, id="a proxy"),
    pytest.param("::ffff:10.1.2.3", 443, "built-in: no such address", Verdict.REFUSED, id="another spelling"),
    pytest.param("x.example", 443, "default", Verdict.PROXY, id="the default"),
]


@pytest.mark.parametrize("protocol", [Protocol.TLS, Protocol.HTTP_11])
@pytest.mark.parametrize(("host", "port", "expected", "verdict"), EXPLICIT)
def test_explicit_mode_has_causes_of_its_own(
    host: str, port: int, expected: str, verdict: Verdict, protocol: Protocol
) -> None:
    from tests.support.policies import endpoint  # noqa: PLC0415  # only here

    written = dataclasses.replace(
        policy(
            rule(DIRECT, "api.example"),
            named("inside", rule(DENY, "10.0.0.0/8")),
            proxies=(proxy("corp", endpoint("proxy.example")),),
        ),
        explicit_port=15002,
    )

    cause = cause_of(written, host, port, protocol, is_explicit=True)

    assert (cause.rule, cause.verdict) == (expected, verdict)


def test_a_contradiction_is_told_and_not_smoothed_over() -> None:
    """As if the compiler had a bug: the resources are those of another policy."""
    subject = Subject(snapshot=compile_good(policy(rule(DENY, "api.example"))), policy=policy())
    question = Question(host="api.example", port=443, protocol=Protocol.TLS, addresses=(ip_address(HERE[0]),))

    explanation = explain(subject, question)

    assert explanation.decision.fate is Fate.CLOSED
    (text,) = explanation.contradictions
    assert "the resources say: closed without a byte by the chain deny" in text
    assert "the policy says: proxy corp" in text


def decisions_of(explanation: Explanation) -> dict[tuple[str, ...], Decision]:
    return {branch.addresses: branch.decision for branch in explanation.branches}


def test_an_address_that_nobody_told_is_every_one_that_the_policy_tells_apart() -> None:
    written = policy(rule(DIRECT, "10.0.0.0/8", "10.1.0.0/16"), named("no", rule(DENY, "192.168.0.0/16")))

    found = decisions_of(ask(written, at=()))

    assert {addresses: item.verdict for addresses, item in found.items()} == {
        (): Verdict.PROXY,
        ("10.0.0.0/8",): Verdict.DIRECT,
        ("192.168.0.0/16",): Verdict.REFUSED,
    }
    assert found[("10.0.0.0/8",)].target == "ADDRESS:443"


def test_addresses_that_were_told_are_decided_one_by_one() -> None:
    found = decisions_of(ask(policy(rule(DIRECT, "10.0.0.0/8")), at=("10.0.0.1", "203.0.113.9", "10.0.0.2")))

    assert {addresses: item.verdict for addresses, item in found.items()} == {
        ("10.0.0.1", "10.0.0.2"): Verdict.DIRECT,
        ("203.0.113.9",): Verdict.PROXY,
    }


def test_of_very_many_networks_only_the_usual_address_is_looked_at() -> None:
    written = policy(*(rule(DIRECT if index % 2 else DENY, f"10.0.{index}.0/24") for index in range(30)))
    many = policy(rule(DIRECT, *(f"10.{index // 200}.{index % 200}.0/25" for index in range(300))))

    assert not ask(written, at=()).is_partial
    explanation = ask(many, at=())

    assert explanation.is_partial
    assert [branch.decision.verdict for branch in explanation.branches] == [Verdict.PROXY]
