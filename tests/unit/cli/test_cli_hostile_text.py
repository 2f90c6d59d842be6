"""Whatever names, texts and files say: a terminal obeys nothing of it, and it makes no line of its own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import structlog
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command_line import GOOD, Outcome, Runner
from xds.cli import status
from xds.cli.logs import configure_logging
from xds.cli.output import render_json, render_table, render_yaml
from xds.demo.errors import LabError
from xds.errors import SourceError, clean_text
from xds.inspection.fleet import Answer, Filter, SidecarStatus, State, put_together
from xds.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "x\x1b]0;title\x07\x1b[2J\x1b[8m\x9b2J\x7f\nforged: line\r\x85forged\u202ey"
OURS = re.compile(r"\x1b\[(?:[0124]|3\d)m")
"""The colours that the commands use; they conceal nothing (8)."""
PREFIX = "type.googleapis.com/"
OFFLINE = ("--no-resolve", "--resolv-conf", "")


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let colours through, and with them what a terminal would get to see."""
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_args, **_kwargs: False)


def assert_harmless(outcome: Outcome) -> None:
    for text in (outcome.out, outcome.err):
        seen = OURS.sub("", text)
        assert {letter for letter in seen if ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0} <= {"\n"}
        assert not re.search("^forged", seen, re.MULTILINE)
    assert "y" in outcome.out + outcome.err, "what was given is shown"


def write_policy(directory: Path, text: str = GOOD, name: str = f"{EVIL}.yaml") -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name.replace("/", "-")
    path.write_text(text)
    return path


def hostile(name: str = "web-0.shop") -> str:
    """Return a dump in which all that is free to choose is chosen badly."""
    cluster = {"@type": f"{PREFIX}envoy.config.cluster.v3.Cluster", "name": EVIL, "type": "EDS", EVIL: [EVIL]}
    odd = {"@type": f"{PREFIX}odd.{EVIL}", "name": EVIL}
    entries = [
        {
            "version_info": EVIL,
            "last_updated": EVIL,
            "cluster": content,
            "error_state": {"version_info": EVIL, "details": EVIL, "last_update_attempt": EVIL},
        }
        for content in (cluster, odd)
    ]
    node = {"id": name, "metadata": {"labels": {EVIL: EVIL}, "serviceAccount": EVIL}}
    configs = [
        {"@type": f"{PREFIX}envoy.admin.v3.BootstrapConfigDump", "bootstrap": {"node": node}},
        {"@type": f"{PREFIX}envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": entries},
    ]
    return json.dumps({"configs": configs})


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_a_dump(xds: Runner, tmp_path: Path, output: str) -> None:
    (tmp_path / "dump.json").write_text(hostile())

    assert_harmless(xds("dump", "--config-dump", tmp_path / "dump.json", "-o", output))


@pytest.mark.parametrize("node", ["web-0.shop", EVIL])
@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_a_comparison(xds: Runner, tmp_path: Path, output: str, node: str) -> None:
    (tmp_path / "dump.json").write_text(hostile(node))
    write_policy(tmp_path / "policies")

    assert_harmless(
        xds("dump", tmp_path / "policies", *OFFLINE, "--config-dump", tmp_path / "dump.json", "--compare", "-o", output)
    )


@pytest.mark.parametrize("output", ["table", "json", "sarif"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"httpProxy: 5\n{json.dumps(EVIL)}: 1\n", id="an unknown key"),
        pytest.param(f"httpProxy: {json.dumps(EVIL)}\n", id="a bad URL"),
        pytest.param(f"{GOOD}noProxy: [{json.dumps(EVIL)}]\n", id="a bad entry"),
        pytest.param("a: \x1b[2J\n", id="no YAML"),
        pytest.param(
            "apiVersion: v1\nkind: ConfigMap\n"
            f"metadata: {{name: {json.dumps(EVIL)}, namespace: {json.dumps(EVIL)}, "
            "labels: {egress-xds/policy: 'true'}}\n"
            f"data: {{{json.dumps(EVIL + '.yaml')}: 'httpProxy: 5'}}\n",
            id="a manifest",
        ),
    ],
)
def test_findings(xds: Runner, tmp_path: Path, text: str, output: str) -> None:
    assert_harmless(xds("validate", write_policy(tmp_path / "p", text), "-o", output))


def test_findings_for_people(xds: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.cli.validate._is_terminal", lambda: True)

    assert_harmless(xds("validate", write_policy(tmp_path / "p", f"{json.dumps(EVIL)}: 1\n")))


@pytest.mark.parametrize("verb", ["validate", "dump", "explain", "diff", "import", "collect"])
def test_names_of_files_that_there_are_not(xds: Runner, tmp_path: Path, verb: str) -> None:
    missing = tmp_path / EVIL
    arguments = {
        "explain": ("web-0.shop", "a.example:443", missing),
        "diff": (missing, missing),
        "collect": (missing, "-o", tmp_path / "bundle.tar.gz"),
    }

    assert_harmless(xds(verb, *arguments.get(verb, (missing,))))


@pytest.mark.parametrize("output", ["table", "json"])
def test_explanations(xds: Runner, tmp_path: Path, output: str) -> None:
    write_policy(tmp_path / "p", f"{GOOD}noProxy: [a.example]\n")

    assert_harmless(xds("explain", "y-0.shop", "a.example:443", tmp_path / "p", *OFFLINE, "-o", output))


@pytest.mark.parametrize("output", ["table", "json"])
def test_differences(xds: Runner, tmp_path: Path, output: str) -> None:
    old, new = write_policy(tmp_path / "old"), write_policy(tmp_path / "new", f"{GOOD}noProxy: [y.example]\n")

    for arguments in ((old, new), (old.parent, "-f", write_policy(tmp_path / "bad", "httpProxy: 5\n"))):
        assert_harmless(xds("diff", *arguments, *OFFLINE, "--resources", "-o", output))


@pytest.mark.parametrize("output", ["yaml", "json"])
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param(
            "pac",
            f"function FindProxyForURL(u, h) {{ if (h == {json.dumps(EVIL)}) return 'DIRECT'; "
            f"if (odd({json.dumps(EVIL)})) return 'DIRECT'; return 'PROXY p.example:3128'; }}",
            id="a PAC file",
        ),
        pytest.param(
            "pac",
            f"function FindProxyForURL(u, h) {{ if (h == 'y') return {json.dumps('PROXY ' + EVIL)}; "
            "return 'PROXY p.example:3128'; }",
            id="a proxy of a PAC file",
        ),
        pytest.param("env", f"HTTPS_PROXY=http://p.example:3128\nNO_PROXY=y,{EVIL}\n", id="variables"),
        pytest.param(
            "istio",
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
            f"metadata: {{name: {json.dumps(EVIL)}}}\nspec: {{hosts: [{json.dumps(EVIL)}]}}\n",
            id="an Istio resource",
        ),
    ],
)
def test_imports(xds: Runner, tmp_path: Path, kind: str, text: str, output: str) -> None:
    (tmp_path / EVIL).write_text(text)

    assert_harmless(xds("import", kind, tmp_path / EVIL, "-o", output))


@pytest.mark.parametrize("output", ["table", "wide", "json"])
def test_what_servers_say_of_sidecars(capsys: pytest.CaptureFixture[str], output: str) -> None:
    bad = SidecarStatus(node=EVIL, replica=EVIL, state=State.OFFLINE, policy=EVIL)
    answers = (Answer(replica=EVIL, sidecars=(bad,)), Answer(replica=f"other-{EVIL}", problem=EVIL))
    fleet = replace(put_together(answers, None, Filter()), notes=(EVIL,))

    status._show(fleet, output)

    assert_harmless(Outcome(0, *capsys.readouterr()))


def test_json_and_yaml_say_the_same_as_before() -> None:
    value = {EVIL: ["\ud800", "\x85\xa0é✓"]}

    assert json.loads(render_json(value)) == value
    assert "é✓" in render_json(value)
    assert yaml.safe_load(render_yaml({EVIL: ["\x85\u2028\xa0é✓"]})) == {EVIL: ["\x85\u2028\xa0é✓"]}
    assert "é✓" in render_yaml(["\x07\x9b é✓"])
    assert render_yaml(value).isascii(), "halves of pairs have no UTF-8, and some terminals take U+0085 for a new line"


def test_a_table_is_painted_after_it_was_aligned() -> None:
    table = render_table(("A", "B"), [("a\x1b", "b"), ("aaa", "\n")], paint=lambda cell: f"<{cell}>")

    assert table.splitlines() == ["A    B", "a\N{REPLACEMENT CHARACTER}   <b>", "aaa  < >"]


@given(text=st.text(st.characters()))
def test_clean_text_is_as_long_printable_and_the_same_where_nothing_was_wrong(text: str) -> None:
    cleaned = clean_text(text)

    assert cleaned.isprintable()
    assert len(cleaned) == len(text)
    assert all(new == old for new, old in zip(cleaned, text, strict=True) if old.isprintable())


def test_a_failure_is_one_line_and_that_of_the_demo_has_the_log_below_it() -> None:
    assert str(SourceError("a\nb\x1b\t:")) == "a b\N{REPLACEMENT CHARACTER} :"
    assert str(LabError("it ended\n  last\x1b line\r\n")) == "it ended\n  last\N{REPLACEMENT CHARACTER} line \n"


@pytest.mark.parametrize("output", ["table", "json"])
def test_explanations_of_what_an_envoy_has(xds: Runner, tmp_path: Path, output: str) -> None:
    (tmp_path / EVIL).write_text(hostile())

    assert_harmless(xds("explain", "--config-dump", tmp_path / EVIL, "y.example:443", "-o", output))


@pytest.mark.parametrize("form", ["console", "json"])
def test_log_lines(capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure_logging(Settings(log_format=form))

    structlog.get_logger().warning(f"refused {EVIL}", text=EVIL)

    assert_harmless(Outcome(0, *capsys.readouterr()))
