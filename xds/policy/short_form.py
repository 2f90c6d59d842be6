"""
The short form: the words of the proxy variables become the same values as the long form.

`httpsProxy` decides TLS and all other TCP, `httpProxy` plain HTTP; neither stands in for the other,
because clients disagree about that (N16). Nothing here touches text or structure. Invariant: the
policy that is returned is fit for use only if nothing was reported as an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.policy.destinations import DestinationSet, Kinds
from xds.policy.hosts import Problem
from xds.policy.lints import SHORT_REMEDIES, Lints
from xds.policy.listeners import check_upstream, read_explicit_port
from xds.policy.model import (
    SERVER_FIRST_PORTS,
    Action,
    Default,
    Deny,
    Dialect,
    Direct,
    Endpoint,
    Mode,
    Policy,
    Proxy,
    ProxyTls,
    Rule,
    Tunnel,
)
from xds.policy.names import name_of_source, read_policy_name
from xds.policy.patterns import split_entries
from xds.policy.pem import read_trusted_ca
from xds.policy.proxies import parse_endpoint
from xds.policy.scopes import resolve_namespace
from xds.policy.verify import NO_PROXY_VERIFY, read_verify
from xds.policy.yaml_lines import Fields, Scalar, at

if TYPE_CHECKING:
    from xds.policy.documents import ShortShape
    from xds.policy.findings import Findings
    from xds.policy.model import Network
    from xds.policy.scopes import Origin
    from xds.policy.yaml_lines import Node

NO_PROXY_RULE = "no-proxy"
"""The name of the rule that `noProxy` becomes."""

_WORDS: dict[str, Action] = {"direct": Direct(), "deny": Deny()}


def build_short(shape: ShortShape, node: Fields, root: Fields, origin: Origin, findings: Findings) -> Policy:
    """
    Return the policy that `shape` describes.

    `node` is the tree that the shape was read from, `root` the whole document with whatever was wrong
    with it, and `origin` what the source says of it.
    """
    _check_both(root, findings)
    mode = Mode(shape.mode)
    explicit_port = read_explicit_port(shape.explicit, mode, at(node, "explicit", "port"), findings)
    https = _read_target(shape.https_proxy, explicit_port, at(node, "httpsProxy"), findings)
    http = _read_target(shape.http_proxy, explicit_port, at(node, "httpProxy"), findings)
    trusted_ca = read_trusted_ca(shape.trusted_ca, at(node, "trustedCA"), findings)
    names = ("proxy", "proxy") if https == http else ("https-proxy", "http-proxy")
    return Policy(
        name=_policy_name(shape, node, findings),
        namespace=resolve_namespace(origin.namespace, shape.namespace, at(node, "namespace"), findings),
        proxies=_build_proxies(dict(zip(names, (https, http), strict=True)), trusted_ca, node, findings),
        rules=_build_rules(shape, node, findings),
        default=Default(action=_action(https, names[0]), http_action=_action(http, names[1])),
        dialect=Dialect(shape.dialect or "go"),
        explicit_port=explicit_port,
        mode=mode,
        trusted_ca=trusted_ca,
        created=origin.created,
        where=findings.where(root),
    )


def _check_both(root: Fields, findings: Findings) -> None:
    for key in ("httpProxy", "httpsProxy"):
        if key not in root.fields:
            message = f"`{key}` is missing, and what its traffic gets then differs from client to client"
            findings.add(
                "EX306", Fields(key, root.line), message, f"write `{key}:` with a URL, or with `direct` or `deny`"
            )


def _policy_name(shape: ShortShape, node: Fields, findings: Findings) -> str:
    if shape.name is not None:
        return read_policy_name(shape.name, at(node, "name"), findings)
    name = name_of_source(findings.source)
    if not name:
        findings.add(
            "EX401", Fields("name", node.line), "the policy has no name, and its source gives none", "add `name`"
        )
    return name


def _read_target(text: str, explicit_port: int | None, node: Node, findings: Findings) -> Action | Endpoint:
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    endpoint = parse_endpoint(text)
    if not isinstance(endpoint, Problem):
        endpoint = check_upstream(endpoint, explicit_port) or endpoint
    if isinstance(endpoint, Problem):
        findings.add(endpoint.code, node, endpoint.message, f"{endpoint.hint}; or write `direct` or `deny`")
        return Deny()
    return endpoint


def _action(target: Action | Endpoint, name: str) -> Action:
    return Tunnel(name) if isinstance(target, Endpoint) else target


def _build_proxies(
    targets: dict[str, Action | Endpoint], trusted_ca: str | None, node: Fields, findings: Findings
) -> tuple[Proxy, ...]:
    endpoints = {name: target for name, target in targets.items() if isinstance(target, Endpoint)}
    trusted = ProxyTls(ca_pem=trusted_ca)
    return tuple(
        Proxy(
            name=name,
            endpoints=(endpoint,),
            tls=trusted if endpoint.tls else ProxyTls(),
            where=findings.where(at(node, "httpProxy" if name == "http-proxy" else "httpsProxy")),
        )
        for name, endpoint in sorted(endpoints.items())
    )


def _build_rules(shape: ShortShape, node: Fields, findings: Findings) -> tuple[Rule, ...]:
    lints = Lints(SHORT_REMEDIES)
    dialect = Dialect(shape.dialect or "go")
    collected = DestinationSet(dialect, findings, lints, is_direct=True, server_first_ports=SERVER_FIRST_PORTS)
    no_proxy, mark = at(node, "noProxy"), len(findings)
    for index, text in enumerate(shape.no_proxy):
        item = at(no_proxy, index)
        assert isinstance(item, Scalar), "the shape has a text here"
        for entry in split_entries(text):
            collected.add_text(entry, item, Kinds.BOTH)
    lints.report(findings, dialect, is_dialect_given=shape.dialect is not None)
    destinations = collected.build()
    verify: tuple[Network, ...] = ()
    if not findings.has_errors(mark):
        verify = read_verify(NO_PROXY_VERIFY, shape.no_proxy_verify, destinations, node, findings, is_direct=True)
    if not destinations:
        return ()
    return (
        Rule(
            name=NO_PROXY_RULE,
            destinations=destinations,
            action=Direct(),
            http_action=Direct(),
            verify=verify,
            where=findings.where(no_proxy),
        ),
    )
