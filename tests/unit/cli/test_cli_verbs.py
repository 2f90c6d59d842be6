"""What the commands that need no server print, where, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import click
import pytest
import yaml

from tests.support.command_line import GOOD
from xds import cli
from xds.catalogue import CATALOGUE
from xds.cli import VERBS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Runner

DOUBTFUL = GOOD.replace("dialect: go\n", "noProxy: [.corp.example]\nnoProxyVerify: none\n")
BAD = "httpProxy: ftp://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\n"


def write(directory: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


# ------------------------------------------------------------------------------------------ the group


def test_help_lists_every_verb_without_importing_one() -> None:
    program = (
        "import sys; from xds.cli import run_command; code = run_command(['--help']);"
        "heavy = ('grpc', 'yaml', 'envoy_data_plane', 'xds.cli.');"
        "sys.exit(code or any(name.startswith(heavy) for name in sys.modules))"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr
    assert all(f"\n  {verb} " in finished.stdout for verb in VERBS)


@pytest.mark.parametrize("is_installed", [True, False], ids=["installed", "in a tree alone"])
def test_the_version_is_told_as_far_as_it_is_known(
    xds: Runner, monkeypatch: pytest.MonkeyPatch, *, is_installed: bool
) -> None:
    def find(name: str) -> str:
        if not is_installed:
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", find)

    outcome = xds("--version")

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"xds, version {'1.2.3' if is_installed else 'unknown (not installed)'}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(xds: Runner, verb: str) -> None:
    outcome = xds(verb, "--help")

    assert outcome.code == 0
    assert f"Usage: xds {verb}" in outcome.out
    assert "Example" in outcome.out or verb == "demo"  # it wants nothing


def test_an_unknown_verb_is_wrong_usage(xds: Runner) -> None:
    outcome = xds("validte")

    assert (outcome.code, outcome.out) == (2, "")
    assert "validte" in outcome.err
    assert "did you mean validate?" in outcome.err


def test_an_unknown_verb_that_is_like_no_other_leads_to_the_list(xds: Runner) -> None:
    outcome = xds("frobnicate")

    assert outcome.code == 2
    assert "did you mean" not in outcome.err
    assert "xds --help" in outcome.err


@pytest.mark.parametrize("module", ["cryptography", "proxy"])
def test_a_demo_without_its_packages_says_how_to_get_them(module: str) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None; from xds.cli import run_command; sys.exit(run_command(['demo']))"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert finished.returncode == 2
    assert finished.stderr.startswith(f"xds: {module} is not installed, which the demo needs; ")
    assert "egress-xds[demo]" in finished.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(KeyboardInterrupt(), 130, id="Ctrl-C"),
        pytest.param(click.Abort(), 130, id="Ctrl-C at a prompt"),
        pytest.param(click.UsageError("wrong"), 2, id="wrong usage"),
    ],
)
def test_an_end_that_is_no_bug_has_its_exit_code(
    xds: Runner, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def end(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.group, "main", end)

    outcome = xds("validate")

    assert outcome.code == code
    assert "Traceback" not in outcome.err


def test_a_reader_that_stops_reading_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -c 'from xds.cli import main; main()' explain | head -n 1"

    finished = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)

    assert finished.stdout.startswith("CODE")
    assert finished.stderr == ""


# -------------------------------------------------------------------------------------------- validate


def test_good_documents_are_no_findings(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, a=GOOD))

    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == "1 document: 1 good policy, 0 errors, 0 warnings\n"


def test_warnings_do_not_fail(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, a=DOUBTFUL))

    assert outcome.code == 0
    assert "warning[EX220]" in outcome.out
    assert "xds explain EX220" in outcome.err


def test_an_error_is_one_line_with_place_code_and_remedy(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, a=BAD, b=GOOD))

    (line,) = outcome.out.splitlines()
    assert outcome.code == 1
    assert line.startswith(f"{tmp_path}/a.yaml:1 httpProxy: error[EX301]: ")
    assert "; " in line
    assert outcome.err.startswith("2 documents: 1 good policy, 1 error, 0 warnings")


def test_findings_are_json_on_request(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", "-o", "json", write(tmp_path, a=BAD, b=DOUBTFUL))

    report = json.loads(outcome.out)
    assert outcome.code == 1
    assert (report["documents"], report["policies"], report["errors"], report["warnings"]) == (2, 1, 1, 1)
    assert report["diagnostics"][0].items() >= {
        "code": "EX301", "severity": "error", "source": str(tmp_path / "a.yaml"), "line": 1, "key": "httpProxy",
    }.items()  # fmt: skip


def test_all_paths_are_one_set(xds: Runner, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_to = tmp_path / name
        write_to.mkdir()
        write(write_to, same=GOOD)

    outcome = xds("validate", tmp_path / "one", tmp_path / "two")

    assert outcome.code == 1
    assert "EX405" in outcome.out


def test_a_document_given_twice_is_checked_once(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, a=GOOD)

    outcome = xds("validate", tmp_path, tmp_path / "a.yaml", f"{tmp_path}/./a.yaml")

    assert (outcome.code, outcome.out) == (0, "")


def test_an_unreadable_file_is_an_error_beside_the_others(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, a=GOOD)
    (tmp_path / "b.yaml").write_bytes(b"\xff")

    outcome = xds("validate", tmp_path)

    assert outcome.code == 1
    assert "b.yaml:1: error" in outcome.out


@pytest.mark.parametrize("name", ["none", "empty"])
def test_where_there_is_nothing_to_check_usage_is_wrong(xds: Runner, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()

    outcome = xds("validate", tmp_path / name)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("xds: ")
    assert name in outcome.err


@pytest.mark.parametrize("arguments", [["validate"], ["diff", "DIR", "-f"], ["collect"]], ids=lambda words: words[0])
def test_nobody_is_told_to_make_a_directory_that_is_named_like_a_file(
    xds: Runner, tmp_path: Path, arguments: list[str]
) -> None:
    write(tmp_path, corp=GOOD)
    words = [str(tmp_path) if word == "DIR" else word for word in arguments]

    outcome = xds(*words, tmp_path / "nope.yaml")

    assert outcome.code == 2
    assert f"{tmp_path}/nope.yaml does not exist; check the path: ls {tmp_path}\n" in outcome.err
    assert "mkdir" in xds(*words, tmp_path / "nope").err


# ---------------------------------------------------------------------------------- explain, schema


def test_every_code_is_explained(xds: Runner) -> None:
    listed = xds("explain").out

    for code, entry in CATALOGUE.items():
        assert f"{code}  {entry.severity.value}" in listed
        explained = xds("explain", code.lower())
        assert explained.code == 0
        assert entry.title in explained.out


@pytest.mark.parametrize(
    ("wrong", "meant"), [("EX10", "EX101"), ("ex1099", "EX109"), ("EX999", "EX901"), ("EX99", "or EX902")]
)
def test_an_unknown_code_names_a_close_one(xds: Runner, wrong: str, meant: str) -> None:
    outcome = xds("explain", wrong)

    assert outcome.code == 2
    assert "did you mean " in outcome.err
    assert meant in outcome.err


@pytest.mark.parametrize("wrong", ["nonsense", "EX", "EX0101", "api.example.com:443"])
def test_where_no_code_is_close_only_the_list_is_named(xds: Runner, wrong: str) -> None:
    outcome = xds("explain", wrong)

    assert outcome.code == 2
    assert "did you mean" not in outcome.err
    assert "; all of them: xds explain" in outcome.err


def test_a_retired_code_is_not_unknown(xds: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.cli.explain.RETIRED", frozenset({"EX999"}))

    assert "older versions" in xds("explain", "EX999").out


def test_the_schema_is_json(xds: Runner) -> None:
    assert "$schema" in json.loads(xds("schema").out)


# --------------------------------------------------------------------------------------- dump, offline


def test_a_dump_lists_what_is_served(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("dump", write(tmp_path, a=GOOD))

    header, *rows = outcome.out.splitlines()
    assert outcome.code == 0
    assert header.split() == ["TYPE", "NAME", "VERSION", "BYTES", "SUMMARY"]
    assert {row.split()[0] for row in rows} == {"cluster", "listener", "route"}
    assert "endpoints: 192.0.2.2:3128" in outcome.out


def test_a_dump_in_yaml_and_json_is_the_same(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, a=GOOD)

    as_json = json.loads(xds("dump", tmp_path, "-o", "json").out)

    assert yaml.safe_load(xds("dump", tmp_path, "-o", "yaml").out) == as_json
    assert {item["type"] for item in as_json} == {"cluster", "listener", "route"}


def test_a_dump_shows_one_type_on_request(xds: Runner, tmp_path: Path) -> None:
    described = json.loads(xds("dump", write(tmp_path, a=GOOD), "--type", "listener", "-o", "json").out)

    assert {item["type"] for item in described} == {"listener"}
    assert described[0]["name"] == "egress-outbound"
    assert described[0]["resource"]["@type"] == "type.googleapis.com/envoy.config.listener.v3.Listener"


def test_among_several_policies_one_must_be_chosen(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, a=GOOD, b=GOOD.replace("3128", "3129"))

    ambiguous = xds("dump", tmp_path)
    unknown = xds("dump", tmp_path, "--policy", "c")

    assert (ambiguous.code, unknown.code) == (2, 2)
    assert "--policy a, --policy b" in ambiguous.err
    assert "--policy a, --policy b" in unknown.err
    assert "192.0.2.2:3129" in xds("dump", tmp_path, "--policy", "b").out


def test_a_node_gets_the_policy_that_selects_it(xds: Runner, tmp_path: Path) -> None:
    long = "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: shop}\nspec:\n"
    shop = f"{long}  selector: {{podLabels: {{matchLabels: {{app: web}}}}}}\n  default: {{action: direct}}\n"
    write(tmp_path, a=GOOD, shop=shop)

    labelled = xds("dump", tmp_path, "--node", "web-0.shop", "--label", "app=web")
    plain = xds("dump", tmp_path, "--node", "web-0.shop")

    assert labelled.err == "policy in force: shop\n"
    assert plain.err == "policy in force: a\n"


def test_a_node_that_nothing_selects_is_refused_everything(xds: Runner, tmp_path: Path) -> None:
    long = "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: shop}\nspec:\n"
    write(tmp_path, a=f"{long}  selector: {{namespaces: [shop]}}\n  default: {{action: direct}}\n")

    outcome = xds("dump", tmp_path, "--node", "a.b")

    assert outcome.code == 0
    assert "no policy selects this pod" in outcome.err
    assert "egress-outbound" in outcome.out


def test_a_node_of_a_broken_document_is_told_nothing(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("dump", write(tmp_path, a=GOOD, b="httpProxy: ["), "--node", "a.b")

    assert outcome.code == 1
    assert "told nothing" in outcome.err
    assert "EX101" in outcome.err
    assert "listener" not in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="neither a directory nor a server"),
        pytest.param([".", "--server", "127.0.0.1:1"], id="both"),
        pytest.param(["--server", "127.0.0.1:1"], id="a server without a node"),
        pytest.param(["--server", "127.0.0.1", "--node", "a.b"], id="a server without a port"),
        pytest.param(["--server", "127.0.0.1:1", "--node", " "], id="a node without an id"),
        pytest.param([".", "--node", "a"], id="a node without a namespace"),
        pytest.param(["--server", "127.0.0.1:1", "--node", "a.b", "--no-files"], id="files of a server"),
        pytest.param(["--server", "127.0.0.1:1", "--node", "a.b", "--kubernetes"], id="a server and a cluster"),
        pytest.param([".", "--kubernetes", "--node", "a.b"], id="a directory and a cluster"),
        pytest.param([".", "--kubeconfig", "x", "--node", "a.b"], id="a cluster that is not asked"),
        pytest.param(["--kubernetes", "--node", "a.b", "--label", "a=b"], id="a label of a pod that the cluster knows"),
        pytest.param([".", "--node-cluster", "x", "--node", "a.b"], id="a cluster of a node without a server"),
        pytest.param(["--admin", "127.0.0.1:1", "--config-dump", "x"], id="two Envoys"),
        pytest.param(["--admin", "127.0.0.1:1", "."], id="an Envoy and a directory without --diff"),
        pytest.param(["--admin", "127.0.0.1"], id="an Envoy without a port"),
        pytest.param(["--admin", "127.0.0.1:1", "--node", "a.b"], id="a node of an Envoy that knows itself"),
        pytest.param(["--admin", "127.0.0.1:1", "--policy", "a"], id="a policy of an Envoy"),
        pytest.param(["--config-dump", "/nowhere/at/all"], id="no such file"),
        pytest.param(["--config-dump", "x", "--timeout", "5s"], id="a time-out where a file is read"),
        pytest.param([".", "--diff"], id="a comparison with nothing"),
        pytest.param(["--diff", "--admin", "127.0.0.1:1"], id="a comparison of an Envoy with nothing"),
        pytest.param(["--server", "127.0.0.1:1", "--node", "a.b", "--policy", "c"], id="a policy of a server"),
        pytest.param(["--server", "127.0.0.1:1", "--node", "a.b", "--timeout", "soon"], id="not a time"),
        pytest.param([".", "--label", "=", "--node", "a.b"], id="not a label"),
        pytest.param([".", "--label", "app=web"], id="a label of no pod"),
        pytest.param([".", "--service-account", "web"], id="a service account of no pod"),
        pytest.param([".", "--timeout", "5s"], id="a time-out where nobody is asked"),
        pytest.param([".", "--timeout", "soon", "--node", "a.b"], id="a time-out that is none where nobody is asked"),
        pytest.param([".", "--policy", "a", "--node", "a.b"], id="a policy and a pod"),
        pytest.param(["--server", "127.0.0.1:1", "--node", "a.b", "--no-resolve"], id="look-ups of a server"),
        pytest.param(["--server", "127.0.0.1:1", "--node", "a.b", "--resolv-conf", ""], id="facts of a server"),
        pytest.param([".", "--resolve-timeout", "0"], id="not a setting"),
        pytest.param(["/nowhere/at/all"], id="no such directory"),
    ],
)
def test_a_dump_that_makes_no_sense_is_wrong_usage(xds: Runner, arguments: list[str]) -> None:
    outcome = xds("dump", *arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err


def test_names_are_looked_up_unless_told_otherwise(
    xds: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(host: str) -> tuple[object, ...]:
        asked.append(host)
        return ()

    monkeypatch.setattr("xds.sources.facts._ask_system", ask)
    write(tmp_path, a=GOOD.replace("192.0.2.2", "proxy.example"))

    quiet = xds("dump", tmp_path, "--no-resolve")
    assert asked == []
    loud = xds("dump", tmp_path)

    assert asked == ["proxy.example"]
    assert quiet.out == loud.out
    assert "does not resolve" in loud.err


def test_data_that_is_no_terminals_has_no_colours(xds: Runner, tmp_path: Path) -> None:
    assert "\x1b" not in xds("validate", write(tmp_path, a=BAD)).out
