"""
Objects of the API server, reduced to what this project looks at.

Each function takes one object as the API server tells it (decoded JSON) and returns a small frozen value; None: the
object is of no interest. Texts that many pods share are held once. What is of an unexpected shape raises ValueError,
never anything else: one odd object must not cost the others. Nothing here asks the API server for anything.
Invariant: what a Secret holds never shows in a `repr`.
"""

from __future__ import annotations

import binascii
import sys
from base64 import b64decode
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from xds.policy.config_maps import LABEL, is_document
from xds.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Labels = tuple[tuple[str, str], ...]

POLICY_LABEL = f"{LABEL}=true"
"""Selects the ConfigMaps that hold policies."""
POLICY_ANNOTATION = "egress-xds/policy"
"""On a pod or a namespace: the policy to prefer among those that are equal otherwise."""
INJECTED_ANNOTATION = "egress-xds/injected"
"""On a pod: it has a sidecar, which is expected to connect. Anybody may write it: the container counts."""
_SIDECAR = "egress-envoy"
"""The container that is one."""
MODE_ANNOTATION = "egress-xds/mode"
"""On a pod: how its applications reach the sidecar."""
_OF_INJECTION = ("egress-xds/", "linkerd.io/")
"""What the names of a namespace's annotations begin with that its pods inherit: ours, and those of a mesh."""

_ENDED = frozenset({"Succeeded", "Failed"})
"""Phases in which no container of a pod runs any more."""
_SHARED = 16_384
_MANY_LABELS = 64
"""Pods with more labels than that keep them for themselves: what is shared outlives the pods, and must stay small."""
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class PodObject:
    """A pod that may run an Envoy."""

    uid: str
    labels: Labels
    service_account: str
    policy: str = ""
    mode: Mode = Mode.TRANSPARENT
    is_injected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceObject:
    """A namespace."""

    labels: Labels
    policy: str = ""
    annotations: tuple[tuple[str, str], ...] = ()
    """Sorted pairs of those that hold for its pods, too, unless they say otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMapObject:
    """A ConfigMap with policies."""

    uid: str
    created: str
    """RFC 3339."""
    documents: tuple[tuple[str, str], ...]
    """Key and text of each document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretObject:
    """A Secret; what could not be decoded as text is left out."""

    data: tuple[tuple[str, str], ...] = field(repr=False)


def reduce_pod(pod: Mapping[str, object]) -> PodObject | None:
    """Reduce a Pod; None: it has ended. Raises ValueError."""
    metadata, spec = _mapping(pod, "metadata"), _mapping(pod, "spec")
    if _text(_mapping(pod, "status"), "phase") in _ENDED:
        return None
    annotations = _texts(metadata, "annotations")
    return PodObject(
        uid=_text(metadata, "uid"),
        labels=_labels(metadata),
        service_account=sys.intern(_text(spec, "serviceAccountName") or "default"),
        policy=_policy(annotations),
        mode=_mode(annotations),
        is_injected=annotations.get(INJECTED_ANNOTATION) == "true" and _has_sidecar(spec),
    )


def reduce_namespace(namespace: Mapping[str, object]) -> NamespaceObject:
    """Reduce a Namespace. Raises ValueError."""
    metadata = _mapping(namespace, "metadata")
    annotations = _texts(metadata, "annotations")
    inherited = sorted(item for item in annotations.items() if item[0].startswith(_OF_INJECTION))
    return NamespaceObject(labels=_labels(metadata), policy=_policy(annotations), annotations=tuple(inherited))


def reduce_config_map(config_map: Mapping[str, object]) -> ConfigMapObject:
    """Reduce a ConfigMap; its annotations, our own status among them, change nothing. Raises ValueError."""
    metadata = _mapping(config_map, "metadata")
    documents = [item for item in _texts(config_map, "data").items() if is_document(item[0])]
    return ConfigMapObject(
        uid=_text(metadata, "uid"), created=_text(metadata, "creationTimestamp"), documents=tuple(sorted(documents))
    )


def reduce_secret(secret: Mapping[str, object]) -> SecretObject:
    """Reduce a Secret. Raises ValueError, without a word of what is in it."""
    decoded = ((key, _decode(value)) for key, value in _texts(secret, "data").items())
    return SecretObject(data=tuple(sorted((key, text) for key, text in decoded if text is not None)))


def reduce_service(service: Mapping[str, object]) -> tuple[Address, ...]:
    """Reduce a Service to its addresses in the cluster; a headless one has none. Raises ValueError."""
    spec = _mapping(service, "spec")
    found = _list(spec, "clusterIPs") or [_text(spec, "clusterIP")]
    return tuple(ip_address(text) for text in found if text and text != "None")


def reduce_service_cidr(service_cidr: Mapping[str, object]) -> tuple[Network, ...]:
    """Reduce a ServiceCIDR (networking.k8s.io/v1) to its networks. Raises ValueError."""
    return tuple(ip_network(text, strict=False) for text in _list(_mapping(service_cidr, "spec"), "cidrs"))


def reduce_node(node: Mapping[str, object]) -> tuple[Network, ...]:
    """
    Reduce a Node to the networks of its pods and its own addresses in the cluster. Raises ValueError.

    The addresses are the node's own word, so that nothing but single ones are taken.
    """
    spec, status = _mapping(node, "spec"), _mapping(node, "status")
    pods = _list(spec, "podCIDRs") or ([_text(spec, "podCIDR")] if _text(spec, "podCIDR") else [])
    addresses = status.get("addresses")
    own = [
        item["address"]
        for item in (addresses if isinstance(addresses, list) else ())
        if isinstance(item, dict) and item.get("type") == "InternalIP" and isinstance(item.get("address"), str)
    ]
    return (*(ip_network(text, strict=False) for text in pods), *(ip_network(ip_address(text)) for text in own))


def _decode(text: str) -> str | None:
    try:
        return b64decode(text, validate=True).decode("utf-8-sig")
    except (binascii.Error, UnicodeDecodeError):
        return None


def _policy(annotations: Mapping[str, str]) -> str:
    """Return the name of the policy that is wanted; what is no name wants none."""
    wanted = annotations.get(POLICY_ANNOTATION, "")
    return sys.intern(wanted) if len(wanted) <= _LONGEST_NAME else ""


def _mode(annotations: Mapping[str, str]) -> Mode:
    """Return the mode of a pod; what is none is the usual one, for there is nothing that could be left out then."""
    try:
        return Mode(annotations.get(MODE_ANNOTATION, Mode.TRANSPARENT.value))
    except ValueError:
        return Mode.TRANSPARENT


def _has_sidecar(spec: Mapping[str, object]) -> bool:
    lists = (spec.get("initContainers"), spec.get("containers"))
    containers = [item for found in lists if isinstance(found, list) for item in found]
    return any(isinstance(container, dict) and container.get("name") == _SIDECAR for container in containers)


def _labels(metadata: Mapping[str, object]) -> Labels:
    labels = tuple(sorted(_texts(metadata, "labels").items()))
    return _share(labels) if len(labels) <= _MANY_LABELS else labels


@lru_cache(_SHARED)
def _share(labels: Labels) -> Labels:
    """Return equal labels as one and the same value: all pods of a Deployment have the same."""
    return tuple((sys.intern(key), sys.intern(value)) for key, value in labels)


def _mapping(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = parent.get(key) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{key} is not a mapping")  # noqa: TRY004  # data of the wrong shape, not a call
    return found


def _texts(parent: Mapping[str, object], key: str) -> dict[str, str]:
    found = _mapping(parent, key)
    if not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"{key} holds a value that is no text")
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _text(parent: Mapping[str, object], key: str) -> str:
    found = parent.get(key) or ""
    if not isinstance(found, str):
        raise ValueError(f"{key} is no text")  # noqa: TRY004  # as above
    return found


def _list(parent: Mapping[str, object], key: str) -> list[str]:
    found = parent.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{key} is not a list of texts")
    return found
