"""
Scopes: which namespace a policy concerns, when its source and its text may both say.

Nothing here reads files or selects pods. Invariant: the source's word is final; a document that
contradicts it is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.names import check_dns_label

if TYPE_CHECKING:
    from xds.policy.findings import Findings, Spot
    from xds.policy.model import Selector


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of the documents of a source beside their text; the fields are those of `Document`."""

    namespace: str | None = None
    secrets: str | None = None
    created: str = ""


def resolve_namespace(source: str | None, written: str | None, spot: Spot, findings: Findings) -> str | None:
    """Return the namespace that a policy concerns; None is cluster-wide."""
    if written is None:
        return source
    check_dns_label(written, "the namespace", spot, findings)
    if source is None:
        return written
    if written != source:
        message = f"the namespace is {quote(written)}, but the document stands in {quote(source)}"
        findings.add("EX404", spot, message, "remove it, or move the document to that namespace")
    return source


def warn_unknown_labels(origin: Origin, selector: Selector, spot: Spot, findings: Findings) -> None:
    """Warn of a selector by labels of namespaces where nobody knows them."""
    if selector.namespace_labels and origin.secrets is None:
        message = "only Kubernetes knows the labels of namespaces: here every namespace counts as having none"
        findings.add("EX407", spot, message, "name the namespaces instead: `namespaces`")


def warn_unreachable(namespace: str | None, selector: Selector, spot: Spot, findings: Findings) -> None:
    """Warn of a selector that names only namespaces outside the policy's own."""
    if namespace is None or not selector.namespaces or namespace in selector.namespaces:
        return
    message = f"the policy concerns {quote(namespace)} only, which its selector leaves out: it is never in force"
    findings.add("EX406", spot, message, "remove `namespaces` from the selector, or make the policy cluster-wide")
