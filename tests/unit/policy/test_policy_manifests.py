"""Manifests of Kubernetes as text: ConfigMaps with policies are found, with their lines; what is none stays."""

from __future__ import annotations

import json
import textwrap

import pytest

from xds.policy.manifests import ConfigMapText, Entry, find_manifests, has_config_map, has_other_objects

POLICY = "httpProxy: deny\nhttpsProxy: deny\n"
CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: corp
  namespace: shop
  labels: {egress-xds/policy: "true"}
data:
  notes.txt: hello
  policy.yaml: |
    httpProxy: deny
    httpsProxy: deny
"""
FOUND = ConfigMapText("shop", "corp", 1, (Entry("policy.yaml", POLICY, 10),))
DEPLOYMENT = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"


def test_a_config_map_with_the_label_is_found_with_the_lines_of_its_documents() -> None:
    found = find_manifests(CONFIG_MAP)

    assert found.config_maps == (FOUND,)
    assert found.rest == ""


def test_objects_beside_it_are_left_out_and_lines_go_on_counting() -> None:
    found = find_manifests(f"# what we deploy\n{DEPLOYMENT}---\n{CONFIG_MAP}---\n# nothing\n")

    (config_map,) = found.config_maps
    assert (config_map.line, config_map.entries[0].first_line) == (6, 15)
    assert found.rest == ""


@pytest.mark.parametrize("kind", ["List", "ConfigMapList"])
def test_a_list_is_looked_through(kind: str) -> None:
    items = textwrap.indent(CONFIG_MAP, "  ")[2:]

    found = find_manifests(f"apiVersion: v1\nkind: {kind}\nitems:\n- {items}")

    (config_map,) = found.config_maps
    assert (config_map.name, config_map.entries[0].first_line) == ("corp", 13)


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(json.dumps(POLICY), id="as one text in quotes"),
        pytest.param(">-\n    httpProxy: deny\n\n    httpsProxy: deny\n", id="folded"),
    ],
)
def test_a_document_whose_lines_are_not_those_of_the_file_has_no_first_line(written: str) -> None:
    head, _, _ = CONFIG_MAP.partition("policy.yaml: ")

    (config_map,) = find_manifests(f"{head}policy.yaml: {written}").config_maps

    (entry,) = config_map.entries
    assert (entry.text.strip(), entry.first_line) == (POLICY.strip(), None)


def test_json_is_read() -> None:
    data = {"policy.yaml": POLICY}
    metadata = {"name": "corp", "labels": {"egress-xds/policy": "true"}}
    text = json.dumps({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": data}, indent=2)

    assert find_manifests(text).config_maps == (ConfigMapText("", "corp", 1, (Entry("policy.yaml", POLICY, None),)),)


@pytest.mark.parametrize("label", ["", "labels: {egress-xds/policy: 'false'}", "labels: {egress-xds/Policy: 'true'}"])
def test_a_config_map_without_the_label_is_told_only_if_it_looks_like_a_policy(label: str) -> None:
    without = CONFIG_MAP.replace('labels: {egress-xds/policy: "true"}', label)

    (config_map,) = find_manifests(without).config_maps

    assert not config_map.is_policy
    assert find_manifests(without.replace("Proxy", "Port")).config_maps == ()


def test_a_plain_policy_beside_manifests_keeps_its_lines() -> None:
    plain = "---\nhttpProxy: deny\nhttpsProxy: direct\n"

    found = find_manifests(f"{CONFIG_MAP}{plain}---\n{DEPLOYMENT}")

    assert found.config_maps == (FOUND,)
    assert found.rest.split("\n")[12] == "httpProxy: deny"
    assert found.rest.count("\n") == CONFIG_MAP.count("\n") + plain.count("\n") + 1 + DEPLOYMENT.count("\n")


@pytest.mark.parametrize(
    "text", ["a: [", "hello", "kind: EgressPolicy\napiVersion: egress-xds/v1alpha1\n", "kind: Pod\n"]
)
def test_what_is_no_manifest_stays(text: str) -> None:
    assert find_manifests(text).rest == text


def test_an_object_that_is_nested_too_deeply_is_left_out_all_the_same() -> None:
    deep = f"apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspec: {'{a: ' * 99}1{'}' * 99}\n"

    assert find_manifests(f"{deep}---\n{CONFIG_MAP}").rest == ""


def test_the_glance_finds_what_the_look_would() -> None:
    assert has_config_map(CONFIG_MAP)
    assert has_config_map('{"kind":"ConfigMap"}')
    assert has_config_map("kind: List")
    assert not has_config_map(POLICY)
    assert has_other_objects(DEPLOYMENT)
    assert not has_other_objects("kind: EgressPolicy\n")


BROKEN = {
    "no YAML": ("EX101", CONFIG_MAP.replace("metadata:", "metadata: {")),
    "a key twice": ("EX102", f"{CONFIG_MAP}  policy.yaml: |\n    httpProxy: direct\n"),
}


@pytest.mark.parametrize(("code", "text"), BROKEN.values(), ids=BROKEN)
def test_a_manifest_of_which_something_is_not_read_is_never_passed_over(code: str, text: str) -> None:
    found = find_manifests(f"{DEPLOYMENT}---\n{text}", "all.yaml")

    assert [finding.code for finding in found.findings] == [code]
    assert found.findings[0].where.source == "all.yaml"
    assert (found.findings[0].where.line or 0) > DEPLOYMENT.count("\n")


def test_what_is_wrong_with_other_objects_is_not_ours_to_tell() -> None:
    assert find_manifests(f"{DEPLOYMENT}spec: {{{{ .Values.spec }}}}\n---\n{CONFIG_MAP}").findings == ()
