"""The reader of pods that the end-to-end tests run: nothing of a spec is overlooked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.pod_spec import PodSpecError, command_line, expand, read_environment, read_pod


def pod(container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:  # noqa: ANN401 -- fields of a pod
    """Return a pod of one container."""
    metadata = {"name": "web-0", "namespace": "shop", "annotations": {"egress-xds/mode": "explicit"}}
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "web", "image": "web", **(container or {})}], **spec},
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param(pod(shareProcessNamespace=True), "shareProcessNamespace", id="a field of the pod"),
        pytest.param(pod({"stdin": True}), "stdin", id="a field of a container"),
        pytest.param(pod({"securityContext": {"privileged": True}}), "privileged", id="a privileged container"),
        pytest.param(pod({"securityContext": {"procMount": "Unmasked"}}), "procMount", id="a right"),
        pytest.param(
            pod({"volumeMounts": [{"name": "a", "mountPath": "/a", "subPath": "b"}]}), "subPath", id="a mount"
        ),
        pytest.param(pod({"volumeMounts": [{"name": "a", "mountPath": "/a"}]}), "no volume a", id="a missing volume"),
        pytest.param(pod(volumes=[{"name": "a", "hostPath": {"path": "/"}}]), "hostPath", id="a kind of volume"),
        pytest.param(pod({"startupProbe": {"grpc": {"port": 1}}}), "neither httpGet", id="a kind of probe"),
        pytest.param(pod({"lifecycle": {"postStart": {}}}), "postStart", id="a step of the lifecycle"),
        pytest.param(pod({"restartPolicy": "Always"}), "restartPolicy", id="a sidecar among the containers"),
        pytest.param(pod(hostNetwork=True), "hostNetwork", id="the node's network"),
        pytest.param(pod(initContainers=[{"name": "web", "image": "a"}]), "one name", id="a name twice"),
        pytest.param(
            pod(initContainers=[{"name": "a", "image": "a", "readinessProbe": {"exec": {"command": ["a"]}}}]),
            "ends has neither probes",
            id="a probe of a container that ends",
        ),
    ],
)
def test_what_the_runner_can_not_do_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(PodSpecError, match=told):
        read_pod(given)


def test_variables_are_expanded_in_their_order_and_come_from_the_pod() -> None:
    field = {"fieldRef": {"fieldPath": "metadata.annotations['egress-xds/mode']"}}
    variables = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
        {"name": "NODE", "value": "$(NAME).shop, not $(LATER) nor $$(NAME)"},
        {"name": "LATER", "value": "yes"},
        {"name": "MODE", "valueFrom": field},
    ]
    found = read_pod(pod({"env": variables, "args": ["--node=$(NODE)", "$(UNKNOWN)"]}))
    (web,) = found.containers

    known = read_environment(found, web, address="10.0.0.1")

    assert known["NODE"] == "web-0.shop, not $(LATER) nor $(NAME)"
    assert known["MODE"] == "explicit"
    words = command_line(web, ["xds"], ["serve"], known)
    assert words == ["xds", "--node=web-0.shop, not $(LATER) nor $(NAME)", "$(UNKNOWN)"]
    assert expand("$(", {}) == "$("


def test_rights_are_those_of_the_runtime_without_what_is_dropped_and_with_what_is_added() -> None:
    shared = {"runAsUser": 7, "runAsNonRoot": True, "fsGroup": 9}
    own = {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "allowPrivilegeEscalation": False}
    found = read_pod(pod(securityContext=shared, initContainers=[{"name": "a", "image": "a", "securityContext": own}]))

    assert found.init[0].security.capabilities == {"NET_ADMIN"}
    assert found.init[0].security.uid == 0
    assert not found.init[0].security.may_gain_privileges
    assert found.containers[0].security.uid == 7
    assert "NET_ADMIN" not in found.containers[0].security.capabilities
    assert "NET_RAW" in found.containers[0].security.capabilities
    assert found.containers[0].security.groups == (9,)
