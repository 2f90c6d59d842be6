"""Structure: every mistake of a document in one go, each with key, line and remedy, and nothing ignored."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from tests.unit.policy.policy_texts import PROXY, codes, long_form, only, parse, rules
from xds.policy.findings import Findings
from xds.policy.structure import read_shape
from xds.policy.unavailable import UNAVAILABLE
from xds.policy.yaml_lines import Fields, read_yaml

SHORT = "httpProxy: deny\nhttpsProxy: deny\n"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        pytest.param("hello", "EX104", "not a mapping", id="a word"),
        pytest.param("- a\n- b", "EX104", "not a mapping", id="a list"),
        pytest.param("1", "EX104", "not a mapping", id="a number"),
        pytest.param("{}", "EX104", "not a policy", id="an empty mapping"),
        pytest.param("colour: blue", "EX104", "not a policy", id="a mapping of something else"),
        pytest.param("name: a\nnamespace: b", "EX104", "not a policy", id="a name alone"),
        pytest.param(
            "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 3}", "EX105", "apps/v1", id="a Deployment"
        ),
        pytest.param(
            "apiVersion: egress-xds/v2\nkind: EgressPolicy\nspec: {}", "EX105", "v1alpha1", id="a later version"
        ),
        pytest.param(
            "apiVersion: egress-xds/v1alpha1\nkind: Egresspolicy\n", "EX105", "EgressPolicy", id="another kind"
        ),
        pytest.param(SHORT + "spec: {}", "EX111", "one form", id="both forms"),
    ],
)
def test_what_is_not_a_policy_says_so_and_nothing_else(text: str, code: str, says: str) -> None:
    result = parse(text)
    assert set(codes(result)) == {code}
    assert says in " ".join(str(item) for item in result.diagnostics)
    assert [held.is_unreadable for held in result.held] == [True]


@pytest.mark.parametrize(
    ("text", "key", "line", "hint"),
    [
        (SHORT + "noproxy: []", "noproxy", 3, "did you mean `noProxy`?"),
        (SHORT + "no_proxy: []", "no_proxy", 3, "did you mean `noProxy`?"),
        (SHORT + "TRUSTED_CA: x", "TRUSTED_CA", 3, "did you mean `trustedCA`?"),
        (SHORT + "colour: blue", "colour", 3, "known here: dialect, explicit, httpProxy"),
        (long_form("default: {action: deny}\npriorty: 1"), "spec.priorty", 6, "did you mean `priority`?"),
        (long_form("default: {action: deny}\nrules: {}").replace("rules: {}", "rule: []"), "spec.rule", 6, "`rules`"),
        (rules("{name: a, too: {ports: [1]}, to: {ports: [1]}, action: deny}"), "spec.rules[0].too", 8, "`to`"),
        (rules("{to: {ports: [1], cidr: []}, action: deny}"), "spec.rules[0].to.cidr", 8, "`cidrs`"),
        (
            rules("{to: {tcp: [{host: 10.0.0.1, port: [1]}]}, action: deny}"),
            "spec.rules[0].to.tcp[0].port",
            8,
            "`ports`",
        ),
        (
            rules("{to: {ports: [1]}, action: deny, http: {acton: deny, action: deny}}"),
            "spec.rules[0].http.acton",
            8,
            "`action`",
        ),
        (
            long_form("default: {action: deny}\nselector: {podLabels: {matchLabel: {}}}"),
            "spec.selector.podLabels.matchLabel",
            6,
            "`matchLabels`",
        ),
        (
            long_form(
                "default: {action: tunnel}\nproxies:\n  endpoints:\n    endpoints: [{uri: x, url: 'http://p:1'}]"
            ),
            "spec.proxies.endpoints.endpoints[0].uri",
            8,
            "`url`",
        ),
        (
            long_form("default: {action: deny}", "{name: a, labels: {}}"),
            "metadata.labels",
            3,
            "known here: name, namespace",
        ),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(text: str, key: str, line: int, hint: str) -> None:
    found = only(parse(text))
    assert (found.code, found.where.key, found.where.line) == ("EX106", key, line)
    assert hint in found.hint


def test_a_misspelt_short_form_is_still_known_for_one() -> None:
    result = parse("http_proxy: http://p.example:1\nHTTPS_PROXY: http://p.example:1\n")
    assert sorted(codes(result)) == ["EX106", "EX106", "EX306", "EX306"]


def test_a_misspelt_long_form_is_still_known_for_one() -> None:
    result = parse("apiversion: egress-xds/v1alpha1\nKind: EgressPolicy\n")
    assert set(codes(result)) == {"EX106", "EX108"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (rules("{name: no, to: {ports: [1]}, action: deny}"), ("text, found true or false", "put `no` in quotes")),
        (rules("{name: 1, to: {ports: [1]}, action: deny}"), ("expected text, found a number", "put `1` in quotes")),
        (rules("{name: 2026-11-21, to: {ports: [1]}, action: deny}"), ("found a date", "put `2026-11-21` in quotes")),
        (rules("{name: , to: {ports: [1]}, action: deny}"), ("expected text, found nothing", "or remove the key")),
        (rules("{name: [a], to: {ports: [1]}, action: deny}"), ("expected text, found a list", "write text")),
        (rules("{name: !x a, to: {ports: [1]}, action: deny}"), ("expected text, found a tagged value", "in quotes")),
        (rules("{to: {ports: ['1']}, action: deny}"), ("expected a whole number, found text", "digits only")),
        (rules("{to: {ports: [1.0]}, action: deny}"), ("a whole number, found a number with a", "digits only")),
        (rules("{to: {ports: [0x1F]}, action: deny}"), ("expected a whole number, found a number", "digits only")),
        (rules("{to: {ports: [1e400]}, action: deny}"), ("expected a whole number, found text", "digits only")),
        (rules("{to: {ports: [" + "9" * 5000 + "]}, action: deny}"), ("expected a whole number", "digits only")),
        (rules("{to: {ports: [true]}, action: deny}"), ("a whole number, found true or false", "digits only")),
        (rules("{to: {ports: 443}, action: deny}"), ("expected a list, found a number", "[a, b]")),
        (rules("{to: {domains: a.example}, action: deny}"), ("expected a list, found text", "[a, b]")),
        (rules("{to: {domains: [1.5]}, action: deny}"), ("expected text", "put `1.5` in quotes")),
        (rules("{to: [a], action: deny}"), ("expected a mapping, found a list", "write a mapping")),
        (rules("a"), ("expected a mapping, found text", "write a mapping")),
        (long_form("default: {action: deny}\nproxies: []"), ("expected a mapping, found a list", "write a mapping")),
        (long_form("default: {action: deny}\nselector:"), ("expected a mapping, found nothing", "or remove the key")),
        (
            long_form("default: {action: deny}\nalwaysDirect: {loopback: 'no'}"),
            ("expected `true` or `false`", "`true`"),
        ),
        (long_form("default: {action: deny}\npriority: high"), ("expected a whole number", "digits only")),
        (SHORT + "noProxy: {a: b}", ("expected text or a list, found a mapping", "`[.corp.example, 10.0.0.0/8]`")),
        (SHORT + "noProxy: 10", ("expected text or a list, found a number", "`.corp.example,10.0.0.0/8`")),
        (SHORT + "noProxy: 10.5", ("expected text or a list, found a number with a fraction", "one text")),
        (SHORT + "noProxy: yes", ("expected text or a list, found true or false", "one text")),
        (
            long_form("default: {action: deny}\ndns: {syntheticRange: 10}"),
            ("expected text or a list, found a number", "one text: `198.18.0.0/15`"),
        ),
        (SHORT + "noProxy: [no]", ("expected text, found true or false", "put `no` in quotes")),
        (SHORT + "noProxy:", ("expected text or a list, found nothing", "or remove the key")),
    ],
)
def test_a_value_of_the_wrong_type_says_what_is_expected(text: str, says: tuple[str, str]) -> None:
    found = only(parse(text))
    assert found.code == "EX107"
    assert (says[0] in found.message, says[1] in found.hint) == (True, True), str(found)


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        (rules("{to: {ports: [1]}, action: allow}"), "spec.rules[0].action", "`direct`, `tunnel` or `deny`"),
        (rules("{to: {ports: [0]}, action: deny}"), "spec.rules[0].to.ports[0]", "at least 1"),
        (rules("{to: {ports: [65536]}, action: deny}"), "spec.rules[0].to.ports[0]", "at most 65535"),
        (long_form("default: {action: }"), "spec.default.action", "`direct`, `tunnel` or `deny`"),
        (long_form("default: {action: [deny]}"), "spec.default.action", "`direct`, `tunnel` or `deny`"),
        (long_form("default: {action: deny, onUnknownName: drop}"), "spec.default.onUnknownName", "`connectIP`"),
        (long_form("default: {action: deny}\ndialect: java"), "spec.dialect", "`go`, `curl`"),
        (long_form("default: {action: deny}\npriority: 1000001"), "spec.priority", "at most 1000000"),
        (long_form("default: {action: deny}\nserverFirstPorts: [22, 0]"), "spec.serverFirstPorts[1]", "at least 1"),
        (SHORT + "dialect: Go", "dialect", "`go`, `curl`"),
    ],
)
def test_a_value_outside_its_range_says_what_is_allowed(text: str, key: str, hint: str) -> None:
    found = only(parse(text))
    assert (found.code, found.where.key) == ("EX109", key)
    assert hint in found.hint


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("kind: EgressPolicy\nmetadata: {name: a}\nspec: {default: {action: deny}}", "apiVersion"),
        ("apiVersion: egress-xds/v1alpha1\nmetadata: {name: a}\nspec: {default: {action: deny}}", "kind"),
        ("apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nspec: {default: {action: deny}}", "metadata"),
        ("apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: a}", "spec"),
        (long_form("default: {action: deny}", "{}"), "metadata.name"),
        (long_form("priority: 1"), "spec.default"),
        (long_form("default: {}"), "spec.default.action"),
        (rules("{to: {ports: [1]}}"), "spec.rules[0].action"),
        (rules("{action: deny}"), "spec.rules[0].to"),
        (rules("{action: deny, to: {ports: [1]}, http: {}}"), "spec.rules[0].http.action"),
        (rules("{to: {tcp: [{ports: [1]}]}, action: deny}"), "spec.rules[0].to.tcp[0].host"),
    ],
)
def test_a_missing_key_is_named(text: str, key: str) -> None:
    result = parse(text)
    assert ("EX108", key) in [(item.code, item.where.key) for item in result.diagnostics]
    assert not result.policies


MANY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {}
spec:
  colour: blue
  priority: high
  proxies:
    corp: {endpoints: [{url: "http://proxy.corp.example"}], auth: {}}
  rules:
    - {name: a, to: {domains: [a.example:x]}, action: tunnel, proxy: corp}
    - {name: a, to: {cidrs: [10.0.0.0/33]}, action: allow}
    - {name: b, to: {cidrs: [10.0.0.0/34], prots: [1]}, action: deny}
    - {name: b, to: {}, action: tunnel, proxy: other}
"""


def test_all_mistakes_of_a_document_are_reported_in_one_go_sorted_by_line() -> None:
    result = parse(MANY)
    assert [(item.where.line, item.code) for item in result.diagnostics] == [
        (3, "EX108"),
        (4, "EX108"),
        (5, "EX106"),
        (6, "EX107"),
        (8, "EX108"),
        (8, "EX303"),
        (10, "EX206"),
        (11, "EX109"),
        (12, "EX205"),
        (12, "EX106"),
        (13, "EX403"),
        (13, "EX304"),
        (13, "EX209"),
    ]


def test_mistakes_in_one_document_do_not_hide_those_in_the_next() -> None:
    result = parse(MANY + "---\nhttpProxy: deny\n---\nname: third\nhttpsProxy: p\nhttpProxy: deny\n")
    assert [(item.where.line, item.code) for item in result.diagnostics][-2:] == [(15, "EX306"), (18, "EX301")]
    assert len(result.held) == 3


@pytest.mark.parametrize("entry", UNAVAILABLE, ids=lambda entry: ".".join(entry.path))
def test_a_key_of_a_later_version_is_refused_by_name(entry: object) -> None:
    assert entry in UNAVAILABLE
    path, value = next((item.path, item.value) for item in UNAVAILABLE if item is entry)
    text = _document_with(path, value or "{}")
    (found,) = [item for item in parse(text).diagnostics if item.code == "EX110"]
    assert f"`{path[-1]}`" in found.message
    assert found.where.key.endswith(path[-1])
    assert found.hint


def _document_with(path: tuple[str, ...], value: str) -> str:
    key, leaf = path[-1], f"{path[-1]}: {value}"
    match path[:-1]:
        case ():
            return f"{SHORT}{leaf}\n"
        case ("spec", "proxies", "*"):
            return long_form(f"default: {{action: tunnel}}\nproxies: {{p: {PROXY[:-1]}, {leaf}}}}}")
        case ("spec", "proxies", "*", *parents):
            nested = leaf
            for parent in reversed(parents):
                nested = f"{parent}: {{{nested}}}"
            return long_form(f"default: {{action: tunnel}}\nproxies: {{p: {PROXY[:-1]}, {nested}}}}}")
        case ("spec", "rules", "*"):
            return rules(f"{{to: {{ports: [1]}}, action: deny, {leaf}}}")
        case ("spec", "default"):
            return long_form(f"default: {{action: deny, {leaf}}}")
        case ("spec", "dns"):
            return long_form(f"default: {{action: deny}}\ndns: {{{leaf}}}")
        case _:
            raise AssertionError(f"no document is known for {key}")


class Choice(BaseModel):
    """A shape with a union, in whose mistakes pydantic names the branch too."""

    model_config = ConfigDict(strict=True, extra="forbid")

    either: int | list[int] = 0
    needed: int


@pytest.mark.parametrize(
    ("text", "codes", "is_read"),
    [
        ("{either: x, needed: 1}", ["EX107", "EX107"], True),
        ("{either: [x], needed: 1}", ["EX107", "EX107"], True),
        ("{either: 1}", ["EX108"], False),
        ("{either: x, needed: 1, other: 2}", ["EX107", "EX107", "EX106"], True),
    ],
)
def test_repairing_ends_even_where_pydantic_names_what_is_not_in_the_text(
    text: str, codes: list[str], *, is_read: bool
) -> None:
    findings = Findings("a.yaml")
    (root,) = read_yaml(text, findings)
    assert isinstance(root, Fields)

    read = read_shape(Choice, root, findings)

    assert (read is not None) is is_read
    assert [item.code for item in findings.since(0)] == codes


def test_places_on_one_line_sort_as_people_count() -> None:
    entries = ", ".join(["-bad"] * 12)
    found = parse(f"{SHORT}dialect: go\nnoProxy: [{entries}]").diagnostics
    assert [item.where.key for item in found] == [f"noProxy[{number}]" for number in range(12)]


def test_a_key_that_is_a_very_long_number_still_sorts() -> None:
    assert codes(parse(f"{SHORT}a{'7' * 300}: 1\n")) == ["EX106"]
