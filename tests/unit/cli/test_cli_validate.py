"""`xds validate`: manifests and stdin, namespaces, strictness, and what people and programs are shown."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import GOOD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Runner

BAD = "httpProxy: deny\nhttpsProxy: nonsense\n"
DOUBTFUL = "httpProxy: deny\nhttpsProxy: deny\nnoProxy: .a.example\nnoProxyVerify: none\n"
WITH_SECRET = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: corp}
spec:
  proxies:
    corp:
      endpoints: [{url: "https://proxy.example:3128"}]
      auth: {basic: {secretRef: {name: login}}}
  default: {action: tunnel}
"""


def manifest(namespace: str = "", name: str = "corp", label: str = "true", **documents: str) -> str:
    """Return the manifest of a ConfigMap, with a document for each key."""
    where = f"  namespace: {namespace}\n" if namespace else ""
    labels = f"  labels: {{egress-xds/policy: '{label}'}}\n" if label else ""
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n{where}{labels}data:\n"
    for key, document in documents.items():
        lines = "".join(f"    {line}\n" for line in document.splitlines())
        text += f"  {key}.yaml: |\n{lines}"
    return text


def write(directory: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# ------------------------------------------------------------------------------------------- sources


def test_a_document_in_a_config_map_is_judged_at_its_line_of_the_manifest(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, all=manifest("shop", policy=BAD)))

    assert outcome.code == 1
    assert f"{tmp_path}/all.yaml:10 httpsProxy: error[EX301]" in outcome.out


def test_where_lines_do_not_match_the_document_is_named_and_programs_hear_the_file(xds: Runner, tmp_path: Path) -> None:
    text = manifest("shop") + f"  policy.yaml: {json.dumps(BAD)}\n"

    outcome = xds("validate", "-o", "json", write(tmp_path, all=text))

    (finding,) = json.loads(outcome.out)["diagnostics"]
    source = "configmap/shop/corp/policy.yaml"
    assert (finding["source"], finding["line"], finding["document"]) == (source, 2, source)
    assert finding["file"] == f"{tmp_path}/all.yaml"


def test_other_objects_beside_config_maps_are_left_out(xds: Runner, tmp_path: Path) -> None:
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"

    outcome = xds("validate", write(tmp_path, all=f"{service}---\n{manifest(policy=GOOD)}", service=service))

    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("1 document: 1 good policy")


def test_objects_without_a_policy_among_them_are_no_policies(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, service="apiVersion: v1\nkind: Service\n"))

    assert outcome.code == 1
    assert "EX105" in outcome.out


@pytest.mark.parametrize("namespace", ["other", None])
def test_whom_a_config_map_concerns_comes_from_its_namespace(
    xds: Runner, tmp_path: Path, namespace: str | None
) -> None:
    write(tmp_path, all=manifest("other", policy=f"{GOOD}namespace: shop\n"))
    options = ["--namespace", namespace] if namespace else []

    outcome = xds("validate", tmp_path, *options)

    # That of the control plane may speak of any namespace, and any other one of itself only.
    assert outcome.code == (0 if namespace else 1)
    assert ("EX404" in outcome.out) is (namespace is None)


def test_a_secret_is_named_in_a_config_map_and_not_looked_at(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, all=manifest("shop", policy=WITH_SECRET)))

    assert (outcome.code, outcome.out) == (0, "")


def test_plain_documents_are_judged_as_in_a_namespace_on_request(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, corp=WITH_SECRET)

    outside, inside = xds("validate", tmp_path), xds("validate", tmp_path, "--as-configmaps", "shop")

    assert (outside.code, inside.code) == (1, 0)
    assert "EX318" in outside.out
    assert inside.out == ""


def test_a_config_map_that_says_no_namespace_stands_where_it_is_said(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, all=manifest(policy=f"{GOOD}namespace: shop\n"))

    assert xds("validate", tmp_path).code == 0
    assert xds("validate", tmp_path, "--as-configmaps", "shop").code == 0
    assert xds("validate", tmp_path, "--as-configmaps", "other").code == 1


def test_a_config_map_that_is_given_twice_is_an_error(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, a=manifest(policy=GOOD), b=manifest(policy=GOOD)))

    assert outcome.code == 1
    assert "EX903" in outcome.out
    assert f"{tmp_path}/a.yaml:1 and {tmp_path}/b.yaml:1" in outcome.out


def test_a_manifest_that_is_no_yaml_is_an_error_at_its_line(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, all=manifest("shop", policy=GOOD).replace("metadata:", "metadata: [")))

    assert outcome.code == 1
    assert f"{tmp_path}/all.yaml:" in outcome.out
    assert "error[EX101]" in outcome.out


def test_a_policy_without_the_label_is_told(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, a=manifest(policy=GOOD), b=manifest(name="forgotten", label="", policy=GOOD))

    outcome = xds("validate", tmp_path)

    assert outcome.code == 0
    assert f"{tmp_path}/b.yaml:1 metadata.labels: warning[EX904]" in outcome.out


def test_a_config_map_that_is_left_out_beside_policies_is_named(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, a=manifest(policy=GOOD), b=manifest("shop", name="other", label="", a="x"))

    outcome = xds("validate", tmp_path)

    assert (outcome.code, outcome.out) == (0, "")
    assert "1 ConfigMap without the label egress-xds/policy=true left out: 'shop/other'\n" in outcome.err
    assert "left out" not in xds("validate", tmp_path / "a.yaml").err


def test_where_the_label_is_missing_everywhere_nothing_is_checked(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, a=manifest(label="", policy=GOOD)))

    assert outcome.code == 2
    assert "egress-xds/policy" in outcome.err


def test_the_documents_of_one_namespace_have_the_bounds_of_a_cluster(xds: Runner, tmp_path: Path) -> None:
    many = {f"p{number}": f"{GOOD}name: p{number}\n" for number in range(21)}

    outcome = xds("validate", write(tmp_path, all=manifest("shop", **many)))

    assert outcome.code == 1
    assert "more than 20 documents" in outcome.out


def test_what_is_piped_in_is_a_document_or_a_manifest(xds: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, BAD.encode())
    plain = xds("validate", "-")
    pipe(monkeypatch, manifest("shop", policy=BAD).encode())
    outcome = xds("validate", "-")

    assert (plain.code, outcome.code) == (1, 1)
    assert plain.out.startswith("<stdin>:2 httpsProxy: error[EX301]")
    assert outcome.out.startswith("<stdin>:10 httpsProxy: error[EX301]")


def test_what_is_piped_in_and_is_no_text_is_a_finding(xds: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"\xff")

    outcome = xds("validate", "-")

    assert outcome.code == 1
    assert "<stdin>: error[EX901]" in outcome.out


# --------------------------------------------------------------------------------------- exit codes


def test_warnings_fail_where_one_is_strict(xds: Runner, tmp_path: Path) -> None:
    write(tmp_path, a=DOUBTFUL)

    assert xds("validate", tmp_path).code == 0
    assert xds("validate", "--strict", tmp_path).code == 1


def test_what_is_good_is_good_to_the_strict(xds: Runner, tmp_path: Path) -> None:
    assert xds("validate", "--strict", write(tmp_path, a=GOOD)).code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["DIR", "--kubernetes"], id="two sources"),
        pytest.param(["DIR", "--context", "here"], id="a context without a cluster"),
        pytest.param(["DIR", "--kubeconfig", "/none"], id="a kubeconfig without a cluster"),
        pytest.param(["DIR", "--namespace", "No_Name"], id="no namespace"),
        pytest.param(["DIR", "--as-configmaps", "No_Name"], id="no namespace to stand in"),
        pytest.param(["--kubernetes", "--as-configmaps", "shop"], id="a cluster's stand where they do"),
    ],
)
def test_usage_that_means_nothing_is_refused(xds: Runner, tmp_path: Path, arguments: list[str]) -> None:
    write(tmp_path, a=GOOD)

    outcome = xds("validate", *(str(tmp_path) if item == "DIR" else item for item in arguments))

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err


# -------------------------------------------------------------------------------------------- people


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.cli.validate._is_terminal", lambda: True)


@pytest.mark.usefixtures("on_a_terminal")
def test_people_are_shown_findings_under_the_names_of_their_files(xds: Runner, tmp_path: Path) -> None:
    outcome = xds("validate", write(tmp_path, a=BAD, b=DOUBTFUL))

    lines = outcome.out.splitlines()
    assert lines[0] == f"{tmp_path}/a.yaml"
    assert lines[1] == "     2  error[EX301]  httpsProxy"
    assert lines[3].startswith("        → write `http://host:port`")
    assert lines[4:6] == ["", f"{tmp_path}/b.yaml"]


@pytest.mark.usefixtures("on_a_terminal")
def test_people_are_shown_what_has_no_line(xds: Runner, tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")

    assert xds("validate", tmp_path).out.splitlines()[1] == "        error[EX901]"
