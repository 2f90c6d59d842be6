"""
Which service mesh captures a pod besides: Istio with sidecars, Istio ambient, or Linkerd.

Read from what a pod and its namespace say, for a mesh may come to the pod after us. Sources: Istio's "Installing the
Sidecar" and "Add workloads to the mesh" (ambient), Linkerd's "Automatic Proxy Injection". Invariant: where a mesh's
own containers are there already, it is found whatever labels say.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from xds.injection.pod import PodView

if TYPE_CHECKING:
    from collections.abc import Mapping


class Mesh(Enum):
    """A mesh, as messages call it."""

    ISTIO = "Istio's sidecar"
    AMBIENT = "Istio's ambient mesh"
    LINKERD = "Linkerd"

    @property
    def uids(self) -> tuple[int, ...]:
        """The users whose connections the mesh does not capture: its own proxy's."""
        match self:
            case Mesh.ISTIO | Mesh.AMBIENT:
                return (1337,)
            case Mesh.LINKERD:
                return (2102,)


CONTAINERS = {
    "istio-proxy": Mesh.ISTIO,
    "istio-init": Mesh.ISTIO,
    "istio-validation": Mesh.ISTIO,
    "linkerd-proxy": Mesh.LINKERD,
    "linkerd-init": Mesh.LINKERD,
    "linkerd-network-validator": Mesh.LINKERD,
}
"""Containers of meshes. They get no variable of ours: what they do is what the application's traffic passes through."""

_PLAIN = PodView(metadata={}, spec={}, annotations={}, labels={}, init_containers=(), containers=(), volumes=())

_TRUE = frozenset({"y", "yes", "true", "on"})
_FALSE = frozenset({"n", "no", "false", "off"})
"""As Istio's injector reads its label and annotation."""


def find_mesh(
    pod: PodView, namespace_labels: Mapping[str, str], namespace_annotations: Mapping[str, str]
) -> Mesh | None:
    """Return the mesh that captures `pod`, or will."""
    present = [CONTAINERS[name] for container in pod.every_container if (name := container.get("name")) in CONTAINERS]
    if present:
        return present[0]
    if "sidecar.istio.io/status" in pod.annotations or _gets_istio(pod, namespace_labels):
        return Mesh.ISTIO
    if _is_ambient(pod, namespace_labels):
        return Mesh.AMBIENT
    linkerd = pod.annotations.get("linkerd.io/inject", namespace_annotations.get("linkerd.io/inject"))
    return Mesh.LINKERD if linkerd in {"enabled", "ingress"} else None


def is_of_namespace(namespace_labels: Mapping[str, str], namespace_annotations: Mapping[str, str]) -> bool:
    """Whether a mesh captures pods of the namespace that say nothing themselves."""
    return find_mesh(_PLAIN, namespace_labels, namespace_annotations) is not None


def _gets_istio(pod: PodView, namespace_labels: Mapping[str, str]) -> bool:
    """Whether one of the webhooks that Istio installs selects the pod, and its injector then wants it."""
    key = "sidecar.istio.io/inject"
    wish = pod.labels.get(key, pod.annotations.get(key, "")).lower()
    namespace = namespace_labels.get("istio-injection")
    if wish in _FALSE or namespace == "disabled":
        return False
    if namespace == "enabled" or "istio.io/rev" in namespace_labels:
        return True
    return pod.labels.get(key, "").lower() in _TRUE or "istio.io/rev" in pod.labels


def _is_ambient(pod: PodView, namespace_labels: Mapping[str, str]) -> bool:
    key = "istio.io/dataplane-mode"
    if pod.annotations.get("ambient.istio.io/redirection") == "enabled":
        return True
    return pod.labels.get(key, namespace_labels.get(key)) == "ambient"
