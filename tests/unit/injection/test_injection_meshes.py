"""Which mesh captures a pod, by what it and its namespace say, and by what is in it already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.injection.pod_shapes import EXPLICIT, SIDECAR, around, container_of, pod
from xds.injection.inject import inject
from xds.injection.meshes import Mesh, find_mesh
from xds.injection.pod import view_pod

REV = {"istio.io/rev": "stable"}
ENABLED = {"istio-injection": "enabled"}
AMBIENT = {"istio.io/dataplane-mode": "ambient"}


@pytest.mark.parametrize(
    ("shape", "labels", "annotations", "mesh"),
    [
        (pod(), {}, {}, None),
        (pod(), ENABLED, {}, Mesh.ISTIO),
        (pod(), {"istio-injection": "disabled"}, {}, None),
        (pod(), REV, {}, Mesh.ISTIO),
        (pod(labels={"sidecar.istio.io/inject": "false"}), ENABLED, {}, None),
        (pod(annotations={"sidecar.istio.io/inject": "false"}), ENABLED, {}, None),
        (pod(labels={"sidecar.istio.io/inject": "true"}), {}, {}, Mesh.ISTIO),
        (pod(labels={"sidecar.istio.io/inject": "true"}), {"istio-injection": "disabled"}, {}, None),
        (pod(labels=REV), {}, {}, Mesh.ISTIO),
        (pod(annotations={"sidecar.istio.io/status": "{}"}), {}, {}, Mesh.ISTIO),
        (pod("initContainers: [{name: istio-init, image: i}]"), {"istio-injection": "disabled"}, {}, Mesh.ISTIO),
        (pod("initContainers: [{name: istio-proxy, image: i, restartPolicy: Always}]"), {}, {}, Mesh.ISTIO),
        (pod(), AMBIENT, {}, Mesh.AMBIENT),
        (pod(labels=AMBIENT), {}, {}, Mesh.AMBIENT),
        (pod(labels={"istio.io/dataplane-mode": "none"}), AMBIENT, {}, None),
        (pod(annotations={"ambient.istio.io/redirection": "enabled"}), {}, {}, Mesh.AMBIENT),
        (pod(annotations={"linkerd.io/inject": "enabled"}), {}, {}, Mesh.LINKERD),
        (pod(), {}, {"linkerd.io/inject": "ingress"}, Mesh.LINKERD),
        (pod(annotations={"linkerd.io/inject": "disabled"}), {}, {"linkerd.io/inject": "enabled"}, None),
        (pod("initContainers: [{name: linkerd-init, image: l}]"), {}, {}, Mesh.LINKERD),
    ],
    ids=[
        "no mesh",
        "the namespace wants Istio",
        "the namespace does not want Istio",
        "the namespace wants a revision of Istio",
        "the pod's label takes it out of Istio",
        "the pod's annotation takes it out of Istio",
        "the pod alone wants Istio",
        "the pod wants Istio and its namespace forbids it",
        "the pod alone wants a revision of Istio",
        "Istio was there and says so",
        "Istio's step is there, whatever the namespace says",
        "Istio's native sidecar is there",
        "the namespace is ambient",
        "the pod is ambient",
        "the pod is not ambient in a namespace that is",
        "the pod is redirected",
        "the pod wants Linkerd",
        "the namespace wants Linkerd",
        "the pod does not want Linkerd and its namespace does",
        "Linkerd's step is there",
    ],
)
def test_the_mesh_is_known(
    shape: dict[str, Any], labels: dict[str, str], annotations: dict[str, str], mesh: Mesh | None
) -> None:
    assert find_mesh(view_pod(shape), labels, annotations) is mesh


@pytest.mark.parametrize(
    ("uid", "expected"), [(1337, 1338), (2102, 1338), (4711, 4711)], ids=["the usual one", "Linkerd's", "another"]
)
def test_beside_a_mesh_the_sidecars_user_is_none_that_the_mesh_does_not_see(uid: int, expected: int) -> None:
    beside = pod(annotations={"linkerd.io/inject": "enabled"})
    injected = inject(beside, around(EXPLICIT), replace(SIDECAR, uid=uid)).pod

    assert container_of(injected, "egress-envoy")["securityContext"]["runAsUser"] == expected
