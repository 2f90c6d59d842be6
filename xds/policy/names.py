"""
Names of policies, proxies and rules, and what Kubernetes takes for a name or a label.

The patterns are Kubernetes' own (apimachinery, `validation.IsDNS1123Subdomain`, `IsDNS1123Label`,
`IsQualifiedName`, `IsValidLabelValue`). Nothing here looks at what a name refers to.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xds.policy.findings import quote

if TYPE_CHECKING:
    from xds.policy.findings import Findings, Spot

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
CONFIG_MAP = "configmap/"
"""Begins the source of a document in a ConfigMap: `configmap/<namespace>/<name>/<key>`."""
_NOT_IN_NAMES = re.compile(r"[^a-z0-9.-]+")


def read_policy_name(name: str, spot: Spot, findings: Findings) -> str:
    """Return the name of a policy; one that is not valid is reported, and that of the source stands in."""
    mark = len(findings)
    check_subdomain(name, "the policy's name", spot, findings)
    return name if len(findings) == mark else name_of_source(findings.source)


def is_subdomain(name: str) -> bool:
    """Whether `name` is a DNS-1123 subdomain, as most objects of Kubernetes are named."""
    return _SUBDOMAIN.fullmatch(name) is not None


def check_subdomain(name: str, what: str, spot: Spot, findings: Findings) -> None:
    """Report a name that is no DNS-1123 subdomain."""
    if not is_subdomain(name):
        _report(name, what, spot, findings, "use lower-case letters, digits, `-` and `.`, at most 253")


def check_dns_label(name: str, what: str, spot: Spot, findings: Findings) -> None:
    """Report a name that is no DNS-1123 label."""
    if not _DNS_LABEL.fullmatch(name):
        _report(name, what, spot, findings, "use lower-case letters, digits and `-`, at most 63")


def check_plain_name(name: str, what: str, spot: Spot, findings: Findings) -> None:
    """Report a name that would be hard to write or to read anywhere else: a rule's or a proxy's."""
    if not _LABEL_NAME.fullmatch(name):
        _report(name, what, spot, findings, "use letters, digits, `-`, `_` and `.`, at most 63")


def is_label_key(key: str) -> bool:
    """Whether `key` is a label's key: an optional DNS subdomain and a slash, then a name."""
    prefix, slash, name = key.rpartition("/")
    if slash and not _SUBDOMAIN.fullmatch(prefix):
        return False
    return _LABEL_NAME.fullmatch(name) is not None


def is_label_value(value: str) -> bool:
    """Whether `value` may be a label's value; the empty one may."""
    return not value or _LABEL_NAME.fullmatch(value) is not None


def name_of_source(source: str) -> str:
    """
    Return the name of a policy that gives none: the stem of its file, or the name of its ConfigMap.

    Of a ConfigMap with several keys it is followed by that of the key, unless that says nothing new. Empty if nothing
    of it can be part of a name.
    """
    path = PurePosixPath(source)
    stem = path.stem.lower()
    if source.startswith(CONFIG_MAP):
        stem = path.parent.name if stem in {"policy", path.parent.name} else f"{path.parent.name}.{stem}"
    return ".".join(part.strip("-") for part in _NOT_IN_NAMES.sub("-", stem).split(".") if part.strip("-"))[:253]


def _report(name: str, what: str, spot: Spot, findings: Findings, hint: str) -> None:
    message = f"{what} is {quote(name)}, which is not a valid name" if name else f"{what} is empty"
    findings.add("EX401", spot, message, hint)
