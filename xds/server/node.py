"""
Who is calling: `node` of a stream's first request becomes a `Workload`, or a reason to refuse.

The id is `<pod>.<namespace>`; `metadata.labels` (strings by name) and `metadata.serviceAccount` are what
selectors look at, and `metadata.mode` tells whether connections are captured. A value of the wrong kind is
refused, not skipped: a pod that loses a label in silence could fall under a different policy. Everything is
bounded by what Kubernetes allows, because it is kept for as long as the stream lives.

Nothing here proves that the caller is who it says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.names import NodeId
from xds.policy.model import Mode, Workload

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct, Value

    from xds.gen.discovery_pb2 import Node

POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""RFC 1123 subdomain: a pod's name may hold dots."""
NAMESPACE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1123 label."""
_MAX_LABELS = 128
_MAX_LABEL_KEY = 317
"""A prefix of 253 characters, a slash, a name of 63 (Kubernetes, "Labels and Selectors")."""
_MAX_LABEL_VALUE = 63
_MAX_SERVICE_ACCOUNT = 253
_SHOWN = 80

_ENVOY = "envoy"
"""`user_agent_name` of every Envoy; other clients, such as `xds dump`, have names of their own."""
OLDEST_ENVOY = (1, 38, 2)
"""
The oldest Envoy that was seen to take all that is compiled.

1.37 has no filter state whose key is chosen freely, nor all that `set_filter_state` is told; 1.36 has no `path_rewrite`
either. What an Envoy does not know in a field of its own it would ignore in silence.
"""


class NodeError(ValueError):
    """The node can't be used. The message is meant for the client's operator."""


def parse_node(node: Node) -> tuple[NodeId, Workload]:
    """Read a node's id and metadata. Raises NodeError; any other exception is a bug."""
    pod, _, namespace = node.id.rpartition(".")
    if not POD_NAME.fullmatch(pod) or not NAMESPACE_NAME.fullmatch(namespace):
        raise NodeError(f"node id must be <pod>.<namespace>, not {node.id[:_SHOWN]!r}")
    _check_version(node)
    fields = node.metadata.fields
    workload = Workload(
        pod=pod,
        namespace=namespace,
        labels=_parse_labels(fields["labels"]) if "labels" in fields else (),
        service_account=_parse_account(fields["serviceAccount"]) if "serviceAccount" in fields else "",
        mode=_parse_mode(fields["mode"]) if "mode" in fields else Mode.TRANSPARENT,
    )
    return NodeId(node.id), workload


def _check_version(node: Node) -> None:
    """Refuse an Envoy that is too old; one that does not tell its version is taken at its word."""
    version = node.user_agent_build_version.version
    found = (version.major_number, version.minor_number, version.patch)
    if node.user_agent_name == _ENVOY and node.HasField("user_agent_build_version") and found < OLDEST_ENVOY:
        told = ".".join(map(str, found))
        oldest = ".".join(map(str, OLDEST_ENVOY))
        raise NodeError(f"node {node.id} runs Envoy {told}; {oldest} is the oldest that is served, so upgrade it")


def _parse_labels(value: Value) -> tuple[tuple[str, str], ...]:
    if value.WhichOneof("kind") != "struct_value":
        raise NodeError("node metadata: labels must be a map of strings")
    labels: Struct = value.struct_value
    if len(labels.fields) > _MAX_LABELS:
        raise NodeError(f"node metadata: more than {_MAX_LABELS} labels")
    return tuple(sorted((key, _parse_label(key, label)) for key, label in labels.fields.items()))


def _parse_label(key: str, value: Value) -> str:
    if value.WhichOneof("kind") != "string_value":
        raise NodeError(f"node metadata: label {key[:_SHOWN]!r} must be a string")
    if len(key) > _MAX_LABEL_KEY or len(value.string_value) > _MAX_LABEL_VALUE:
        raise NodeError(f"node metadata: label {key[:_SHOWN]!r} is too long")
    return value.string_value


def _parse_account(value: Value) -> str:
    if value.WhichOneof("kind") != "string_value" or len(value.string_value) > _MAX_SERVICE_ACCOUNT:
        raise NodeError("node metadata: serviceAccount must be a service account's name")
    return value.string_value


def _parse_mode(value: Value) -> Mode:
    served = (Mode.TRANSPARENT, Mode.EXPLICIT)  # in the third there is no Envoy
    found = value.string_value if value.WhichOneof("kind") == "string_value" else None
    mode = next((mode for mode in served if mode.value == found), None)
    if mode is None:
        raise NodeError(f"node metadata: mode must be {' or '.join(mode.value for mode in served)}")
    return mode
