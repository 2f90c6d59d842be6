"""What is held of a text is in proportion to its length, however the text is built."""

from __future__ import annotations

import pytest

from tests.unit.policy.policy_texts import codes, long_form, only, parse
from xds.policy.findings import Findings
from xds.policy.model import Selector
from xds.policy.parse import MAX_LENGTH_OF_ONE_NAMESPACE, MAX_VALUES_OF_ONE_NAMESPACE
from xds.policy.yaml_lines import MAX_KEY, MAX_NAME, Broken, Fields, Items, Limits, Node, Scalar, Step, read_yaml

SHORT = "httpProxy: deny\nhttpsProxy: deny\n"

PER_CHARACTER = 3
"""Characters and objects that are held for each character of the text, at most: `a,` is a value, a step and a text."""


class Held:
    """All that is reachable from trees: each object and text once, as memory has it."""

    def __init__(self) -> None:
        self.objects: dict[int, object] = {}
        self.texts: dict[int, str] = {}

    def walk(self, node: Node | Broken) -> None:
        self.objects[id(node)] = node
        self._note(node.place)
        match node:
            case Scalar():
                self._note(node.text)
            case Items():
                for item in node.items:
                    self.walk(item)
            case Fields():
                for name, value in node.fields.items():
                    self._note(name)
                    self.walk(value)
            case Broken():
                pass

    def _note(self, part: Step | str | int) -> None:
        while isinstance(part, Step):
            self.objects[id(part)] = part
            if isinstance(part.part, str):
                self.texts[id(part.part)] = part.part
            part = part.parent
        if isinstance(part, str):
            self.texts[id(part)] = part

    @property
    def size(self) -> int:
        return len(self.objects) + sum(map(len, self.texts.values()))


def nested(levels: int, length: int, innermost: str) -> str:
    return "".join(f"{' ' * n}{'a' * length}:\n" for n in range(levels)) + " " * levels + innermost


MANY = "[" + "a," * 5_000 + "]\n"
SHAPES = [
    pytest.param(f"? {'a' * 10_000}\n: {MANY}", id="a long key over a long list"),
    pytest.param(f"{'a' * MAX_NAME}: {MANY}", id="the longest key over a long list"),
    pytest.param(f"? {'@' * MAX_NAME}\n: {MANY}", id="a key that is no plain word over a long list"),
    pytest.param(nested(28, 1_000, MANY), id="long keys in each other over a long list"),
    pytest.param(nested(30, MAX_NAME, MANY), id="the longest keys in each other over a long list"),
    pytest.param(nested(30, MAX_NAME, "{" + ", ".join(f"k{n}: x" for n in range(2_000)) + "}\n"), id="over many keys"),
    pytest.param(nested(20, MAX_NAME, "- " * 10 + "x\n"), id="lists in lists below long keys"),
    pytest.param("".join(f"{'a' * 300}{n}: {{}}\n" for n in range(100)), id="many long keys"),
    pytest.param("".join(f"--- {{k: [{n}]}}\n" for n in range(2_000)), id="many documents"),
    pytest.param(f"a: &a {{{'k' * MAX_NAME}: [x]}}\n" + "".join(f"k{n}: *a\n" for n in range(500)), id="aliases"),
    pytest.param(f"a: &a {'x' * 5_000}\nb: [{'*a ,' * 2_000}]\n", id="aliases of a long text"),
    pytest.param("#" * 10_000 + "\na: b # c\n" * 10, id="comments"),
]


@pytest.mark.parametrize("text", SHAPES)
def test_what_is_held_of_a_text_is_in_proportion_to_its_length(text: str) -> None:
    held = Held()
    trees = list(read_yaml(text, Findings("a.yaml")))
    for tree in trees:
        held.walk(tree)

    assert trees
    assert held.size <= PER_CHARACTER * len(text)


@pytest.mark.parametrize("text", [*SHAPES, pytest.param(nested(30, MAX_NAME, "{<<: 1, <<: 2}\n"), id="findings")])
def test_no_finding_is_long(text: str) -> None:
    told = parse(text, namespace="team-a").diagnostics

    assert told
    assert max(len(str(item)) for item in told) < MAX_KEY + 500


def test_a_path_that_is_very_long_is_cut_at_its_end() -> None:
    (tree,) = read_yaml("a:\n " + nested(3, 300, "x").replace("\n", "\n "), Findings("a.yaml"))
    assert isinstance(tree, Fields)
    node: Node = tree
    while isinstance(node, Fields):
        (node,) = node.fields.values()

    assert len(node.key) == MAX_KEY
    assert node.key.startswith("a.aaa")
    assert node.key.endswith("a…")


def test_the_longest_key_is_one() -> None:
    label = f"{'d' * 253}/{'n' * 63}"
    assert len(label) == MAX_NAME
    (tree,) = read_yaml(f"{label}: x", Findings("a.yaml"))
    assert isinstance(tree, Fields)
    assert list(tree.fields) == [label]


@pytest.mark.parametrize("written", ["{}: {{b: [c]}}\n", "? {}\n: {{b: [c]}}\n", "? &a {}\n: {{b: [c]}}\n"])
def test_a_longer_key_is_refused_where_it_stands_and_what_follows_is_read(written: str) -> None:
    name = "k" * (MAX_NAME + 1)
    findings = Findings("a.yaml")
    (tree,) = read_yaml("a:\n  " + written.format(name).replace("\n:", "\n  :") + "  d: e\n", findings)

    (found,) = findings.since(0)
    assert (found.code, str(found.where), found.hint) == ("EX103", "a.yaml:2 a", "shorten it, or remove it")
    assert len(found.message) < MAX_NAME
    assert isinstance(tree, Fields)
    below = tree.fields["a"]
    assert isinstance(below, Fields)
    assert list(below.fields) == ["d"]


def test_a_document_with_a_key_too_long_beside_its_claims_may_concern_every_pod() -> None:
    """As with every other unknown key there."""
    result = parse(f"{SHORT}{'k' * 1_000}: x\n")
    assert codes(result) == ["EX103"]
    assert [(item.is_unreadable, item.selector) for item in result.held] == [(True, Selector())]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"a: [{'a,' * MAX_VALUES_OF_ONE_NAMESPACE}]\n", id="in a list"),
        pytest.param(f"{{{'a,' * MAX_VALUES_OF_ONE_NAMESPACE}}}\n", id="as keys"),
        pytest.param("---\n" * (MAX_VALUES_OF_ONE_NAMESPACE // 2 + 1), id="as documents that are empty"),
    ],
)
def test_a_text_for_one_namespace_holds_no_more_values_than_its_length_allows(text: str) -> None:
    assert len(text) <= MAX_LENGTH_OF_ONE_NAMESPACE
    result = parse(text, namespace="team-a")

    assert "EX103" in [item.code for item in result.diagnostics] or "more findings" in result.diagnostics[-1].message
    assert [item.is_unreadable for item in result.held] == [True]
    assert "EX103" not in codes(parse(text))


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        pytest.param("- a\n- b\n- c\n", Limits(values=4), id="items"),
        pytest.param("a: b\nc: d\n", Limits(values=5), id="keys and their values"),
        pytest.param("--- a\n--- b\n", Limits(values=3), id="documents"),
        pytest.param("- &a x\n- *a\n- *a\n", Limits(values=6), id="aliases"),
        pytest.param("- &a [x, y]\n- *a\n", Limits(values=8), id="what aliases repeat"),
        pytest.param(f"- &a {'x' * 20}\n- *a\n- *a\n- *a\n- *a\n", Limits(length=79), id="characters of aliases"),
    ],
)
def test_one_value_too_many_breaks_the_document_and_one_less_does_not(text: str, limits: Limits) -> None:
    findings = Findings("a.yaml")
    wider = Limits(length=limits.length + 1, values=limits.values + 1)

    assert isinstance(list(read_yaml(text, findings, limits))[-1], Broken)
    assert [item.code for item in findings.since(0)] == ["EX103"]
    assert not any(isinstance(item, Broken) for item in read_yaml(text, Findings("a.yaml"), wider))


@pytest.mark.parametrize("item", ["a", "{}", "{to: }", "~"])
def test_far_more_mistakes_of_structure_than_are_told_are_not_even_looked_at(item: str) -> None:
    text = long_form(f"default: {{action: deny}}\nrules: [{f'{item}, ' * 12_000}]")
    found = only(parse(text, namespace="team-a"))

    assert (found.code, found.where.key) == ("EX103", "")
    assert "places" in found.message
    assert [held.is_unreadable for held in parse(text, namespace="team-a").held] == [True]
    assert "EX113" in codes(parse(text))


def test_a_document_with_very_many_keys_is_known_for_a_policy_by_one_of_them() -> None:
    keys = "".join(f"k{n}: x\n" for n in range(100))
    assert {item.code for item in parse(keys + SHORT).diagnostics} == {"EX106"}
    assert "EX106" in codes(parse(keys + "apiVersion: egress-xds/v1alpha1\n"))
    assert codes(parse(keys)) == ["EX104"]


@pytest.mark.parametrize(
    ("hosts", "ports", "is_good"),
    [
        pytest.param(1_000, 50, True, id="as many pairs as are allowed"),
        pytest.param(1_001, 50, False, id="more pairs"),
        pytest.param(10_000, 8_000, False, id="more ports, times very many hosts"),
    ],
)
def test_hosts_times_ports_of_a_policy_for_one_namespace_have_a_bound(hosts: int, ports: int, is_good: bool) -> None:
    names = ", ".join(f"a{n}.example" for n in range(hosts))
    rule = f"{{action: deny, to: {{domains: [{names}], ports: {list(range(1, ports + 1))}}}}}"
    result = parse(long_form(f"default: {{action: deny}}\nrules: [{rule}]"), namespace="team-a")

    assert [item.code for item in result.diagnostics if item.is_error] == ([] if is_good else ["EX103"])
    assert [item.is_unreadable for item in result.held] == ([] if is_good else [False])


def test_a_policy_as_long_as_one_for_a_namespace_may_be_has_values_to_spare() -> None:
    rule = "  - {to: {domains: [a%d.example]}, action: deny}\n"
    lines = "".join(rule % n for n in range(4_900))
    text = long_form(f"default: {{action: deny}}\nrules:\n{lines}")
    assert 0.95 * MAX_LENGTH_OF_ONE_NAMESPACE < len(text) <= MAX_LENGTH_OF_ONE_NAMESPACE
    result = parse(text, namespace="team-a")

    assert result.is_good, result.diagnostics[0]
    assert len(result.policies[0].rules) == 4_900
