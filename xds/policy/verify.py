"""
Verification of a bypass by name: the networks in which the named hosts must be (N20).

A name is what the client claims, and a direct connection goes where the client dialled. Nothing here looks anything
up. Invariant: networks are given only for rules that send names direct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.hosts import Problem, parse_network
from xds.policy.model import Action, Direct, DomainPattern, Network
from xds.policy.yaml_lines import at

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from xds.policy.findings import Findings
    from xds.policy.model import Destination
    from xds.policy.yaml_lines import Node

_BELIEVE = "none"


def read_verify(
    texts: Sequence[str] | None,
    actions: Collection[Action],
    destinations: Collection[Destination],
    node: Node,
    findings: Findings,
) -> tuple[Network, ...]:
    """Return the networks that `verify` names, sorted; none if the client is believed."""
    if texts is None:
        return ()
    if Direct() not in actions or not any(isinstance(item.host, DomainPattern) for item in destinations):
        message = "`verify` is for names that go direct, and this rule sends none there"
        findings.add("EX226", node, message, "remove it, or write `action: direct` and `domains`")
        return ()
    if list(texts) == [_BELIEVE]:
        return ()
    found: set[Network] = set()
    for index, text in enumerate(texts):
        network = parse_network(text.strip())
        if isinstance(network, Problem):
            findings.add(network.code, at(node, index), f"{quote(text)}: {network.message}", network.hint)
        elif network.prefixlen == 0:
            message = f"{quote(text)} is every address, which verifies nothing"
            findings.add("EX226", at(node, index), message, "name the networks of these hosts, or write `verify: none`")
        else:
            found.add(network)
    return tuple(sorted(found, key=lambda item: (item.version, int(item.network_address), item.prefixlen)))
