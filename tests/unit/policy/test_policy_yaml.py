"""YAML becomes a bounded tree with keys and lines, or findings; nothing raises."""

from __future__ import annotations

import pytest

from tests.unit.policy.policy_texts import PROXY, codes, good, long_form, only, parse
from xds.policy.findings import Findings
from xds.policy.yaml_lines import Broken, Fields, Items, Kind, Node, Scalar, at, read_yaml


def read(text: str) -> tuple[list[Node | Broken], Findings]:
    findings = Findings("a.yaml")
    return list(read_yaml(text, findings)), findings


def as_read(node: Node) -> tuple[str, int, str, Kind]:
    assert isinstance(node, Scalar)
    return node.key, node.line, node.text, node.kind


def test_each_key_and_each_item_knows_its_path_and_line() -> None:
    (root,), _ = read("a:\n  - x\n  -\n    b: y\n    c: |\n      two\n      lines\nd: z\n")
    assert isinstance(root, Fields)

    assert [(node.key, node.line) for node in (at(root, "a", 0), at(root, "a", 1, "b"), at(root, "d"))] == [
        ("a[0]", 2),
        ("a[1].b", 4),
        ("d", 8),
    ]
    assert as_read(at(root, "a", 1, "c")) == ("a[1].c", 5, "two\nlines\n", Kind.TEXT)


def test_a_value_on_the_next_line_has_the_line_of_its_key() -> None:
    (root,), _ = read("a:\n\n  - x\n")
    assert isinstance(root, Fields)
    assert at(root, "a").line == 1


def test_a_key_that_is_no_plain_word_stands_in_brackets() -> None:
    (root,), _ = read("labels: {app.kubernetes.io/name: x}")
    assert isinstance(root, Fields)
    assert at(root, "labels", "app.kubernetes.io/name").key == "labels[app.kubernetes.io/name]"


def test_the_place_of_what_is_missing_is_that_of_what_would_hold_it() -> None:
    (root,), _ = read("a: {b: [x]}")
    assert isinstance(root, Fields)
    assert at(root, "a", "b", 7, "c").key == "a.b"
    assert at(root, "a", "b", 0, "c").key == "a.b[0]"


def test_a_scalar_keeps_its_text_and_what_yaml_takes_it_for() -> None:
    (root,), _ = read("[no, 1, 1.5, 2026-11-21, ~, x, 'no', !!str 1, !other 1, '', =]")
    assert isinstance(root, Items)
    assert [(item.text, item.kind) for item in root.items if isinstance(item, Scalar)] == [
        ("no", Kind.BOOLEAN),
        ("1", Kind.INTEGER),
        ("1.5", Kind.FLOAT),
        ("2026-11-21", Kind.TIMESTAMP),
        ("~", Kind.NULL),
        ("x", Kind.TEXT),
        ("no", Kind.TEXT),
        ("1", Kind.TEXT),
        ("1", Kind.TAGGED),
        ("", Kind.TEXT),
        ("=", Kind.TEXT),
    ]


def test_an_alias_repeats_its_anchor_under_its_own_key() -> None:
    (root,), findings = read("a: &x {b: [1, 2]}\nc: *x\n")
    assert isinstance(root, Fields)
    assert as_read(at(root, "c", "b", 1)) == ("c.b[1]", 1, "2", Kind.INTEGER)
    assert len(findings) == 0


def test_an_anchor_serves_in_a_policy() -> None:
    policy = good(long_form(f"proxies: {{a: &p {PROXY}, b: *p}}\ndefault: {{action: tunnel, proxy: a}}"))
    assert policy.proxies[0].endpoints == policy.proxies[1].endpoints


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "---\n---\n", "~", "--- null\n...\n", "\ufeff"])
def test_a_source_without_a_document_is_an_error_and_not_a_withdrawal(text: str) -> None:
    """An editor or a failing disk truncates files; whoever means to withdraw a policy deletes its file."""
    result = parse(text)
    found = only(result)
    assert (found.code, str(found.where)) == ("EX112", "corp.yaml:1")
    assert "delete the file" in found.hint
    assert [(item.name, item.is_unreadable) for item in result.held] == [("corp", True)]


@pytest.mark.parametrize("separated", ["---\n{}", "{}---\n", "# on top\n---\n---\n{}---\n# below\n"])
def test_an_empty_document_beside_a_policy_is_none(separated: str) -> None:
    text = separated.format(long_form("default: {action: deny}"))
    assert (len(parse(text).policies), codes(parse(text))) == (1, [])


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("a:\n\tb: c\n", 2, "tab", id="a tab in the indentation"),
        pytest.param("a:\n  - b\n c\n", 3, "indent", id="an indentation that fits nowhere"),
        pytest.param("a: [b, c\n", 2, "quote", id="a list that is not closed"),
        pytest.param('a: "b\n', 2, "quote", id="a quote that is not closed"),
        pytest.param("a:\n- *.corp.example\n", 2, "`*` needs quotes", id="an unquoted wildcard"),
        pytest.param("a:\n- *corp\n", 2, "`*` needs quotes", id="an alias of nothing"),
        pytest.param("a: &x [*x]\n", 1, "`*` needs quotes", id="an anchor inside itself"),
        pytest.param("a: @b\n", 1, "quote", id="a reserved character"),
        pytest.param("a: b: c\n", 1, "quote", id="two values on one line"),
        pytest.param("a:\n- [2001:db8::1]:443\n", 2, "quote", id="an unquoted address in brackets"),
        pytest.param("a: b\nc: \x00\n", 2, "U+0000", id="a zero byte"),
        pytest.param("a: \ud800\n", 1, "U+D800", id="half a surrogate pair"),
        pytest.param("%YAML 9.9\n---\na: b\n", 1, "YAML", id="a version from the future"),
    ],
)
def test_what_is_not_yaml_is_one_finding_with_its_line(text: str, line: int, says: str) -> None:
    _, findings = read(text)
    (found,) = findings.since(0)
    assert (found.code, found.where.line) == ("EX101", line)
    assert says in str(found)


def test_what_stands_before_a_broken_document_is_still_known() -> None:
    result = parse("httpProxy: deny\nhttpsProxy: deny\nname: one\n---\na: [\n")
    assert [(held.name, held.is_unreadable) for held in result.held] == [("one", False), ("corp", True)]


def test_a_key_given_twice_is_an_error_that_names_both_lines() -> None:
    found = only(parse("httpProxy: deny\nhttpsProxy: deny\nhttpProxy: direct\n"))
    assert (found.code, found.where.key, found.where.line) == ("EX102", "httpProxy", 3)
    assert "line 1" in found.message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("no: x", "EX107", id="a truth value"),
        pytest.param("1: x", "EX107", id="a number"),
        pytest.param("? [a]\n: x", "EX107", id="a list"),
        pytest.param("? {a: b}\n: {c: d}", "EX107", id="a mapping"),
        pytest.param("a: &a {}\n*a : x", "EX107", id="an alias of a mapping"),
        pytest.param("<<: {}", "EX106", id="a merge key"),
    ],
)
def test_a_key_that_is_not_text_is_refused(text: str, code: str) -> None:
    _, findings = read(text)
    assert [item.code for item in findings.since(0)] == [code]


def test_a_tag_on_a_collection_is_refused() -> None:
    _, findings = read("a: !!python/object:os.system {b: c}\nd: !!map {}\ne: !!set {f}\n")
    assert [(item.code, item.where.key) for item in findings.since(0)] == [("EX107", "a"), ("EX107", "e")]


NESTED_ALIASES = "a: &a [[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]\nb: [[[[[[[[[[[[[[[*a]]]]]]]]]]]]]]]\n"
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="lists in lists"),
        pytest.param("{a: " * 100_000, id="mappings in mappings"),
        pytest.param("- " * 5_000, id="block lists in block lists"),
        pytest.param(NESTED_ALIASES, id="nesting through aliases"),
        pytest.param(LAUGHS, id="a billion laughs"),
        pytest.param("x" * (16 * 1024 * 1024 + 1), id="a text beyond any policy"),
    ],
)
def test_what_is_too_deep_or_too_large_is_refused(text: str) -> None:
    result = parse(text)
    assert codes(result) == ["EX103"]
    assert [held.is_unreadable for held in result.held] == [True]
