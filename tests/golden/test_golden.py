"""
What each feature compiles to, written down.

A case is a directory with `in.yaml`; beside it stand the resources of its one policy, by type, and what was found
on the way. `--update-golden` writes them anew; a file too many or too few fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.validation import complaints_of_envoy
from xds.compile import compile_snapshot
from xds.compile.refuse import REFUSE_ALL
from xds.facts import Facts
from xds.policy.parse import Document, parse_document
from xds.render import render_resource
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.diagnostics import Diagnostic
    from xds.policy.model import Policy
    from xds.snapshot import Snapshot

HERE = Path(__file__).parent
INPUT = "in.yaml"
FINDINGS = "diagnostics.txt"
FILES = {
    ResourceType.CLUSTER: "clusters.yaml",
    ResourceType.ENDPOINT: "endpoints.yaml",
    ResourceType.LISTENER: "listeners.yaml",
    ResourceType.ROUTE: "routes.yaml",
    ResourceType.SECRET: "secrets.yaml",
}
BUILT_IN = {"refuse-all": REFUSE_ALL}
"""Policies that nobody writes, by the case that shows them."""

CASES = sorted({path.parent.name for path in HERE.glob(f"*/{INPUT}")} | set(BUILT_IN))
BAD = [case for case in CASES if case.startswith("bad-")]
GOOD = [case for case in CASES if case not in BAD]


def compile_case(case: str) -> tuple[Snapshot | None, tuple[Diagnostic, ...]]:
    """Return what the case's one policy compiles to, and everything that is found on the way."""
    policies, findings = read_case(case)
    if not policies:
        return None, findings
    (policy,) = policies
    compilation = compile_snapshot(policy, Facts())
    return compilation.snapshot, (*findings, *compilation.diagnostics)


def read_case(case: str) -> tuple[tuple[Policy, ...], tuple[Diagnostic, ...]]:
    if case in BUILT_IN:
        return (BUILT_IN[case],), ()
    text = (HERE / case / INPUT).read_text(encoding="utf-8")
    result = parse_document(Document(source=INPUT, text=text))
    return result.policies, result.diagnostics


def render_case(case: str) -> dict[str, str]:
    """Return the content of each golden file that the case has."""
    snapshot, findings = compile_case(case)
    files = {FINDINGS: "".join(f"{finding}\n" for finding in findings)}
    if snapshot is not None:
        files |= {name: render_table(snapshot, kind) for kind, name in FILES.items()}
    return {name: content for name, content in files.items() if content}


def render_table(snapshot: Snapshot, kind: ResourceType) -> str:
    rendered = [render_resource(resource) for resource in snapshot.of(kind).values()]
    return yaml.safe_dump(rendered, sort_keys=False, allow_unicode=True, width=120) if rendered else ""


def golden_files(case: str) -> dict[str, str]:
    found = (path for path in (HERE / case).iterdir() if path.name != INPUT)
    return {path.name: path.read_text(encoding="utf-8") for path in found}


def write_golden(case: str, files: dict[str, str]) -> None:
    """Write `files`, and remove every other but the input."""
    (HERE / case).mkdir(exist_ok=True)
    for orphan in set(golden_files(case)) - set(files):
        (HERE / case / orphan).unlink()
    for name, content in files.items():
        (HERE / case / name).write_text(content, encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_a_case_compiles_to_its_golden_files(case: str, *, update_golden: bool) -> None:
    files = render_case(case)
    if update_golden:
        write_golden(case, files)

    assert golden_files(case) == files


def test_every_directory_is_a_case(*, update_golden: bool) -> None:
    directories = [path for path in HERE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    orphans = [path for path in directories if path.name not in CASES]
    if update_golden:
        remove(orphans)

    assert sorted(path.name for path in directories if path.exists()) == CASES


def remove(directories: Iterable[Path]) -> None:
    for directory in directories:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_one_clear_finding_and_compiles_to_nothing(case: str) -> None:
    snapshot, findings = compile_case(case)
    (finding,) = findings

    assert snapshot is None
    assert finding.is_error
    assert finding.where.line
    assert finding.hint


@pytest.mark.parametrize("case", GOOD)
def test_good_input_has_warnings_at_most(case: str) -> None:
    snapshot, findings = compile_case(case)

    assert snapshot is not None
    assert not any(finding.is_error for finding in findings)


@pytest.mark.e2e
@pytest.mark.parametrize("case", GOOD)
def test_a_real_envoy_accepts_it(case: str, tmp_path: Path) -> None:
    snapshot, _ = compile_case(case)

    assert snapshot is not None
    assert complaints_of_envoy(snapshot, tmp_path) == ""
