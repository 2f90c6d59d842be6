"""The chart's values: what is misspelt or impossible is refused before anything is rendered, and what is optional."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft7Validator

from tests.house.test_deploy import ALL, HOME, build_with, container, pick, settings_of
from tests.support.charts import ChartWith
from tests.support.manifests import CHART, KUSTOMIZE, Manifest
from xds.injection.annotations import ANNOTATIONS

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
CHECK = (CHART / "templates" / "_check.tpl").read_text(encoding="utf-8")
MISTAKES: dict[str, dict[str, Any]] = {
    "a mode of TLS that is none": {"tls": {"mode": "bogus"}},
    "`off` without quotes, which is false in YAML": {"tokens": {"source": False}},
    "a misspelt value": {"injector": {"enable": True}},
    "a misspelt section": {"injecter": {"enabled": True}},
    "a default without a value": {"injector": {"defaults": ["dns"]}},
    "a default with its prefix": {"injector": {"defaults": ["egress-xds/dns=true"]}},
    "a default that is a mapping": {"injector": {"defaults": [{"dns": "true"}]}},
    "a prohibition with its prefix": {"injector": {"forbid": ["egress-xds/inject"]}},
    "a name that no object can have": {"injector": {"ca": "Both_CAs"}},
    "a port that is none": {"networkPolicy": {"apiServerPorts": [65536]}},
    "an address without its length": {"networkPolicy": {"apiServerCIDRs": ["10.0.0.1"]}},
    "ports in one text": {"networkPolicy": {"dnsPorts": "53,5353"}},
    "all Secrets of a namespace": {"rbac": {"secrets": {HOME: []}}},
    "one Secret without a list": {"rbac": {"secrets": {HOME: "corp-proxy-login"}}},
    "a text for true": {"status": {"write": "false"}},
    "a time that the API server does not wait": {"admission": {"timeoutSeconds": 31}},
    "no replica at a time may go": {"podDisruptionBudget": {"maxUnavailable": 0}},
    "a bundle in PEM instead of base64": {"tls": {"caBundle": "-----BEGIN CERTIFICATE-----"}},
    "an argument that is no flag": {"extraArgs": ["canary=5%"]},
}
GOOD: dict[str, dict[str, Any]] = {
    "others' own values": {"global": {"imageRegistry": "registry.corp.example"}},
    "Secrets by name": {"rbac": {"secrets": {HOME: ["corp-proxy-login"]}}},
    "defaults": {"injector": {"defaults": ["sidecar-memory=256Mi", "exclude-cidrs=10.0.0.0/8,fd00::/8"]}},
    "a share of the replicas": {"podDisruptionBudget": {"maxUnavailable": "50%"}},
    "tokens switched off": {"tokens": {"source": "off"}},
    "labels of a PodMonitor": {"metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}},
}


def merged(into: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the chart's values with these over them, as Helm hands them to the schema."""
    nested = {
        key: merged(into[key], value)
        for key, value in values.items()
        if isinstance(value, dict) and isinstance(into.get(key), dict)
    }
    return {**into, **values, **nested}


def complaints(values: dict[str, Any]) -> list[str]:
    """Return what the schema has against these over the chart's own values."""
    return [error.message for error in Draft7Validator(SCHEMA).iter_errors(merged(ChartWith().values, values))]


def test_the_schema_is_one_and_the_charts_own_values_keep_to_it() -> None:
    Draft7Validator.check_schema(SCHEMA)

    assert complaints({}) == []


@pytest.mark.parametrize("values", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_values_is_refused(values: dict[str, Any]) -> None:
    assert complaints(values) != []


@pytest.mark.parametrize("values", GOOD.values(), ids=GOOD)
def test_what_is_meant_is_taken(values: dict[str, Any]) -> None:
    assert complaints(values) == []


def test_every_annotation_that_can_be_a_default_is_taken_as_one() -> None:
    names = [annotation.name for annotation in ANNOTATIONS]

    assert names
    assert complaints({"injector": {"defaults": [f"{name}=x" for name in names]}}) == []


def test_a_section_that_older_values_lack_is_told_and_not_stumbled_over() -> None:
    """Where a template looks into a section that is not there, Helm says `nil pointer` and no more."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in (CHART / "templates").iterdir()}
    looked_into = {name for text in texts.values() for name in re.findall(r"\.Values\.(\w+)\.\w", text)}
    (listed,) = re.findall(r"range list (.*?) \}\}", CHECK)

    assert set(re.findall(r'"(\w+)"', listed)) == looked_into
    for name, text in texts.items():
        if re.search(r"\.Values\.(injector|metrics)\.", text):
            assert text.startswith('{{- include "egress-xds.check" . '), name


def test_the_modes_that_templates_refuse_are_those_that_the_schema_refuses() -> None:
    for section, key in (("tls", "mode"), ("tokens", "source")):
        (listed,) = re.findall(rf"has \.Values\.{section}\.{key} \(list (.*?)\)", CHECK)
        assert re.findall(r'"(\w+)"', listed) == SCHEMA["properties"][section]["properties"][key]["enum"]


def authority_of(objects: list[Manifest]) -> tuple[str, Manifest]:
    """Return where sidecars' authority is read, and the volume that is mounted there."""
    ca = settings_of(objects).inject_ca
    assert ca is not None
    (mount,) = [item for item in container(objects)["volumeMounts"] if item["mountPath"] == str(ca.parent)]
    volumes = pick(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (volume,) = [item for item in volumes if item["name"] == mount["name"]]
    assert mount["readOnly"]
    return ca.name, volume


def test_the_authorities_that_sidecars_believe_can_be_named_apart_from_the_certificate(tmp_path: Path) -> None:
    component = KUSTOMIZE / "components" / "authority"
    kustomized = build_with(tmp_path, resources=[str(KUSTOMIZE / "base")], components=[str(component)])
    charted = ChartWith({"injector": {"ca": "egress-xds-authority"}}).render()

    expected = {"name": "authority", "configMap": {"name": "egress-xds-authority"}}
    assert authority_of(kustomized) == authority_of(charted) == ("ca.crt", expected)
    assert settings_of(ALL["generated"]).inject_ca is None
    assert settings_of(ALL["helm"]).inject_ca is None


def test_prometheus_operator_finds_the_metrics_where_it_is_told_to(tmp_path: Path) -> None:
    component = KUSTOMIZE / "components" / "pod-monitor"
    kustomized = build_with(tmp_path, resources=[str(KUSTOMIZE / "base")], components=[str(component)])
    values = {"metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}}
    charted = ChartWith(values).render()

    for objects in (kustomized, charted):
        monitor, pod = pick(objects, "PodMonitor"), pick(objects, "Deployment")["spec"]["template"]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
        listen = settings_of(objects).http_listen
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        assert monitor["metadata"]["namespace"] == HOME
        assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert listen is not None
        assert (ports[endpoint["port"]], endpoint["path"]) == (listen.port, "/metrics")
    assert pick(charted, "PodMonitor")["metadata"]["labels"]["release"] == "prometheus"
    assert not any(
        item["kind"] == "PodMonitor" for where in ("generated", "cert-manager", "helm") for item in ALL[where]
    )
