"""Imported policies, and what they decide."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tests.support.oracle import Oracle
from xds.explain.connection import Connection, Fate, Protocol
from xds.facts import Facts
from xds.policy.parse import Document, parse_document

if TYPE_CHECKING:
    from xds.importers.imported import Imported, Weight
    from xds.policy.model import Policy

DIRECT = "direct"
DENY = "deny"


def read_policy(imported: Imported, secrets: str | None = None) -> Policy:
    """Return the policy, which its own parser must find good; `secrets` is where those of a cluster are."""
    result = parse_document(Document("imported.yaml", json.dumps(imported.policy, ensure_ascii=False), secrets=secrets))
    assert [str(item) for item in result.diagnostics if item.is_error] == []
    (policy,) = result.policies
    return policy


def decide(policy: Policy, scheme: str, host: str, port: int, address: str = "192.0.2.77") -> str:
    """Return `direct`, `deny`, or the proxies' URLs with spaces between, for a connection as a URL would open it."""
    protocol = Protocol.HTTP_11 if scheme == "http" else Protocol.TLS
    is_address = host.replace(".", "").isdigit()
    connection = Connection(ip_address(host if is_address else address), port, protocol, host)
    outcome = Oracle(policy, Facts()).decide(connection)
    if outcome.fate is Fate.DIRECT:
        return DIRECT
    if outcome.fate.is_refused:
        return DENY
    name = outcome.cluster.removeprefix("proxy/")
    (proxy,) = (item for item in policy.proxies if item.name == name)
    ordered = sorted(proxy.endpoints, key=lambda item: item.priority)
    return " ".join(f"{'https' if item.tls else 'http'}://{item.host}:{item.port}" for item in ordered)


def messages(imported: Imported, *weights: Weight) -> list[str]:
    """Return what was told with one of these weights, each with its place."""
    return [
        f"{change.where.key}: {change.message}"
        for change in imported.changes
        if not weights or change.weight in weights
    ]
