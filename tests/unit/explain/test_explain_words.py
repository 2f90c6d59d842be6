"""Where in a document the deciding words stand, and which NO_PROXY says the same."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address

import pytest

from tests.support.policies import CORP, default, policy, rule, to
from xds.compile import compile_snapshot
from xds.diagnostics import Where
from xds.dialects.clients import CLIENTS
from xds.explain.connection import Protocol
from xds.explain.explanation import Question, Subject, explain
from xds.explain.no_proxy import ask_clients, choose_no_proxy
from xds.explain.written import Place
from xds.facts import Facts
from xds.policy.model import Deny, Direct, Policy
from xds.policy.parse import Document, parse_document

SHORT = """\
httpProxy: http://192.0.2.2:3128
httpsProxy: http://192.0.2.3:3128
noProxyVerify: none
noProxy:
  - .corp.example
  - "a.example, b.example:8443"
  - 10.0.0.0/8
"""
LONG = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: long}
spec:
  proxies:
    corp: {endpoints: [{url: "http://192.0.2.2:3128"}]}
  rules:
    - name: inside
      action: direct
      verify: none
      to:
        domains:
          - x.example
          - .y.example
          - y.example
        cidrs: [10.0.0.0/8, 172.16.0.0/12]
    - {name: mail, to: {ports: [25]}, action: deny}
    - name: db
      to:
        tcp: [{host: 192.0.2.77, ports: [5432]}]
      action: deny
  default:
    action: tunnel
    http: {action: deny}
"""


def place_of(text: str, host: str, port: int = 443, at: str = "203.0.113.9", protocol: Protocol = Protocol.TLS) -> str:
    (written,) = parse_document(Document("file.yaml", text)).policies
    snapshot = compile_snapshot(written, Facts()).snapshot
    assert snapshot is not None
    addresses = () if host[0].isdigit() else (ip_address(at),)
    question = Question(host=host, port=port, protocol=protocol, addresses=addresses)
    found = explain(Subject(snapshot=snapshot, policy=written, text=text), question)
    assert found.contradictions == ()
    place = found.decision.place
    assert place is not None
    return f"{place.where} {place.entry}".strip()


PLACES = [
    pytest.param(SHORT, {"host": "www.corp.example"}, "file.yaml:5 noProxy[0] .corp.example", id="an entry"),
    pytest.param(SHORT, {"host": "a.example"}, "file.yaml:6 noProxy[1] a.example", id="the first of a text"),
    pytest.param(
        SHORT, {"host": "b.example", "port": 8443}, "file.yaml:6 noProxy[1] b.example:8443", id="the second of a text"
    ),
    pytest.param(SHORT, {"host": "10.1.2.3"}, "file.yaml:7 noProxy[2] 10.0.0.0/8", id="a network"),
    pytest.param(SHORT, {"host": "z.example"}, "file.yaml:2 httpsProxy", id="the proxy of all else"),
    pytest.param(
        SHORT,
        {"host": "z.example", "port": 80, "protocol": Protocol.HTTP_11},
        "file.yaml:1 httpProxy",
        id="the proxy of plain HTTP",
    ),
    pytest.param(LONG, {"host": "www.x.example"}, "file.yaml:13 spec.rules[0].to.domains[0] x.example", id="a domain"),
    pytest.param(
        LONG, {"host": "y.example"}, "file.yaml:15 spec.rules[0].to.domains[2] y.example", id="the apex of two entries"
    ),
    pytest.param(
        LONG, {"host": "w.y.example"}, "file.yaml:14 spec.rules[0].to.domains[1] .y.example", id="the other one"
    ),
    pytest.param(
        LONG,
        {"host": "z.example", "at": "172.16.9.9"},
        "file.yaml:16 spec.rules[0].to.cidrs[1] 172.16.0.0/12",
        id="a network of a rule",
    ),
    pytest.param(LONG, {"host": "z.example", "port": 25}, "file.yaml:17 spec.rules[1]", id="ports of any host"),
    pytest.param(
        LONG,
        {"host": "192.0.2.77", "port": 5432, "protocol": Protocol.OTHER},
        "file.yaml:20 spec.rules[2].to.tcp[0].host 192.0.2.77",
        id="an address of to.tcp",
    ),
    pytest.param(LONG, {"host": "z.example"}, "file.yaml:22 spec.default", id="the default"),
    pytest.param(
        LONG,
        {"host": "z.example", "port": 80, "protocol": Protocol.HTTP_11},
        "file.yaml:24 spec.default.http",
        id="the default of plain HTTP",
    ),
]


@pytest.mark.parametrize(("text", "asked", "expected"), PLACES)
def test_the_deciding_words_are_found(text: str, asked: dict[str, object], expected: str) -> None:
    assert place_of(text, **asked) == expected  # type: ignore[arg-type]  # handed on as they are


def test_of_several_policies_in_a_text_the_right_one_is_read() -> None:
    text = f"{LONG}---\nname: second\n{SHORT}"
    second = parse_document(Document("file.yaml", text)).policies[1]
    snapshot = compile_snapshot(second, Facts()).snapshot
    assert snapshot is not None

    question = Question(host="a.example", port=443, protocol=Protocol.TLS, addresses=(ip_address("203.0.113.9"),))
    place = explain(Subject(snapshot=snapshot, policy=second, text=text), question).decision.place

    assert place is not None
    assert (place.where.line, place.entry) == (text[: text.index("a.example, b")].count("\n") + 1, "a.example")


def test_without_its_text_the_rule_of_a_policy_is_still_named() -> None:
    (written,) = parse_document(Document("file.yaml", LONG)).policies
    snapshot = compile_snapshot(written, Facts()).snapshot
    assert snapshot is not None
    asked = Question(host="x.example", port=443, protocol=Protocol.TLS, addresses=(ip_address("203.0.113.9"),))

    found = explain(Subject(snapshot=snapshot, policy=written), asked)
    default_place = explain(Subject(snapshot=snapshot, policy=written), dataclasses.replace(asked, host="z.example"))

    assert found.decision.place == Place(Where("file.yaml", "spec.rules[0]", 8))
    assert default_place.decision.place == Place(Where("file.yaml", "", 1))


def test_the_list_of_the_short_form_is_as_it_is_written() -> None:
    (written,) = parse_document(Document("file.yaml", SHORT)).policies
    snapshot = compile_snapshot(written, Facts()).snapshot
    assert snapshot is not None
    asked = Question(host="a.example", port=443, protocol=Protocol.TLS, addresses=(ip_address("203.0.113.9"),))

    found = explain(Subject(snapshot=snapshot, policy=written, text=SHORT), asked)

    assert found.no_proxy.text == ".corp.example,a.example,b.example:8443,10.0.0.0/8"
    assert found.no_proxy.origin == "noProxy"
    assert [answer.client for answer in found.clients] == list(CLIENTS)


DERIVED = [
    pytest.param(policy(rule(Direct(), "x.example", ".y.example")), "x.example,.x.example,.y.example", id="names"),
    pytest.param(
        policy(rule(Direct(), "10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32")),
        "10.0.0.0/8,2001:db8::/32,192.0.2.7",
        id="networks",
    ),
    pytest.param(
        policy(rule(Direct(), to("x.example", 80, 443), to("2001:db8::1/128", 22))),
        "x.example:80,.x.example:80,x.example:443,.x.example:443,[2001:db8::1]:22",
        id="ports",
    ),
    pytest.param(
        policy(rule(Direct(), "2001:db8::1/128")),
        "2001:db8::1,[2001:db8::1]",
        id="an address with and without brackets",
    ),
    pytest.param(
        policy(rule(Direct(), "x.example"), rule(CORP, "y.example")), "x.example,.x.example", id="tunnels after it"
    ),
    pytest.param(policy(), "", id="nothing"),
]


@pytest.mark.parametrize(("written", "expected"), DERIVED)
def test_a_list_is_derived_where_it_says_the_same(written: Policy, expected: str) -> None:
    found = choose_no_proxy(written, None)

    assert (found.missing, found.text) == ("", expected)


MISSING = [
    pytest.param(policy(otherwise=default(Direct())), "default", id="a default that is not the proxy"),
    pytest.param(policy(rule(CORP, "a.x.example"), rule(Direct(), "x.example")), "order", id="an order"),
    pytest.param(policy(rule(Direct(), "=x.example")), "lists what no entry", id="a name alone"),
    pytest.param(policy(rule(Direct(), to("*", 22))), "lists what no entry", id="a port of any host"),
    pytest.param(policy(rule(Direct(), to("10.0.0.0/8", 22))), "lists what no entry", id="a port of a network"),
    pytest.param(policy(rule(Direct(), "x.example", http=CORP)), "plain HTTP", id="plain HTTP that goes another way"),
    pytest.param(policy(rule(Deny(), "x.example")), "refuses", id="what is refused"),
]


@pytest.mark.parametrize(("written", "words"), MISSING)
def test_where_no_list_says_the_same_there_is_a_reason(written: Policy, words: str) -> None:
    found = choose_no_proxy(written, None)

    assert words in found.missing
    assert ask_clients(found, "x.example", 443, "https") == ()


def test_go_reads_a_derived_list_as_the_policy_is_meant() -> None:
    found = choose_no_proxy(policy(rule(Direct(), "x.example", ".y.example", "10.0.0.0/8")), None)

    def goes_direct(host: str) -> bool:
        (answer,) = (item for item in ask_clients(found, host, 443, "https") if item.client == "go")
        return answer.goes_direct

    hosts = ["x.example", "a.x.example", "y.example", "a.y.example", "10.1.2.3", "z.example"]
    assert [goes_direct(host) for host in hosts] == [True, True, False, True, True, False]
