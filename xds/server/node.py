"""
Who is calling: `node` of a stream's first request becomes a `Workload`, or a reason to refuse.

The id is `<pod>.<namespace>`; `metadata.labels` (strings by name) and `metadata.serviceAccount` are what
selectors look at. A value of the wrong kind is refused, not skipped: a pod that loses a label in silence
could fall under a different policy. Everything is bounded by what Kubernetes allows, because it is kept
for as long as the stream lives.

Nothing here proves that the caller is who it says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.names import NodeId
from xds.policy.model import Workload

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
OLDEST_ENVOY = (1, 38)
"""
The oldest Envoy that takes all that is compiled; what an older one does not know it would ignore in silence.

1.37 has neither filter state that is made of text nor rules for the metadata that tunnels are chosen by.
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
    )
    return NodeId(node.id), workload


def _check_version(node: Node) -> None:
    """Refuse an Envoy that is too old; one that does not tell its version is taken at its word."""
    version = node.user_agent_build_version.version
    found = (version.major_number, version.minor_number)
    if node.user_agent_name == _ENVOY and node.HasField("user_agent_build_version") and found < OLDEST_ENVOY:
        told = ".".join(map(str, (*found, version.patch)))
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
