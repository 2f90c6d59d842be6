"""Who is calling: what makes a node acceptable, and what it is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf.json_format import ParseDict

from xds.gen.discovery_pb2 import DiscoveryRequest, Node
from xds.policy.model import Mode, Workload
from xds.server.node import NodeError, parse_node

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDED = Path(__file__).parents[2] / "data" / "envoy-1.40" / "sotw-request-1.bin"


def node(identifier: str = "web-0.shop", metadata: Mapping[str, object] | None = None) -> Node:
    return ParseDict({"id": identifier, "metadata": metadata or {}}, Node())


def an_envoy(version: tuple[int, int, int] | None, name: str = "envoy") -> Node:
    """Return a node that tells its version, or, with None, only that it is an Envoy."""
    told = node()
    told.user_agent_name = name
    if version is not None:
        found = told.user_agent_build_version.version
        found.major_number, found.minor_number, found.patch = version
    return told


@pytest.mark.parametrize("version", [(1, 38, 2), (1, 40, 0), (1, 40, 2), (2, 0, 0), None])
def test_an_envoy_that_is_new_enough_is_served(version: tuple[int, int, int] | None) -> None:
    assert parse_node(an_envoy(version))[0] == "web-0.shop"


@pytest.mark.parametrize("version", [(1, 38, 1), (1, 37, 9), (1, 9, 0), (0, 99, 0)])
def test_an_envoy_that_is_too_old_is_told_which_one_it_takes(version: tuple[int, int, int]) -> None:
    with pytest.raises(
        NodeError, match=rf"web-0\.shop runs Envoy {'.'.join(map(str, version))}; 1\.38\.2 is the oldest"
    ):
        parse_node(an_envoy(version))


def test_versions_of_other_clients_mean_nothing() -> None:
    assert parse_node(an_envoy((0, 1, 0), name="somebody"))[0] == "web-0.shop"


@pytest.mark.parametrize(
    ("identifier", "pod", "namespace"),
    [
        pytest.param("web-0.shop", "web-0", "shop", id="a pod and its namespace"),
        pytest.param("web.v2.example.shop", "web.v2.example", "shop", id="the last label is the namespace"),
        pytest.param("a.b", "a", "b", id="one letter is enough"),
        pytest.param("0.1", "0", "1", id="digits are names"),
        pytest.param("p" * 253 + "." + "n" * 63, "p" * 253, "n" * 63, id="as long as Kubernetes allows"),
    ],
)
def test_an_id_names_a_pod_and_a_namespace(identifier: str, pod: str, namespace: str) -> None:
    assert parse_node(node(identifier)) == (identifier, Workload(pod=pod, namespace=namespace))


@pytest.mark.parametrize(
    "identifier",
    [
        pytest.param("", id="nothing"),
        pytest.param("web", id="no namespace"),
        pytest.param(".shop", id="an empty pod"),
        pytest.param("web.", id="an empty namespace"),
        pytest.param("Web.shop", id="upper case"),
        pytest.param("web.shop\n", id="a line end"),
        pytest.param("web-.shop", id="a pod that ends in a dash"),
        pytest.param("web.-shop", id="a namespace that begins with a dash"),
        pytest.param("p" * 254 + ".shop", id="a pod that is too long"),
        pytest.param("web." + "n" * 64, id="a namespace that is too long"),
        pytest.param("sidecar~10.0.0.1~web-0.shop~shop.svc.cluster.local", id="the id of another mesh"),
    ],
)
def test_another_id_is_refused(identifier: str) -> None:
    with pytest.raises(NodeError, match=r"node id must be <pod>\.<namespace>"):
        parse_node(node(identifier))


def test_a_refusal_does_not_repeat_an_id_without_end() -> None:
    with pytest.raises(NodeError) as refusal:
        parse_node(node("X" * 1_000_000))

    assert len(str(refusal.value)) < 200


def test_labels_and_service_account_are_what_selectors_see() -> None:
    _, workload = parse_node(node(metadata={"labels": {"tier": "web", "app": "shop"}, "serviceAccount": "cashier"}))

    assert workload == Workload(
        pod="web-0", namespace="shop", labels=(("app", "shop"), ("tier", "web")), service_account="cashier"
    )


def test_other_metadata_is_ignored() -> None:
    _, workload = parse_node(node(metadata={"LABELS": {"app": "x"}, "weight": 3, "flags": ["a", None, True]}))

    assert workload == Workload(pod="web-0", namespace="shop")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param({"labels": "app=shop"}, "labels must be a map of strings", id="labels as text"),
        pytest.param({"labels": None}, "labels must be a map of strings", id="labels as null"),
        pytest.param({"labels": ["app"]}, "labels must be a map of strings", id="labels as a list"),
        pytest.param({"labels": {"v": 1}}, "label 'v' must be a string", id="a number for a label"),
        pytest.param({"labels": {"v": True}}, "label 'v' must be a string", id="a truth value for a label"),
        pytest.param({"labels": {"v": {"w": "x"}}}, "label 'v' must be a string", id="a map for a label"),
        pytest.param({"labels": {"v": "x" * 64}}, "label 'v' is too long", id="a label's value that is too long"),
        pytest.param({"labels": {"v" * 318: "x"}}, "is too long", id="a label's key that is too long"),
        pytest.param(
            {"labels": {f"l{number}": "x" for number in range(129)}}, "more than 128 labels", id="too many labels"
        ),
        pytest.param({"serviceAccount": 7}, "serviceAccount must be", id="a number for a service account"),
        pytest.param({"serviceAccount": "x" * 254}, "serviceAccount must be", id="a service account that is too long"),
    ],
)
def test_metadata_of_the_wrong_kind_is_refused_not_skipped(metadata: Mapping[str, object], message: str) -> None:
    """A pod that lost a label in silence could fall under a wider policy."""
    with pytest.raises(NodeError, match=message):
        parse_node(node(metadata=metadata))


@pytest.mark.parametrize("mode", [Mode.TRANSPARENT, Mode.EXPLICIT])
def test_a_node_says_whether_connections_are_captured(mode: Mode) -> None:
    assert parse_node(node(metadata={"mode": mode.value}))[1].mode is mode
    assert parse_node(node())[1].mode is Mode.TRANSPARENT


@pytest.mark.parametrize("value", ["env", "EXPLICIT", "", None, True, ["explicit"]])
def test_a_mode_that_an_envoy_can_not_have_is_refused_with_those_that_it_can(value: object) -> None:
    with pytest.raises(NodeError, match="mode must be transparent or explicit"):
        parse_node(node(metadata={"mode": value}))


def test_metadata_at_the_bounds_is_accepted() -> None:
    metadata = {
        "labels": {"k" * 317: "v" * 63, **{f"l{number}": "" for number in range(127)}},
        "serviceAccount": "s" * 253,
    }
    _, workload = parse_node(node(metadata=metadata))

    assert (len(workload.labels), len(workload.service_account)) == (128, 253)


def test_the_node_of_a_recorded_envoy_of_another_mesh_is_refused_with_the_form_that_is_wanted() -> None:
    recorded = DiscoveryRequest.FromString(RECORDED.read_bytes()).node

    with pytest.raises(NodeError, match=r"<pod>\.<namespace>, not 'sidecar~"):
        parse_node(recorded)
