"""Objects of the API server are reduced to what matters here, and nothing odd in one of them gets any further."""

from __future__ import annotations

import json
from base64 import b64encode
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xds.kubernetes.objects import (
    PodObject,
    reduce_config_map,
    reduce_namespace,
    reduce_node,
    reduce_pod,
    reduce_secret,
    reduce_service,
    reduce_service_cidr,
)
from xds.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RECORDED = Path(__file__).resolve().parents[2] / "data" / "kubernetes-1.36"


def recorded(name: str) -> Any:  # noqa: ANN401  # decoded JSON
    """Return the body of a recorded answer."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["body"]


def pod(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  # decoded JSON
    """Return a recorded pod with other values at its top level."""
    return {**recorded("pods-list-page-1")["items"][0], **changes}


def test_a_pod_is_reduced_to_what_selectors_and_proofs_look_at() -> None:
    assert reduce_pod(pod()) == PodObject(
        uid="2f56dddd-df78-42c8-942f-ee249e5f6bf8",
        labels=(("app", "checkout"), ("version", "v1")),
        service_account="checkout",
    )


def test_what_changes_every_minute_in_a_pod_changes_nothing_here() -> None:
    touched = pod(status={"phase": "Running", "podIP": "10.244.1.9", "conditions": []})
    touched["metadata"] = {**touched["metadata"], "resourceVersion": "999", "annotations": {"example/owner": "other"}}

    assert reduce_pod(touched) == reduce_pod(pod())


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_gone(phase: str) -> None:
    assert reduce_pod(pod(status={"phase": phase})) is None


def test_a_pod_that_is_going_away_is_there_until_it_is_gone() -> None:
    going = pod()
    going["metadata"] = {**going["metadata"], "deletionTimestamp": "2026-11-21T01:23:00Z"}

    assert reduce_pod(going) == reduce_pod(pod())


def test_a_pod_chooses_a_policy_and_tells_of_its_sidecar_by_annotation() -> None:
    chosen = pod()
    annotations = {"egress-xds/policy": "wide", "egress-xds/injected": "true", "egress-xds/mode": "explicit"}
    chosen["metadata"] = {**chosen["metadata"], "annotations": annotations}
    chosen["spec"] = {**chosen["spec"], "initContainers": [{"name": "egress-envoy"}]}

    reduced = reduce_pod(chosen)

    assert reduced is not None
    assert (reduced.policy, reduced.is_injected, reduced.mode) == ("wide", True, Mode.EXPLICIT)


@pytest.mark.parametrize("containers", [[{"name": "app"}], None, [7]], ids=["another container", "none", "odd ones"])
def test_a_pod_that_only_says_to_have_a_sidecar_is_not_waited_for(containers: object) -> None:
    pretends = pod()
    pretends["metadata"] = {**pretends["metadata"], "annotations": {"egress-xds/injected": "true"}}
    pretends["spec"] = {**pretends["spec"], "initContainers": containers, "containers": containers}

    assert reduce_pod(pretends) == reduce_pod(pod())


def test_a_pod_whose_mode_nobody_knows_is_an_ordinary_one() -> None:
    odd = pod()
    odd["metadata"] = {**odd["metadata"], "annotations": {"egress-xds/mode": "sideways"}}

    assert reduce_pod(odd) == reduce_pod(pod())


def test_pods_with_equal_labels_hold_them_together() -> None:
    first, second = reduce_pod(pod()), reduce_pod(pod())

    assert first is not None
    assert second is not None
    assert first.labels is second.labels


def test_a_namespace_is_its_labels_and_its_choice() -> None:
    found = reduce_namespace(recorded("namespace"))

    assert dict(found.labels)["team"] == "pay"
    assert not found.policy


def test_of_a_namespace_what_its_pods_inherit_is_kept() -> None:
    namespace = recorded("namespace")
    inherited = {"egress-xds/mode": "explicit", "linkerd.io/inject": "enabled"}
    namespace["metadata"]["annotations"] = {**inherited, "example/owner": "pay"}

    assert dict(reduce_namespace(namespace).annotations) == inherited


def test_a_config_map_is_its_yaml_keys_and_its_age_and_not_our_status_on_it() -> None:
    stored = recorded("configmap-list")["items"][0]
    stored["data"]["notes.txt"] = "not a policy"
    reduced = reduce_config_map(stored)
    annotated = {**stored, "metadata": {**stored["metadata"], "resourceVersion": "9", "annotations": {"a/b": "c"}}}

    assert [key for key, _ in reduced.documents] == ["policy.yaml"]
    assert reduced.created == "2026-11-21T01:22:26Z"
    assert reduce_config_map(annotated) == reduced


def test_a_secret_is_decoded_and_never_shown() -> None:
    reduced = reduce_secret(recorded("secret"))

    assert dict(reduced.data) == {"username": "alice", "password": "canary-password"}
    assert "canary" not in repr(reduced)


def test_what_is_no_text_in_a_secret_is_left_out() -> None:
    data = {"binary": b64encode(b"\xff\xfe").decode(), "odd": "no base64!", "good": b64encode(b"yes").decode()}

    assert reduce_secret({"data": data}).data == (("good", "yes"),)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]}, ["10.96.0.1"], id="one address"),
        pytest.param({"clusterIPs": ["10.96.0.1", "fd00::1"]}, ["10.96.0.1", "fd00::1"], id="an address per family"),
        pytest.param({"clusterIP": "10.96.0.7"}, ["10.96.0.7"], id="as old API servers tell it"),
        pytest.param({"clusterIP": "None", "clusterIPs": ["None"]}, [], id="headless"),
        pytest.param({"type": "ExternalName", "externalName": "x.example"}, [], id="another name for an outside host"),
    ],
)
def test_a_service_is_its_addresses_in_the_cluster(spec: Mapping[str, object], expected: list[str]) -> None:
    assert reduce_service({"spec": spec}) == tuple(map(ip_address, expected))


def test_a_node_can_not_claim_a_network_as_its_own_address() -> None:
    with pytest.raises(ValueError, match=r"8\.0\.0\.0/8"):
        reduce_node({"status": {"addresses": [{"type": "InternalIP", "address": "8.0.0.0/8"}]}})


def test_labels_without_end_are_not_kept_for_others() -> None:
    many = pod()
    many["metadata"] = {**many["metadata"], "labels": {f"label-{number}": "x" for number in range(200)}}
    first, second = reduce_pod(many), reduce_pod(many)

    assert first is not None
    assert second is not None
    assert first.labels == second.labels
    assert first.labels is not second.labels


def test_what_is_no_name_of_a_policy_chooses_none() -> None:
    odd = pod()
    odd["metadata"] = {**odd["metadata"], "annotations": {"egress-xds/policy": "x" * 254}}
    reduced = reduce_pod(odd)

    assert reduced is not None
    assert not reduced.policy


def test_networks_are_those_of_services_of_pods_and_of_the_nodes_themselves() -> None:
    node = {
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
        "status": {
            "addresses": [{"type": "Hostname", "address": "one"}, {"type": "InternalIP", "address": "192.0.2.10"}]
        },
    }

    assert reduce_node(node) == tuple(map(ip_network, ["10.244.1.0/24", "fd00:10:244:1::/64", "192.0.2.10"]))
    assert reduce_service_cidr({"spec": {"cidrs": ["10.96.0.0/12"]}}) == (ip_network("10.96.0.0/12"),)


@pytest.mark.parametrize("reduce", [reduce_pod, reduce_namespace, reduce_config_map, reduce_secret, reduce_service])
@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"metadata": [1], "data": [1], "spec": [1]}, id="lists for mappings"),
        pytest.param({"metadata": {"labels": {"a": 1}}, "data": {"a": 1}, "spec": {"clusterIPs": ["x"]}}, id="numbers"),
        pytest.param(
            {"metadata": "canary", "data": "canary", "spec": "canary", "status": "canary"}, id="texts for mappings"
        ),
    ],
)
def test_an_odd_object_is_a_value_error_that_quotes_nothing(
    reduce: Callable[[Mapping[str, object]], object], odd: Mapping[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"is no|is not|holds a value|does not appear") as raised:
        reduce(odd)

    assert "canary" not in str(raised.value)
