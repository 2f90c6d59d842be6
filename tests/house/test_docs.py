"""
The documentation holds together: links lead somewhere, and what it names is there.

It is compared with what it speaks of: the tests, the commands with their flags, the annotations, the policies that it
shows. Sentences are not checked; commands with their output are run by tests/e2e/test_readme_commands.py.
"""

from __future__ import annotations

import ast
import re
import string
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import yaml

from xds.cli import VERBS, group
from xds.injection.annotations import render_annotations_table
from xds.injection.environment import render_explicit_mode
from xds.policy.parse import Document, parse_document

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
COMPARISON = ROOT / "docs" / "comparison.md"

_LINK = re.compile(r"\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)")
_FENCED = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
FOREIGN_FLAGS = frozenset(
    {
        # Envoy
        *("--config-path", "--disable-hot-restart", "--drain-time-s", "--component-log-level"),
        # kubectl, helm, docker, curl
        *("--all-namespaces", "--create-namespace", "--namespace", "--build-arg", "--tag", "--target", "--from-file"),
        *(
            "--output",
            "--overwrite",
            "--previous",
            "--profile",
            "--raw",
            "--custom",
            "--reset-then-reuse-values",
            "--reuse-values",
            "--set",
            "--values",
            "--containers",
            "--cacert",
            "--container",
            "--dry-run",
        ),
        # kube-apiserver
        "--admission-control-config-file",
        # iptables, an option of iptables-restore
        "--noflush",
    }
)
"""Flags of other programs that pages name."""

SKELETON = """
proxies: {corp: {endpoints: [{url: "http://proxy.corp.example:3128"}]}}
default: {action: tunnel, proxy: corp}
dialect: go
"""
"""What a part of a policy that a page shows stands in."""


def read(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Return a page without what stands in fences."""
    return _FENCED.sub("", read(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page: lower case, no punctuation, hyphens for spaces."""
    found = set()
    for heading in _HEADING.finditer(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"]).lower()
        kept = "".join(sign for sign in text if sign not in string.punctuation or sign in "-_")
        found.add(kept.replace(" ", "-"))
    return found


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield text and target of each link of a page that leads into the repository."""
    for link in _LINK.finditer(prose(page)):
        if "://" not in link["target"]:
            yield link["text"], link["target"]


def resolve(page: Path, target: str) -> tuple[Path, str]:
    """Return the file and the anchor that a link of `page` leads to."""
    path, _, anchor = target.partition("#")
    return ((page.parent / path).resolve() if path else page), anchor


@cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of all functions of a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def flags(verb: str) -> frozenset[str]:
    """Return the flags of a verb."""
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    own = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    return frozenset(own | {"--help", "-h"})


def calls(page: Path) -> Iterator[tuple[str, str]]:
    """Yield each verb that a page calls, with what stands behind it up to the end of the span, line or pipe."""
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    lines = [line for block in _FENCED.finditer(read(page)) for line in block["text"].replace("\\\n", " ").splitlines()]
    for text in (*spans, *lines):
        for part in re.split(r"\\?\||&&|;|\s·\s", text):
            call = re.match(r"\s*(?:\$ )?xds ([a-z]+)\b(?!-)(.*)", part)
            if call is not None:
                yield call[1], call[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for text, target in links(page):
        path, anchor = resolve(page, target)
        assert path.exists(), f"{text}: {target}"
        assert path.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(path), f"{text}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_of_the_repository_that_a_page_writes_is_there(page: Path) -> None:
    written = re.findall(r"(?<![\w./-])(?:deploy|tests|xds|docs|bench|requirements)/[\w./-]*[\w/]", read(page))

    # `deploy/web` is a Deployment for kubectl.
    assert {path for path in written if not (ROOT / path).exists()} <= {"deploy/web"}


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = {README}, [README]
    while waiting:
        page = waiting.pop()
        for _, target in links(page):
            path, _ = resolve(page, target)
            if path.suffix == ".md" and path not in reached and path.exists():
                reached.add(path)
                waiting.append(path)

    assert set(PAGES) <= reached


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    for text, target in links(page):
        path, _ = resolve(page, target)
        if text.startswith("test_") and not text.endswith(".py"):
            assert text in functions(path), f"{text} in {target}"


def test_every_row_of_the_comparison_names_its_proof() -> None:
    rows = [line for line in prose(COMPARISON).splitlines() if line.startswith("| ") and line.count(" | ") == 2]
    rows = [row for row in rows if not row.startswith("| their limit")]

    assert len(rows) > 30
    for row in rows:
        proof = row.rpartition(" | ")[2]
        assert re.search(r"\[test_\w+\]", proof) or proof.strip(" |") == "none", row


def test_the_reasons_that_troubleshooting_starts_from_are_those_of_the_access_log() -> None:
    table = read(ROOT / "docs" / "troubleshooting.md").partition("| `reason` |")[2].partition("\n\n")[0]
    shown = {reason for row in table.splitlines()[2:] for reason in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
    logged = read(ROOT / "xds" / "compile" / "access_log.py")

    assert len(shown) > 8
    assert {reason for reason in shown if f'"{reason}"' not in logged} == set()


def test_the_alert_about_the_proxy_counts_its_failures_and_not_what_it_refuses() -> None:
    rule = next(
        block["text"] for block in _FENCED.finditer(read(ROOT / "docs" / "operations.md")) if "- alert" in block["text"]
    )
    counted = re.search(r'reason=~"([^"]+)"', yaml.safe_load(rule)["groups"][0]["rules"][0]["expr"])
    logged = read(ROOT / "xds" / "compile" / "access_log.py").partition("_OF_TUNNELS")[2]
    reasons = set(re.findall(r'"([a-zT][^"{]{15,})"\),\n', logged))
    assert counted is not None

    found = {reason for reason in reasons if re.fullmatch(counted[1], reason)}
    assert found == {
        "no endpoint of the proxy is usable: its name does not resolve, or none is healthy",
        "no endpoint is usable: the proxy's name does not resolve, or none is healthy",
        "nothing listens at the proxy's endpoint",
        "the proxy's certificate is not trusted, or not for its name (see failure)",
        "the proxy's endpoint can't be reached (see failure)",
        "TLS to the proxy failed (see failure)",
        "the proxy broke the connection off, or did not answer in time",
        "the other side can't be reached, or broke the connection off (see failure)",
    }
    assert "the proxy refuses this destination (403)" in reasons - found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_and_flag_that_a_page_calls_is_there(page: Path) -> None:
    for verb, rest in calls(page):
        assert verb in VERBS, f"xds {verb}{rest}"
        unknown = {flag for flag in _FLAG.findall(rest.partition(" -- ")[0]) if flag not in flags(verb)}
        assert not unknown, f"xds {verb}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_a_page_names_is_somebodys(page: Path) -> None:
    ours = {flag for verb in VERBS for flag in flags(verb)}
    named = {flag for span in re.findall(r"`([^`\n]+)`", prose(page)) for flag in _FLAG.findall(span)}

    assert named <= ours | FOREIGN_FLAGS


def test_every_verb_stands_on_the_page_of_commands() -> None:
    table = read(ROOT / "docs" / "commands.md").partition("JSON is stable")[0]

    assert [verb for verb in VERBS if f"`xds {verb}" not in table] == []


def test_the_table_of_annotations_is_that_of_the_injector() -> None:
    assert render_annotations_table() in read(ROOT / "docs" / "install.md")


def policies() -> list[Document]:
    """Return every policy that a page shows, whole or in part; not what is abridged (…)."""
    found: list[Document] = []
    for page in PAGES:
        for block in _FENCED.finditer(read(page)):
            if block["kind"] == "yaml" and "…" not in block["text"]:
                place = f"{page.name}:{read(page)[: block.start()].count(chr(10)) + 1}"
                found += _policies_of(block["text"], place)
    return found


def _policies_of(text: str, place: str) -> Iterator[Document]:
    shown = yaml.safe_load(text)
    if not isinstance(shown, dict):
        return
    if shown.get("kind") == "ConfigMap" and "egress-xds/policy" in shown["metadata"].get("labels", {}):
        (document,) = shown["data"].values()
        yield Document(source=place, text=document, secrets=shown["metadata"]["namespace"])
    elif shown.get("kind") == "EgressPolicy" or "httpProxy" in shown:
        yield Document(source=place, text=text)
    elif shown.keys() & {"proxies", "rules", "dns", "explicit", "selector", "default", "mode"}:
        spec = {**yaml.safe_load(SKELETON), **shown}
        whole = {"apiVersion": "egress-xds/v1alpha1", "kind": "EgressPolicy", "metadata": {"name": "shown"}}
        yield Document(source=place, text=yaml.safe_dump({**whole, "spec": spec}, allow_unicode=True))


@pytest.mark.parametrize("document", policies(), ids=lambda document: document.source)
def test_a_policy_that_a_page_shows_has_no_error(document: Document) -> None:
    found = parse_document(document).diagnostics

    assert [finding for finding in found if finding.is_error] == []


def test_the_policy_of_the_first_page_serves_the_mode_that_pods_of_meshes_get() -> None:
    (document,) = (shown for shown in policies() if shown.source.startswith("README.md") and "dialect" in shown.text)
    (policy,) = parse_document(document).policies

    assert render_explicit_mode(policy, ()).https_proxy == "http://127.0.0.1:15002"


def test_there_are_policies_to_look_at() -> None:
    assert len(policies()) > 5
