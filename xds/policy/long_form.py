"""
The long form: a checked shape becomes a `Policy`.

Every mistake of meaning is reported with its place, and reading goes on. Nothing here touches text or
structure. Invariant: the policy that is returned is fit for use only if nothing was reported as an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.policy.actions import ActionReader, check_origination
from xds.policy.destinations import DestinationSet, Kinds
from xds.policy.dns import read_ranges
from xds.policy.findings import quote
from xds.policy.lints import LONG_REMEDIES, Lints
from xds.policy.listeners import read_explicit_port, read_log_path
from xds.policy.model import (
    AlwaysDirect,
    Default,
    Dialect,
    Direct,
    DnsMode,
    Mode,
    Policy,
    Rule,
    UnknownName,
)
from xds.policy.names import check_plain_name, read_policy_name
from xds.policy.pem import read_trusted_ca
from xds.policy.proxies import build_proxies
from xds.policy.scopes import resolve_namespace, warn_unknown_labels, warn_unreachable
from xds.policy.selectors import build_selector
from xds.policy.verify import VERIFY, read_verify
from xds.policy.yaml_lines import Fields, Scalar, at

if TYPE_CHECKING:
    from xds.policy.documents import LongShape, RuleShape, SpecShape, ToShape
    from xds.policy.findings import Findings
    from xds.policy.model import Network
    from xds.policy.scopes import Origin
    from xds.policy.yaml_lines import Node


def build_long(shape: LongShape, node: Fields, root: Fields, origin: Origin, findings: Findings) -> Policy:
    """
    Return the policy that `shape` describes.

    `node` is the tree that the shape was read from, `root` the whole document with whatever was wrong
    with it, and `origin` what the source says of it.
    """
    metadata, spec = shape.metadata, shape.spec
    spec_node = at(node, "spec")
    scope = resolve_namespace(origin.namespace, metadata.namespace, at(node, "metadata", "namespace"), findings)
    selector = build_selector(spec.selector, at(spec_node, "selector"), findings)
    warn_unreachable(scope, selector, at(spec_node, "selector", "namespaces"), findings)
    warn_unknown_labels(origin, selector, at(spec_node, "selector", "namespaceLabels"), findings)
    actions = ActionReader(_proxy_names(root), findings)
    default = _build_default(spec, spec_node, actions)
    mode = Mode(spec.mode)
    explicit_port = read_explicit_port(spec.explicit, mode, at(spec_node, "explicit", "port"), findings)
    return Policy(
        name=read_policy_name(metadata.name, at(node, "metadata", "name"), findings),
        namespace=scope,
        priority=spec.priority,
        selector=selector,
        proxies=build_proxies(
            spec.proxies, at(spec_node, "proxies"), findings, explicit_port=explicit_port, secrets=origin.secrets
        ),
        rules=_build_rules(spec, spec_node, actions, findings),
        default=default,
        dialect=Dialect(spec.dialect or "go"),
        dns_mode=DnsMode(spec.dns.mode),
        synthetic_ranges=read_ranges(spec.dns, at(spec_node, "dns"), findings),
        server_first_ports=tuple(sorted(set(spec.server_first_ports))),
        always_direct=AlwaysDirect(
            loopback=spec.always_direct.loopback,
            link_local=spec.always_direct.link_local,
            cluster_local=spec.always_direct.cluster_local,
            cluster_networks=spec.always_direct.cluster_networks,
        ),
        access_log=read_log_path(spec.access_log, at(spec_node, "accessLog", "path"), findings),
        explicit_port=explicit_port,
        mode=mode,
        trusted_ca=read_trusted_ca(spec.trusted_ca, at(spec_node, "trustedCA"), findings),
        created=origin.created,
        where=findings.where(root),
    )


def _proxy_names(root: Fields) -> tuple[str, ...]:
    """Return the proxies that the document names, usable or not: a rule that refers to one is not at fault."""
    proxies = at(root, "spec", "proxies")
    return tuple(sorted(proxies.fields)) if isinstance(proxies, Fields) and proxies.key == "spec.proxies" else ()


def _build_default(spec: SpecShape, node: Node, actions: ActionReader) -> Default:
    action, http_action = actions.read_both(spec.default, at(node, "default"))
    check_origination(http_action, (), at(node, "default", "http", "originateTLS"), actions.findings)
    return Default(action=action, http_action=http_action, on_unknown_name=UnknownName(spec.default.on_unknown_name))


def _build_rules(spec: SpecShape, node: Node, actions: ActionReader, findings: Findings) -> tuple[Rule, ...]:
    lints = Lints(LONG_REMEDIES)
    dialect = Dialect(spec.dialect or "go")
    rules: list[Rule] = []
    lines: dict[str, int] = {}
    for index, shape in enumerate(spec.rules):
        rule_node = at(node, "rules", index)
        name = _rule_name(shape, index, lines, rule_node, findings)
        mark = len(findings)
        action, http_action = actions.read_both(shape, rule_node)
        is_direct = Direct() in (action, http_action)
        collected = DestinationSet(
            dialect,
            findings,
            lints,
            is_direct=is_direct,
            ports=shape.to.ports,
            server_first_ports=spec.server_first_ports,
            has_addresses=DnsMode(spec.dns.mode) is DnsMode.CAPTURE,
        )
        _collect(collected, shape.to, at(rule_node, "to"), findings)
        destinations = collected.build()
        check_origination(http_action, destinations, at(rule_node, "http", "originateTLS"), findings)
        verify: tuple[Network, ...] = ()
        if not findings.has_errors(mark):
            verify = read_verify(VERIFY, shape.verify, destinations, rule_node, findings, is_direct=is_direct)
        if destinations:
            where = findings.where(rule_node)
            rules.append(
                Rule(
                    name=name,
                    destinations=destinations,
                    action=action,
                    http_action=http_action,
                    verify=verify,
                    where=where,
                )
            )
    lints.report(findings, dialect, is_dialect_given=spec.dialect is not None)
    return tuple(rules)


def _rule_name(shape: RuleShape, index: int, lines: dict[str, int], node: Node, findings: Findings) -> str:
    name = f"rule-{index + 1}" if shape.name is None else shape.name
    spot = at(node, "name")
    if shape.name is not None:
        check_plain_name(name, "the rule's name", spot, findings)
    if name in lines:
        message = f"another rule is called {quote(name)}, on line {lines[name]}"
        findings.add("EX403", spot, message, "give each rule a name of its own")
    lines.setdefault(name, node.line)
    return name


def _collect(collected: DestinationSet, to: ToShape, node: Node, findings: Findings) -> None:
    for part, texts, kinds in (("domains", to.domains, Kinds.NAMES), ("cidrs", to.cidrs, Kinds.NETWORKS)):
        for index, text in enumerate(texts):
            item = at(node, part, index)
            assert isinstance(item, Scalar), "the shape has a text here"
            collected.add_text(text, item, kinds)
    for index, tcp in enumerate(to.tcp):
        collected.add_address(tcp.host, tcp.ports, at(node, "tcp", index, "host"))
    if to.domains or to.cidrs or to.tcp:
        return
    if to.ports:
        collected.add_any_host()
    elif isinstance(node, Fields) and not node.is_cut:
        findings.add("EX209", node, "the rule matches nothing", "give `domains`, `cidrs`, `tcp` or `ports` under `to`")
