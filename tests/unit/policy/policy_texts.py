"""Documents that the policy tests begin from, and short ways to read them. No test is here."""

from __future__ import annotations

import base64
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING

from xds.diagnostics import Where
from xds.policy.parse import Document, ParseResult, parse_document

if TYPE_CHECKING:
    from xds.diagnostics import Diagnostic
    from xds.policy.model import Policy

NOWHERE = Where("")

PROXY = "{endpoints: [{url: 'http://proxy.corp.example:3128'}]}"

_BODY = base64.b64encode(b"what a certificate would be, were it one" * 2).decode()
PEM = f"-----BEGIN CERTIFICATE-----\n{_BODY[:64]}\n{_BODY[64:]}\n-----END CERTIFICATE-----\n"


def long_form(spec: str, metadata: str = "{name: default}") -> str:
    """Return a document in the long form around the text of its spec. The spec begins on line 5."""
    body = textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ")
    return f"apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {metadata}\nspec:\n{body}\n"


FULL = long_form(
    """
    selector:
      namespaces: [team-b, team-a]
      podLabels:
        matchLabels: {app: web}
        matchExpressions:
          - {key: example.com/tier, operator: NotIn, values: [b, a]}
          - {key: app, operator: In, values: [web]}
          - {key: old, operator: DoesNotExist}
      serviceAccounts: [web]
    priority: 7
    proxies:
      corp: {endpoints: [{url: "http://proxy.corp.example:3128"}], connectPorts: [2525, 443, 443]}
    rules:
      - {to: {domains: [a.example]}, action: direct, http: {action: deny}}
      - {name: db, action: tunnel, to: {tcp: [{host: 192.0.2.7, ports: [5432, 5433]}, {host: 2001:db8::/32}]}}
    default: {action: deny, http: {action: tunnel}, onUnknownName: deny}
    dns: {mode: off, syntheticRange: [198.18.0.0/15, "fd00::/64"]}
    dialect: node
    serverFirstPorts: [25, 22, 25]
    alwaysDirect: {loopback: true, linkLocal: false, clusterLocal: false, clusterNetworks: false}
    """,
    "{name: full, namespace: team-a}",
)
"""Every key of the long form that means something outside Kubernetes."""


def rules(*lines: str, dialect: str | None = "go", extra: str = "") -> str:
    """Return a document with the proxy `corp`, a default that tunnels, and rules in flow style, from line 8 on."""
    says = "" if dialect is None else f"dialect: {dialect}"
    body = "\n".join(f"  - {line}" for line in lines)
    return long_form(
        f"proxies: {{corp: {PROXY}}}\ndefault: {{action: tunnel}}\n"
        + (f"rules:\n{body}\n" if lines else "rules: []\n")
        + f"{says}\n{extra}"
    )


def to_rule(to: str, action: str = "direct", dialect: str | None = "go", extra: str = "") -> str:
    """Return a document with one rule, called `it`."""
    return rules(f"{{name: it, action: {action}, to: {to}}}", dialect=dialect, extra=extra)


def parse(
    text: str,
    source: str = "corp.yaml",
    namespace: str | None = None,
    *,
    secrets: str | None = None,
    created: str = "",
) -> ParseResult:
    """Parse one text."""
    return parse_document(Document(source, text, namespace, secrets=secrets, created=created))


def good(
    text: str,
    source: str = "corp.yaml",
    namespace: str | None = None,
    *,
    secrets: str | None = None,
    created: str = "",
) -> Policy:
    """Parse a text that holds one good policy."""
    result = parse(text, source, namespace, secrets=secrets, created=created)
    assert result.is_good, result.diagnostics
    (policy,) = result.policies
    return policy


def codes(result: ParseResult) -> list[str]:
    """Return the codes of all that was found."""
    return [item.code for item in result.diagnostics]


def only(result: ParseResult) -> Diagnostic:
    """Return the one finding there is."""
    assert len(result.diagnostics) == 1, result.diagnostics
    return result.diagnostics[0]


def without_places(policy: Policy) -> Policy:
    """Return what a policy means, wherever it was written."""
    return replace(
        policy,
        where=NOWHERE,
        proxies=tuple(replace(proxy, where=NOWHERE) for proxy in policy.proxies),
        rules=tuple(replace(rule, where=NOWHERE) for rule in policy.rules),
    )
