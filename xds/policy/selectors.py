"""
Selectors: which pods a policy is for, validated as Kubernetes validates them.

Who is selected is `selection`'s business. Invariant: equal requirements give equal values, whatever
their order and whether they were written as `matchLabels` or as `In` with one value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.model import LabelRequirement, Operator, Selector
from xds.policy.names import check_dns_label, check_subdomain, is_label_key, is_label_value
from xds.policy.yaml_lines import at

if TYPE_CHECKING:
    from xds.policy.documents import ExpressionShape, LabelsShape, SelectorShape
    from xds.policy.findings import Findings
    from xds.policy.yaml_lines import Node

_LABEL_HINT = "a label is letters, digits, `-`, `_` and `.`, at most 63; its key may have a DNS prefix before a `/`"


def build_selector(shape: SelectorShape, node: Node, findings: Findings) -> Selector:
    """Return the selector at `node`."""
    for index, name in enumerate(shape.namespaces):
        check_dns_label(name, "a namespace", at(node, "namespaces", index), findings)
    for index, name in enumerate(shape.service_accounts):
        check_subdomain(name, "a service account", at(node, "serviceAccounts", index), findings)
    return Selector(
        namespaces=tuple(sorted(set(shape.namespaces))),
        namespace_labels=_build_labels(shape.namespace_labels, at(node, "namespaceLabels"), findings),
        labels=_build_labels(shape.pod_labels, at(node, "podLabels"), findings),
        service_accounts=tuple(sorted(set(shape.service_accounts))),
    )


def _build_labels(shape: LabelsShape, node: Node, findings: Findings) -> tuple[LabelRequirement, ...]:
    found = set()
    for key, value in shape.match_labels.items():
        _check_label(key, (value,), at(node, "matchLabels", key), findings)
        found.add(LabelRequirement(key=key, operator=Operator.IN, values=(value,)))
    for index, expression in enumerate(shape.match_expressions):
        found.add(_build_requirement(expression, at(node, "matchExpressions", index), findings))
    return tuple(sorted(found, key=lambda item: (item.key, item.operator.value, item.values)))


def _build_requirement(shape: ExpressionShape, node: Node, findings: Findings) -> LabelRequirement:
    _check_label(shape.key, tuple(shape.values), node, findings)
    operator = Operator(shape.operator)
    wants_values = operator in (Operator.IN, Operator.NOT_IN)
    if wants_values and not shape.values:
        message = f"{quote(shape.operator)} needs at least one value"
        findings.add("EX402", node, message, "add `values`, or use `Exists` or `DoesNotExist`")
    if not wants_values and shape.values:
        message = f"{quote(shape.operator)} takes no values"
        findings.add("EX402", at(node, "values"), message, "remove `values`, or use `In` or `NotIn`")
    return LabelRequirement(key=shape.key, operator=operator, values=tuple(sorted(set(shape.values))))


def _check_label(key: str, values: tuple[str, ...], node: Node, findings: Findings) -> None:
    if not is_label_key(key):
        findings.add("EX402", node, f"{quote(key)} is not the key of a label", _LABEL_HINT)
    for value in values:
        if not is_label_value(value):
            findings.add("EX402", node, f"{quote(value)} is not the value of a label", _LABEL_HINT)
