"""
ConfigMaps as policy documents: what they are called, whom they concern and whose Secrets they may name.

A ConfigMap in the control plane's own namespace is cluster-wide; in any other it concerns that namespace alone. Whoever
follows ConfigMaps, reviews them or writes on them goes by this. Nothing here reads a document. Invariant: the scope
comes from where a ConfigMap stands, never from what it says.
"""

from __future__ import annotations

from xds.policy.names import CONFIG_MAP
from xds.policy.parse import Document

LABEL = "egress-xds/policy"
"""With the value `true` it makes a ConfigMap a policy."""

_SUFFIXES = (".yaml", ".yml")
_PARTS = 3


def is_document(key: str) -> bool:
    """Whether what a ConfigMap holds under `key` is a document."""
    return key.endswith(_SUFFIXES)


def build_document(namespace: str, name: str, key: str, text: str, *, home: str, created: str) -> Document:
    """Return what a ConfigMap holds under `key`; `home` is the control plane's own namespace, `created` RFC 3339."""
    return Document(
        source=source_of(namespace, name, key),
        text=text,
        namespace=None if namespace == home else namespace,
        secrets=namespace,
        created=created,
    )


def source_of(namespace: str, name: str, key: str) -> str:
    """Return what diagnostics call a key of a ConfigMap."""
    return f"{CONFIG_MAP}{namespace}/{name}/{key}"


def object_of(source: str) -> tuple[str, str] | None:
    """Return namespace and name of the ConfigMap that a document stands in; None: it stands in none."""
    parts = source.removeprefix(CONFIG_MAP).split("/", _PARTS - 1)
    return (parts[0], parts[1]) if source.startswith(CONFIG_MAP) and len(parts) == _PARTS else None
