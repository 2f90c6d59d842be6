"""
ConfigMaps as policy documents: what they are called, whom they concern and whose Secrets they may name.

A ConfigMap in the control plane's own namespace is cluster-wide; in any other it concerns that namespace alone. Nothing
here reads a document. Invariant: the scope comes from where a ConfigMap stands, never from what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.policy.parse import Document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.kubernetes.objects import ConfigMapObject

_SCHEME = "configmap/"


def build_documents(config_maps: Mapping[tuple[str, str], ConfigMapObject], home: str) -> tuple[Document, ...]:
    """Return all documents, sorted by source; `home` is the control plane's own namespace."""
    return tuple(sorted(_documents(config_maps, home), key=lambda document: document.source))


def source_of(namespace: str, name: str, key: str) -> str:
    """Return what diagnostics call a key of a ConfigMap."""
    return f"{_SCHEME}{namespace}/{name}/{key}"


def _documents(config_maps: Mapping[tuple[str, str], ConfigMapObject], home: str) -> Iterable[Document]:
    for (namespace, name), config_map in config_maps.items():
        for key, text in config_map.documents:
            yield Document(
                source=source_of(namespace, name, key),
                text=text,
                namespace=None if namespace == home else namespace,
                secrets=namespace,
                created=config_map.created,
            )
