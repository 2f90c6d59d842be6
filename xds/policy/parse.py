"""
Parsing: the text of one source becomes policies, or diagnostics and what little is known of its claims.

`parse_document` never raises, whatever the text. It reads no file and holds no state. Invariant: a
source is good or bad as a whole; from a bad one no policy comes, only one `HeldPolicy` per document in
it, so that the pods it claims are not handed to a policy of lower rank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from xds.diagnostics import Diagnostic, Where
from xds.policy.documents import API_VERSION, KIND, LongShape, ShortShape
from xds.policy.findings import Findings, quote, sort_diagnostics
from xds.policy.long_form import build_long
from xds.policy.long_lints import lint_long
from xds.policy.model import HeldPolicy, Policy
from xds.policy.names import name_of_source
from xds.policy.scopes import Origin
from xds.policy.short_form import build_short
from xds.policy.structure import is_like, read_shape
from xds.policy.yaml_lines import Broken, Fields, Limits, Scalar, at, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.policy.yaml_lines import Node

LONG_KEYS = ("apiVersion", "kind", "metadata", "spec")
SHORT_KEYS = ("httpProxy", "httpsProxy", "noProxy", "trustedCA")

MAX_LENGTH_OF_ONE_NAMESPACE = 256 * 1024
"""Characters of one source that concerns one namespace: the others wait while it is parsed and compiled."""

MAX_VALUES_OF_ONE_NAMESPACE = MAX_LENGTH_OF_ONE_NAMESPACE // 4
"""Keys and values of one such source, with what aliases repeat."""

MAX_POLICIES_OF_ONE_NAMESPACE = 20
"""Policies in one such source."""

MAX_PORTS_OF_ONE_NAMESPACE = 500
"""Ports that the rules and proxies of one policy of such a source name: every one has a matching tree of its own."""

MAX_PAIRS_OF_ONE_NAMESPACE = 50_000
"""Hosts and networks of a rule times its ports, summed: a policy holds each pair."""

MAX_SHOWN = 1000
"""Findings of one source that are told: nobody reads more, and each is logged and counted."""

MAX_SHOWN_OF_ONE_NAMESPACE = 200
"""Those of a source that concerns one namespace: its author is not the one whose logs they fill."""

_MAX_KEPT_OF_ONE_NAMESPACE = 1000
"""Errors, and warnings, of such a source that are kept until those to tell are chosen."""

_LIMITS_OF_ONE_NAMESPACE = Limits(length=MAX_LENGTH_OF_ONE_NAMESPACE, values=MAX_VALUES_OF_ONE_NAMESPACE)

_MAX_COMPARED = 64
"""Keys of a document that are compared with those of a policy: one that is meant as such has a tenth of them."""

_CLAIMS = re.compile(r"(?:|spec|metadata|(?:metadata\.namespace|namespace|spec\.selector|spec\.priority)(?:[.\[].*)?)")
"""Keys that a mistake makes it unknown which pods the document is for."""

_NAME_KEYS = ("name", "metadata.name")
_TOP_LEVEL = re.compile(r"(?:(?:spec|metadata)\.)?[^.\[]*|(?:spec|metadata)?\[.*\]", re.DOTALL)
"""Keys beside those: an unknown one may be any of them, misspelt."""


@dataclass(frozen=True, slots=True)
class Document:
    """
    The text of one source.

    `source` names it in diagnostics. `namespace` is the one that it stands in: its policies concern only
    that; None lets the text say, and is cluster-wide if it does not.
    """

    source: str
    text: str
    namespace: str | None = None
    secrets: str | None = None
    """
    The namespace whose Secrets, and no other's, its policies may name by `secretRef`. None: outside Kubernetes, where
    they name files instead.
    """
    refused: str = ""
    """Why the text is not even looked at; empty: it is."""
    created: str = ""
    """When it was made (RFC 3339 in UTC, as the API server tells it); empty sorts first, as the oldest."""


@dataclass(frozen=True, slots=True)
class ParseResult:
    """What one source holds: `policies` if it is good, else `held`; and all that was found, sorted by line."""

    policies: tuple[Policy, ...]
    held: tuple[HeldPolicy, ...]
    diagnostics: tuple[Diagnostic, ...]
    namespace: str | None = None
    """The one that the document stands in; None: its author speaks for the whole cluster."""

    @property
    def is_good(self) -> bool:
        """Whether nothing keeps the source out of force."""
        return not any(item.is_error for item in self.diagnostics)


def parse_document(document: Document) -> ParseResult:
    """Read all the policies of one source. Any exception is a bug."""
    findings = Findings(document.source, None if document.namespace is None else _MAX_KEPT_OF_ONE_NAMESPACE)
    policies: list[Policy] = []
    held: list[HeldPolicy] = []
    first: dict[tuple[str | None, str], Where] = {}
    mark = 0
    if document.refused:
        claim = _refuse_unread(document, findings)
        return ParseResult((), (claim,), _show(findings), document.namespace)
    limits = None if document.namespace is None else _LIMITS_OF_ONE_NAMESPACE
    for node in read_yaml(document.text, findings, limits):
        if document.namespace is not None and len(held) == MAX_POLICIES_OF_ONE_NAMESPACE:
            held.append(_refuse_more(node, document, findings))
            break
        policy = _read_policy(node, document, findings, mark)
        known = None if findings.has_lost_errors(mark) else policy
        held.append(_hold(known, node, document, findings.since(mark)))
        if policy is not None and not held[-1].is_unreadable:
            _check_new(policy, first.setdefault((policy.namespace, policy.name), policy.where), node, findings)
            policies.append(policy)
        mark = len(findings)
    if not held:
        held.append(_refuse_empty(document, findings))
    shown = _show(findings, MAX_SHOWN if document.namespace is None else MAX_SHOWN_OF_ONE_NAMESPACE)
    result = ParseResult(tuple(policies), (), shown, document.namespace)
    return result if result.is_good else replace(result, policies=(), held=tuple(held))


def _refuse_unread(document: Document, findings: Findings) -> HeldPolicy:
    """Report a source whose text was not read, and return its claim: it may have concerned anybody in its scope."""
    nothing = Broken("", 1)
    findings.add("EX103", nothing, document.refused, "join policies, or remove what is not needed")
    return _hold(None, nothing, document, ())


def _refuse_more(node: Node | Broken, document: Document, findings: Findings) -> HeldPolicy:
    """Report more policies than one namespace may have in one source, and return the claim of all that follow."""
    message = f"the text holds more than {MAX_POLICIES_OF_ONE_NAMESPACE} policies"
    findings.add("EX103", node, message, "split it, or join policies")
    return _hold(None, node, document, ())


def _show(findings: Findings, most: int = MAX_SHOWN) -> tuple[Diagnostic, ...]:
    """Return what was found, sorted; of more than `most` the errors, of these the first, and how many there are."""
    found = findings.since(0)
    if len(findings) <= most:
        return sort_diagnostics(found)
    shown = sort_diagnostics(tuple(item for item in found if item.is_error) or found)[:most]
    where = replace(shown[-1].where, key="")
    message = f"{len(findings) - len(shown)} more findings are not shown"
    return (*shown, Diagnostic("EX113", where, message, "correct these first"))


def _refuse_empty(document: Document, findings: Findings) -> HeldPolicy:
    """
    Report a source without a single document, and return its claim: it may have concerned anybody.

    It is not taken for a withdrawal, because editors and failing disks truncate files.
    """
    nothing = Broken("", 1)
    hint = "delete the file to withdraw the policy, or restore its text"
    findings.add("EX112", nothing, "the document is empty, or holds nothing but comments", hint)
    return _hold(None, nothing, document, ())


def check_names(results: Mapping[str, ParseResult]) -> tuple[Diagnostic, ...]:
    """
    Report every policy whose namespace and name another source has too.

    It is reported at the later source by name, but at one that is bad anyway before one that is good, and at one that
    stands in a namespace before one that speaks for the cluster: nobody makes another's document bad by taking a name.
    """
    first: dict[tuple[str | None, str], Where] = {}
    found: list[Diagnostic] = []
    for source in sorted(results, key=lambda item: _precedence(item, results[item])):
        for item in _named(results[source]):
            earlier = first.setdefault((item.namespace, item.name), item.where)
            if earlier.source != item.where.source:
                found.append(_twice(item, earlier))
    return tuple(found)


def _precedence(source: str, result: ParseResult) -> tuple[bool, bool, str]:
    return not result.is_good, result.namespace is not None, source


def _named(result: ParseResult) -> Iterable[Policy | HeldPolicy]:
    """Return what has a name of its own: not what is called after its source for want of a better name."""
    yield from result.policies
    if not any(item.code == "EX401" and item.where.key in _NAME_KEYS for item in result.diagnostics):
        yield from (held for held in result.held if not held.is_unreadable)


def _twice(item: Policy | HeldPolicy, earlier: Where) -> Diagnostic:
    scope = "cluster-wide" if item.namespace is None else f"in the namespace {quote(item.namespace)}"
    message = f"the policy {quote(item.name)} exists twice {scope}: in {earlier} and in {item.where}"
    return Diagnostic("EX405", item.where, message, "rename or remove one of the two")


def _check_new(policy: Policy, first: Where, node: Node | Broken, findings: Findings) -> None:
    if first is not policy.where:
        found = _twice(policy, first)
        where = replace(findings.where(node), key="name" if "name" in _fields(node) else "metadata.name")
        findings.add_at(found.code, where, found.message, "give each a name of its own")


def _fields(node: Node | Broken) -> Mapping[str, Node]:
    return node.fields if isinstance(node, Fields) else {}


def _read_policy(node: Node | Broken, document: Document, findings: Findings, mark: int) -> Policy | None:
    """Return the policy in `node`; it is fit for use only if no error was found."""
    if isinstance(node, Broken) or not _is_policy(node, findings):
        return None
    assert isinstance(node, Fields)
    if _is_long(node):
        return _read_long(node, document, findings, mark)
    read = read_shape(ShortShape, node, findings)
    policy = None if read is None else build_short(*read, node, _origin(document), findings)
    if policy is not None and document.namespace is not None:
        _check_ports(policy, at(node, "noProxy"), "noProxy", findings)
    return policy


def _read_long(node: Fields, document: Document, findings: Findings, mark: int) -> Policy | None:
    if not _check_version(node, findings):
        return None
    read = read_shape(LongShape, node, findings)
    if read is None:
        return None
    shape, checked = read
    if document.namespace is not None:
        shape = _without_many_ports(shape, node, findings)
    policy = build_long(shape, checked, node, _origin(document), findings)
    if not findings.has_errors(mark):
        lint_long(policy, node, findings)
    if document.namespace is not None:
        _check_ports(policy, at(node, "spec", "rules"), "spec.rules", findings)
    return policy


def _without_many_ports(shape: LongShape, node: Node, findings: Findings) -> LongShape:
    """Return `shape` without its rules if what they would become is too large to be built for one namespace."""
    spec = shape.spec
    ports = [{*rule.to.ports, *(port for tcp in rule.to.tcp for port in tcp.ports)} for rule in spec.rules]
    hosts = [len(rule.to.domains) + len(rule.to.cidrs) + len(rule.to.tcp) for rule in spec.rules]
    count = len(set(spec.server_first_ports)) + sum(map(len, ports))
    pairs = sum(len(set(rule.to.ports)) * number for rule, number in zip(spec.rules, hosts, strict=True))
    if count > MAX_PORTS_OF_ONE_NAMESPACE:
        message = f"rules name {count} ports, more than {MAX_PORTS_OF_ONE_NAMESPACE}"
    elif pairs > MAX_PAIRS_OF_ONE_NAMESPACE:
        message = f"rules name {pairs} pairs of a host and a port, more than {MAX_PAIRS_OF_ONE_NAMESPACE}"
    else:
        return shape
    where = replace(findings.where(at(node, "spec", "rules")), key="spec.rules")
    findings.add_at("EX103", where, message, "join rules, or leave ports out")
    return shape.model_copy(update={"spec": spec.model_copy(update={"rules": [], "server_first_ports": []})})


def _check_ports(policy: Policy, node: Node, key: str, findings: Findings) -> None:
    """Report more ports than one namespace may name; `key` says where, since the claims can be read all the same."""
    sets = [{port for item in rule.destinations for port in item.ports} for rule in policy.rules]
    sets += [set(proxy.connect_ports or ()) for proxy in policy.proxies]
    count = len(policy.server_first_ports) + sum(map(len, sets))
    if count > MAX_PORTS_OF_ONE_NAMESPACE:
        message = f"rules and proxies name {count} ports, more than {MAX_PORTS_OF_ONE_NAMESPACE}"
        findings.add_at("EX103", replace(findings.where(node), key=key), message, "join rules, or leave ports out")


def _origin(document: Document) -> Origin:
    return Origin(document.namespace, document.secrets, document.created)


def _is_policy(node: Node, findings: Findings) -> bool:
    """Whether `node` is meant as a policy in one of the forms; if not, say so."""
    if not isinstance(node, Fields):
        findings.add("EX104", node, "this is not a mapping", "a policy begins with `apiVersion:` or `httpProxy:`")
        return False
    long_keys = [key for key in node.fields if key in LONG_KEYS]
    short_keys = [key for key in node.fields if key in SHORT_KEYS]
    if long_keys and short_keys:
        message = f"{quote(short_keys[0])} is of the short form, {quote(long_keys[0])} of the long form"
        findings.add("EX111", at(node, short_keys[0]), message, "write each policy in one form")
        return False
    keys = islice(node.fields, _MAX_COMPARED)
    if long_keys or short_keys or any(is_like(key, LONG_KEYS + SHORT_KEYS) for key in keys):
        return True
    findings.add("EX104", node, "this is not a policy", "a policy begins with `apiVersion:` or `httpProxy:`")
    return False


def _is_long(node: Fields) -> bool:
    if any(key in LONG_KEYS for key in node.fields):
        return True
    if any(key in SHORT_KEYS for key in node.fields):
        return False
    return not any(is_like(key, SHORT_KEYS) for key in islice(node.fields, _MAX_COMPARED))


def _check_version(node: Fields, findings: Findings) -> bool:
    """Whether the document is of this kind and version; of another one nothing can be said."""
    mark = len(findings)
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        found = node.fields.get(key)
        if isinstance(found, Scalar) and found.text != expected:
            message = f"{quote(key)} is {quote(found.text)}, which is not served here"
            findings.add("EX105", found, message, f"write `{key}: {expected}`, or move the document elsewhere")
    return len(findings) == mark


def _hold(
    policy: Policy | None, node: Node | Broken, document: Document, diagnostics: tuple[Diagnostic, ...]
) -> HeldPolicy:
    """Return what is known of whom the document claims, should its source turn out bad."""
    if policy is None or any(_hides_claims(item) for item in diagnostics):
        where = Where(document.source, node.key, node.line)
        name = policy.name if policy is not None else name_of_source(document.source)
        namespace = document.namespace if policy is None or _is_misplaced(diagnostics) else policy.namespace
        return HeldPolicy(name=name, namespace=namespace, is_unreadable=True, created=document.created, where=where)
    return hold(policy)


def hold(policy: Policy) -> HeldPolicy:
    """Return the claim of a policy that can't be served: its pods are told nothing."""
    return HeldPolicy(
        name=policy.name,
        namespace=policy.namespace,
        priority=policy.priority,
        selector=policy.selector,
        created=policy.created,
        where=policy.where,
    )


def _is_misplaced(diagnostics: tuple[Diagnostic, ...]) -> bool:
    """Whether the namespace that the text gives can't be taken for its scope."""
    return any(item.is_error and item.where.key in ("namespace", "metadata.namespace") for item in diagnostics)


def _hides_claims(item: Diagnostic) -> bool:
    if not item.is_error:
        return False
    key = item.where.key
    if item.code == "EX106" and _TOP_LEVEL.fullmatch(key):
        return True
    if key in _NAME_KEYS:
        # A name that is not valid is a name all the same; one that can't be read is none.
        return item.code not in ("EX401", "EX405")
    return _CLAIMS.fullmatch(key) is not None
