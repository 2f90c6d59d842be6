"""A source as a whole: what is held when it is bad, whose names clash, and when it is good."""

from __future__ import annotations

import pytest

from tests.unit.policy.policy_texts import PROXY, codes, long_form, only, parse, rules
from xds.policy.model import HeldPolicy, Selector
from xds.policy.parse import (
    MAX_LENGTH_OF_ONE_NAMESPACE,
    MAX_POLICIES_OF_ONE_NAMESPACE,
    MAX_SHOWN,
    MAX_SHOWN_OF_ONE_NAMESPACE,
    Document,
    check_names,
    parse_document,
)

BAD_RULE = "rules: [{to: {domains: ['a b']}, action: deny}]"
CLAIM = "selector: {namespaces: [team-a], serviceAccounts: [web]}\npriority: 3"


def held(text: str, namespace: str | None = None) -> HeldPolicy:
    result = parse(text, namespace=namespace)
    assert (result.is_good, result.policies) == (False, ())
    (item,) = result.held
    return item


def test_a_good_source_holds_nothing_back() -> None:
    result = parse(long_form("default: {action: deny}"))
    assert (len(result.policies), result.held, result.is_good) == (1, (), True)


def test_a_warning_keeps_nothing_out() -> None:
    result = parse(rules("{to: {domains: [localhost]}, action: deny}"))
    assert (codes(result), result.is_good, len(result.policies)) == (["EX221"], True, 1)


def test_a_bad_document_still_claims_its_pods() -> None:
    item = held(long_form(f"default: {{action: deny}}\n{CLAIM}\n{BAD_RULE}", "{name: a, namespace: team-a}"))
    assert (item.name, item.namespace, item.priority, item.is_unreadable) == ("a", "team-a", 3, False)
    assert item.selector == Selector(namespaces=("team-a",), service_accounts=("web",))
    assert str(item.where) == "corp.yaml:1"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: [", id="no YAML"),
        pytest.param("hello", id="no mapping"),
        pytest.param(
            long_form("default: {action: deny}\nselector: {namespace: [a]}"), id="an unknown key of the selector"
        ),
        pytest.param(
            long_form("default: {action: deny}\nselector: {namespaces: [no]}"), id="a wrong type in the selector"
        ),
        pytest.param(
            long_form("default: {action: deny}\nselector: {namespaces: [A]}"), id="a bad name in the selector"
        ),
        pytest.param(long_form("default: {action: deny}\nselector: []"), id="a selector that is none"),
        pytest.param(long_form("default: {action: deny}\nselector: {}\nselector: {}"), id="two selectors"),
        pytest.param(long_form("default: {action: deny}\npodSelector: {}"), id="an unknown key beside the selector"),
        pytest.param(long_form("default: {action: deny}\n<<: {}"), id="a merge key beside the selector"),
        pytest.param(long_form("default: {action: deny}\n'a.b': {}"), id="an unknown key that is no plain word"),
        pytest.param(long_form("default: {action: deny}\npriority: high"), id="a wrong priority"),
        pytest.param(long_form("default: {action: deny}", "{name: a, namespace: 5}"), id="a wrong namespace"),
        pytest.param(long_form("default: {action: deny}", "{name: a, namespace: A}"), id="a bad namespace"),
        pytest.param(
            long_form("default: {action: deny}", "{name: a, namspace: a}"), id="an unknown key of the metadata"
        ),
        pytest.param(long_form("default: {action: deny}", "a"), id="metadata that are none"),
        pytest.param(long_form("default: {action: deny}", "{}"), id="no name"),
        pytest.param("httpProxy: deny\nhttpsProxy: deny\nselector: {}\n", id="an unknown key of the short form"),
        pytest.param("httpProxy: deny\nhttpsProxy: deny\nnamespace: A\n", id="a bad namespace in the short form"),
        pytest.param("apiVersion: egress-xds/v2\nkind: EgressPolicy\n", id="another version"),
    ],
)
def test_a_document_whose_claim_is_in_doubt_may_concern_every_pod(text: str) -> None:
    item = held(text)
    assert (item.is_unreadable, item.namespace, item.selector) == (True, None, Selector())


def test_a_document_whose_claim_is_in_doubt_concerns_its_own_namespace_only() -> None:
    assert held("hello", "team-a").namespace == "team-a"
    assert held(long_form("default: {action: deny}\nselectr: {}"), "team-a").namespace == "team-a"
    assert held(long_form("default: {action: deny}\nselectr: {}", "{name: a, namespace: team-a}")).namespace == "team-a"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(long_form(f"default: {{action: deny}}\n{BAD_RULE}"), id="a bad entry"),
        pytest.param(long_form("default: {action: deny}\nproxies: []"), id="a wrong type elsewhere"),
        pytest.param(
            long_form("default: {action: deny}\nproxies: {p: {endpoint: []}}"), id="an unknown key further down"
        ),
        pytest.param(long_form("priority: 0"), id="a missing default"),
        pytest.param(long_form("default: {action: deny}", "{name: Bad_Name}"), id="a name that is not valid"),
        pytest.param("httpProxy: deny\n", id="half a short form"),
        pytest.param("httpProxy: deny\nhttpsProxy: deny\nname: A B\n", id="a bad name in the short form"),
    ],
)
def test_other_mistakes_leave_the_claim_known(text: str) -> None:
    assert not held(text).is_unreadable


def test_one_bad_document_holds_back_the_whole_source() -> None:
    good, bad = long_form("default: {action: deny}", "{name: a}"), long_form("default: {action: x}", "{name: b}")
    result = parse(f"{good}---\n{bad}")
    assert result.policies == ()
    assert [(item.name, item.is_unreadable) for item in result.held] == [("a", False), ("b", False)]


def test_two_documents_in_one_source_are_two_policies() -> None:
    documents = [long_form("default: {action: deny}", f"{{name: {name}}}") for name in ("a", "b")]
    assert [policy.name for policy in parse("---\n".join(documents)).policies] == ["a", "b"]


def named(name: str, source: str, namespace: str = "") -> tuple[str, str]:
    metadata = f"{{name: {name}, namespace: {namespace}}}" if namespace else f"{{name: {name}}}"
    return source, long_form("default: {action: deny}", metadata)


def check(*sources: tuple[str, str]) -> list[str]:
    results = {source: parse_document(Document(source, text)) for source, text in sources}
    return [str(item) for item in check_names(results)]


def test_one_name_in_two_sources_is_an_error_on_the_later_that_names_both() -> None:
    (found,) = check(named("x", "b.yaml"), named("x", "a.yaml"), named("y", "c.yaml"))
    assert found.startswith("b.yaml:1: error[EX405]")
    assert "in a.yaml:1 and in b.yaml:1" in found
    assert "cluster-wide" in found


def test_three_sources_with_one_name_are_two_errors() -> None:
    assert len(check(named("x", "a.yaml"), named("x", "b.yaml"), named("x", "c.yaml", ""))) == 2


def test_one_name_in_two_namespaces_is_two_names() -> None:
    assert check(named("x", "a.yaml", "team-a"), named("x", "b.yaml", "team-b"), named("x", "c.yaml")) == []
    (found,) = check(named("x", "a.yaml", "team-a"), named("x", "b.yaml", "team-a"))
    assert "in the namespace `team-a`" in found


def test_a_held_policy_keeps_its_name() -> None:
    bad = ("b.yaml", long_form("default: {action: x}", "{name: x}"))
    assert len(check(named("x", "a.yaml"), bad)) == 1


def test_a_name_that_only_stands_in_clashes_with_none() -> None:
    unreadable = ("x.yaml", "hello")
    invalid = ("x.yml", long_form("default: {action: deny}", "{name: X Y}"))
    assert check(named("x", "a.yaml"), unreadable, invalid) == []


def test_two_documents_without_names_are_not_called_twins() -> None:
    nameless = long_form("default: {action: deny}", "{}")
    assert codes(parse(f"{nameless}---\n{nameless}")) == ["EX108", "EX108"]


def test_one_name_twice_in_one_source_is_an_error_at_the_second() -> None:
    text = long_form(f"default: {{action: tunnel}}\nproxies: {{p: {PROXY}}}")
    found = only(parse(f"{text}---\n{text}"))
    assert (found.code, found.where.key, found.where.line) == ("EX405", "metadata.name", 8)


def test_one_name_many_times_in_one_source_is_an_error_at_each_but_the_first() -> None:
    assert codes(parse("---\n".join(["httpProxy: deny\nhttpsProxy: deny\n"] * 200))) == ["EX405"] * 199


def test_of_very_many_findings_the_first_errors_are_told() -> None:
    """A warning must not take the place of an error, and a document with errors stays bad."""
    lines = [f"{{to: {{domains: [a{n}.example]}}, action: direct}}" for n in range(MAX_SHOWN)]
    result = parse(rules(*lines, *(f"{{x{n}: 1}}" for n in range(MAX_SHOWN))))

    told = result.diagnostics
    assert not result.is_good
    assert len(told) == MAX_SHOWN + 1
    assert [item.code for item in told if not item.is_error] == ["EX113"]
    assert [item.where.line for item in told] == sorted(item.where.line or 0 for item in told)


def test_a_few_errors_behind_very_many_warnings_are_all_told() -> None:
    lines = [f"{{to: {{domains: [a{n}.example]}}, action: direct}}" for n in range(MAX_SHOWN)]

    assert codes(parse(rules(*lines, "{to: {ports: [0]}, action: deny}"))) == ["EX109", "EX113"]


@pytest.mark.parametrize("count", [MAX_SHOWN_OF_ONE_NAMESPACE + 1, 5 * MAX_SHOWN_OF_ONE_NAMESPACE + 500])
def test_of_a_document_for_one_namespace_fewer_findings_are_told_and_all_are_counted(count: int) -> None:
    text = rules(*(f"{{x{n}: 1, to: {{domains: [a]}}, action: deny}}" for n in range(count)))
    result = parse(text, namespace="team-a")

    assert not result.is_good
    assert codes(result) == [*["EX106"] * MAX_SHOWN_OF_ONE_NAMESPACE, "EX113"]
    assert f"{count + 1 - MAX_SHOWN_OF_ONE_NAMESPACE} more" in result.diagnostics[-1].message
    assert len(parse(text).diagnostics) > MAX_SHOWN_OF_ONE_NAMESPACE + 1


def test_after_so_many_errors_that_some_were_not_kept_a_document_claims_all_of_its_namespace() -> None:
    """One of them might have been about the selector."""
    lines = (f"{{x{n}: 1, to: {{domains: [a]}}, action: deny}}" for n in range(1500))
    selector = "selector: {namespaces: [team-a], serviceAccounts: [web]}"

    (item,) = parse(rules(*lines, extra=selector), namespace="team-a").held
    assert (item.is_unreadable, item.namespace) == (True, "team-a")
    (item,) = parse(rules("{x: 1, to: {domains: [a]}, action: deny}", extra=selector), namespace="team-a").held
    assert not item.is_unreadable


def test_a_document_for_one_namespace_is_not_as_long_as_one_for_the_cluster_may_be() -> None:
    text = "httpProxy: deny\nhttpsProxy: deny\n#" + "x" * MAX_LENGTH_OF_ONE_NAMESPACE

    assert only(parse(text, namespace="team-a")).code == "EX103"
    assert parse(text).is_good


@pytest.mark.parametrize("sources", [("a", "b"), ("b", "a")])
def test_nobody_in_a_namespace_makes_a_document_of_the_cluster_bad_by_taking_a_name(sources: tuple[str, str]) -> None:
    """The operator's document may hold policies for others as well."""
    theirs, operators = sources
    results = {
        theirs: parse(long_form("default: {action: deny}"), theirs, "team-a"),
        operators: parse(long_form("default: {action: deny}", "{name: default, namespace: team-a}"), operators),
    }

    assert [(item.code, item.where.source) for item in check_names(results)] == [("EX405", theirs)]


def test_a_policy_and_its_claim_are_as_old_as_their_document() -> None:
    document = long_form("default: {action: deny}")
    bad = "httpProxy: deny"

    assert parse(document, created="2026-11-21").policies[0].created == "2026-11-21"
    assert parse("httpProxy: deny\nhttpsProxy: deny", created="2026-11-21").policies[0].created == "2026-11-21"
    assert [item.created for item in parse(bad, created="2026-11-21").held] == ["2026-11-21"]
    assert [item.created for item in parse("a: [", created="2026-11-21").held] == ["2026-11-21"]


def test_a_document_for_one_namespace_holds_no_more_policies_than_are_bearable_for_others() -> None:
    one = "httpProxy: deny\nhttpsProxy: deny\nname: a{}\n"
    text = "---\n".join(one.format(n) for n in range(MAX_POLICIES_OF_ONE_NAMESPACE + 5))
    result = parse(text, namespace="team-a")

    found = only(result)
    assert (found.code, found.where.line) == ("EX103", 4 * MAX_POLICIES_OF_ONE_NAMESPACE + 1)
    assert [(item.namespace, item.is_unreadable) for item in result.held[-2:]] == [("team-a", False), ("team-a", True)]
    assert parse(text).is_good


PORTS = ", ".join(map(str, range(1, 101)))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(rules(*(f"{{to: {{ports: [{PORTS}]}}, action: deny}}" for _ in range(5))), id="in rules"),
        pytest.param(
            "httpProxy: deny\nhttpsProxy: deny\nnoProxy: [" + ", ".join(f"'10.0.0.1:{n}'" for n in range(1, 500)) + "]",
            id="in the short form",
        ),
        pytest.param(
            rules(extra=f"serverFirstPorts: [{', '.join(map(str, range(1, 502)))}]"), id="where servers speak first"
        ),
    ],
)
def test_a_policy_for_one_namespace_names_no_more_ports_than_are_bearable_for_others(text: str) -> None:
    """Each is a matching tree of its own, and takes milliseconds to compile."""
    result = parse(text, namespace="team-a")

    assert [item.code for item in result.diagnostics if item.is_error] == ["EX103"]
    assert [item.is_unreadable for item in result.held] == [False]
    assert parse(text).is_good
