"""SARIF 2.1.0 as code scanning takes it: every finding has a rule, a place in the tree and an identity of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema
import pytest

from tests.support.command_line import GOOD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.command_line import Runner

BAD = "httpProxy: deny\nhttpsProxy: nonsense\nnoProxy: [.a.example, 10.0.0.1, 10.0.0.1]\nnoProxyVerify: none\n"


def an_object(**properties: object) -> dict[str, object]:
    """Return the schema of an object that has these properties and no others; those after `_` may be left out."""
    known = {name.removeprefix("_"): schema for name, schema in properties.items()}
    needed = [name for name in properties if not name.startswith("_")]
    return {"type": "object", "properties": known, "required": needed, "additionalProperties": False}


def a_list(of: object) -> dict[str, object]:
    return {"type": "array", "items": of, "uniqueItems": True}


TEXT = {"type": "string", "minLength": 1}
MESSAGE = an_object(text=TEXT, _markdown=TEXT)
LEVEL = {"enum": ["error", "warning"]}
RULE = an_object(
    id={"pattern": "^EX[0-9]{3}$"},
    shortDescription=MESSAGE,
    fullDescription=MESSAGE,
    help=MESSAGE,
    defaultConfiguration=an_object(level=LEVEL),
    properties={"type": "object"},
)
ARTIFACT = an_object(uri={**TEXT, "format": "uri-reference", "pattern": "^[^ <>\\\\]+$"}, _uriBaseId=TEXT)
PLACE = an_object(artifactLocation=ARTIFACT, region=an_object(startLine={"type": "integer", "minimum": 1}))
LOCATION = an_object(physicalLocation=PLACE, logicalLocations=a_list(an_object(fullyQualifiedName=TEXT)))
RESULT = an_object(
    ruleId=TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    level=LEVEL,
    message=MESSAGE,
    locations={**a_list(LOCATION), "minItems": 1, "maxItems": 1},
    partialFingerprints=an_object(primaryLocationLineHash={"pattern": "^[0-9a-f]{16}:[1-9][0-9]*$"}),
)
RUN = an_object(
    tool=an_object(driver=an_object(name=TEXT, _version=TEXT, rules=a_list(RULE))),
    originalUriBaseIds={"additionalProperties": an_object(uri={"pattern": "^file:///.*/$"})},
    invocations=a_list(an_object(executionSuccessful={"const": True})),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results={"type": "array", "items": RESULT},
)
LOG = {
    **an_object(version={"const": "2.1.0"}, runs=a_list(RUN)),
    "properties": {"$schema": TEXT, "version": {"const": "2.1.0"}, "runs": a_list(RUN)},
}
"""What SARIF demands of the part of it that is written here (OASIS SARIF 2.1.0, section 3)."""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(xds: Runner, *arguments: object) -> Mapping[str, list[Mapping[str, object]]]:
    """Return the one run."""
    log = json.loads(xds("validate", "-o", "sarif", *arguments).out)
    jsonschema.validate(log, LOG)
    (run,) = log["runs"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert isinstance(run, dict)
    return run


def places(run: Mapping[str, list[Mapping[str, object]]]) -> list[tuple[object, str, int]]:
    text = json.dumps(run["results"])
    return [
        (
            result["ruleId"],
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
            result["locations"][0]["physicalLocation"]["region"]["startLine"],
        )
        for result in json.loads(text)
    ]


def fingerprints(run: Mapping[str, list[Mapping[str, object]]]) -> list[str]:
    return [json.dumps(result["partialFingerprints"]) for result in run["results"]]


def test_findings_are_placed_below_the_working_directory(xds: Runner, directory: Path) -> None:
    (directory / "some policies").mkdir()
    (directory / "some policies" / "a.yaml").write_text(BAD)

    run = read(xds, "some policies")

    assert places(run) == [
        ("EX301", "some%20policies/a.yaml", 2),
        ("EX220", "some%20policies/a.yaml", 3),
        ("EX222", "some%20policies/a.yaml", 3),
    ]
    assert places(read(xds, directory / "some policies")) == places(run)
    assert places(read(xds, "../" + directory.name + "/some policies")) == places(run)


def test_the_exit_code_says_whether_there_were_errors(xds: Runner, directory: Path) -> None:
    (directory / "a.yaml").write_text(GOOD)

    outcome = xds("validate", "-o", "sarif", directory)

    assert outcome.code == 0
    assert read(xds, directory)["results"] == []
    (directory / "a.yaml").write_text(BAD)
    assert xds("validate", "-o", "sarif", directory).code == 1


def test_a_file_outside_of_the_working_directory_has_its_whole_uri(
    xds: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(BAD)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    assert places(read(xds, "../a.yaml"))[0][1] == f"file://{tmp_path}/a.yaml"


def test_a_document_of_a_manifest_is_placed_in_the_manifest(xds: Runner, directory: Path) -> None:
    labels = "metadata: {name: corp, namespace: shop, labels: {egress-xds/policy: 'true'}}"
    lines = BAD.replace("\n", "\n    ")
    (directory / "a.yaml").write_text(f"kind: ConfigMap\napiVersion: v1\n{labels}\ndata:\n  p.yaml: |\n    {lines}\n")
    (directory / "b.yaml").write_text(
        f"---\nkind: ConfigMap\napiVersion: v1\n{labels.replace('corp', 'b')}\ndata:\n  p.yaml: {json.dumps(BAD)}\n"
    )

    run = read(xds, directory)

    assert places(run)[0] == ("EX301", "b.yaml", 2)
    assert ("EX301", "a.yaml", 7) in places(run)
    assert "configmap/shop/corp/p.yaml#httpsProxy" in json.dumps(run)


def test_what_identifies_a_finding_outlives_lines_that_are_added_before(xds: Runner, directory: Path) -> None:
    (directory / "a.yaml").write_text(f"{BAD}httpProxy: deny\n")
    before = fingerprints(read(xds, directory))

    (directory / "a.yaml").write_text(f"# one more line\n{BAD}httpProxy: deny\n")

    assert fingerprints(read(xds, directory)) == before
    assert len(set(before)) == len(before)
