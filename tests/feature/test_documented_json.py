"""Every field that a command's JSON has stands in docs/commands.md, in that command's section."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import GOOD, Runner
from xds.cli.fleet_text import describe_change, describe_fleet
from xds.inspection.fleet import Answer, Change, Filter, Refusal, SidecarStatus, State, TypeReport, put_together

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
OTHERS = frozenset({"resource", "document"})
"""Fields whose content is somebody else's: a resource of Envoy, a policy."""
KINDS = frozenset({"cluster", "listener"})
"""Types of resources, which are keys in a status."""


def _section(verb: str) -> str:
    (text,) = re.findall(rf"^## xds {verb}$(.*?)(?=^## |\Z)", DOCUMENTED, re.MULTILINE | re.DOTALL)
    return str(text)


def _fields(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key not in OTHERS:
                yield from _fields(item)
    elif isinstance(value, list):
        for item in value:
            yield from _fields(item)


def _undocumented(verb: str, *values: object) -> set[str]:
    found = {field for value in values for field in _fields(value)} - KINDS
    assert len(found) > 2, "there is something to look at"
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]+)*", field) for field in found), found
    return {field for field in found if f"`{field}`" not in _section(verb) and f"`{field}[]`" not in _section(verb)}


@pytest.fixture
def xds(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    doubtful = GOOD.replace("dialect: go\n", "noProxy: [.corp.example, 10.0.0.0/8]\nnoProxyVerify: none\n")
    (tmp_path / "policies" / "corp.yaml").write_text(doubtful)
    return tmp_path / "policies"


def test_validate(xds: Runner, policies: Path) -> None:
    outcome = xds("validate", policies, "-o", "json")

    assert _undocumented("validate", json.loads(outcome.out)) <= {"diagnostics"}


def test_explain(xds: Runner, policies: Path) -> None:
    named = xds("explain", "web-0.shop", "db.corp.example:5432", policies, "-o", "json", "--no-resolve")
    through = xds("explain", "--policy", "corp", "https://api.example.com", policies, "-o", "json", "--no-resolve")

    assert _undocumented("explain", json.loads(named.out), json.loads(through.out)) == set()


def test_dump(xds: Runner, policies: Path) -> None:
    held = ROOT / "tests" / "data" / "envoy-1.40" / "config_dump.json"
    outputs = [
        xds("dump", policies, "-o", "json", "--no-resolve"),
        xds("dump", "--config-dump", held, "-o", "json"),
        xds("dump", policies, "--policy", "corp", "--config-dump", held, "--diff", "-o", "json", "--no-resolve"),
    ]

    assert _undocumented("dump", *(json.loads(outcome.out) for outcome in outputs)) == set()


def test_diff(xds: Runner, policies: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    text = (policies / "corp.yaml").read_text()
    (tmp_path / "new" / "corp.yaml").write_text(text.replace("10.0.0.0/8", "10.0.0.0/9").replace("3128", "3129"))

    outcome = xds("diff", "-f", tmp_path / "new", policies, "-o", "json", "--resources", "--no-resolve")

    assert _undocumented("diff", json.loads(outcome.out)) <= {"code", "severity", "key", "message", "hint"}


def test_import(xds: Runner, tmp_path: Path) -> None:
    (tmp_path / "proxy.json").write_text('{"httpProxy": "http://u:p@192.0.2.2:3128", "noProxy": ["10.0.0.0/8"]}')

    outcome = xds("import", "aks", tmp_path / "proxy.json", "-o", "json")

    assert _undocumented("import", json.loads(outcome.out)) == set()


def test_status() -> None:
    good = TypeReport(is_current=True, resources=4, sent="0a", acknowledged="0a")
    bad = TypeReport(is_current=False, resources=2, sent="0b", refusal=Refusal("0b", "no such filter", 1.0))
    sidecar = SidecarStatus(
        node="web-0.shop", state=State.REFUSED, replica="r", since=1.0, types={"cluster": good, "listener": bad}
    )
    fleet = put_together((Answer(replica="r", sidecars=(sidecar,)),), None, Filter())

    described = describe_fleet(fleet, 2.0), describe_change(Change(before=None, after=sidecar), 2.0)

    assert _undocumented("status", *described) <= {"version", "text", "at"}
