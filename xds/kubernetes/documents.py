"""
The policy documents of a cluster: all that its ConfigMaps hold, within what one namespace may ask for.

What a ConfigMap's document is called and whom it concerns is said in `xds.policy.config_maps`. Nothing here reads a
document. Invariant: what one namespace has too much of is refused there and nowhere else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xds.policy.config_maps import build_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.kubernetes.objects import ConfigMapObject
    from xds.policy.parse import Document


MAX_DOCUMENTS, MAX_LENGTH = 20, 512 * 1024
"""What the documents of one namespace may be, in number and in characters: each costs time that all others wait."""


def build_documents(
    config_maps: Mapping[tuple[str, str], ConfigMapObject], home: str, *, is_home_only: bool = False
) -> tuple[Document, ...]:
    """
    Return all documents, sorted by source.

    `home` is the control plane's own namespace; with `is_home_only`, others have no say. Of a namespace with too many,
    or too large ones, the oldest ConfigMaps are kept and the rest is refused.
    """
    found: list[Document] = []
    of_namespaces: dict[str, list[Document]] = {}
    for document in _documents(config_maps, home):
        if document.namespace is None:
            found.append(document)
        elif not is_home_only:
            of_namespaces.setdefault(document.namespace, []).append(document)
    for documents in of_namespaces.values():
        found += _limit(sorted(documents, key=lambda document: (document.created, document.source)))
    return tuple(sorted(found, key=lambda document: document.source))


def _limit(documents: Iterable[Document]) -> Iterable[Document]:
    length = 0
    for number, document in enumerate(documents, start=1):
        length += len(document.text)
        if number > MAX_DOCUMENTS:
            yield replace(document, text="", refused=f"the namespace has more than {MAX_DOCUMENTS} documents")
        elif length > MAX_LENGTH:
            message = f"the documents of the namespace have more than {MAX_LENGTH >> 10} KiB"
            yield replace(document, text="", refused=message)
        else:
            yield document


def _documents(config_maps: Mapping[tuple[str, str], ConfigMapObject], home: str) -> Iterable[Document]:
    for (namespace, name), config_map in config_maps.items():
        for key, text in config_map.documents:
            yield build_document(namespace, name, key, text, home=home, created=config_map.created)
