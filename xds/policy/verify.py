"""
Verification of a bypass by name: the networks in which the named hosts must be, or that clients are believed (N20).

A name is what the client claims, and a direct connection goes where the client dialled. Nothing here looks anything
up. Invariant: networks are given only for rules that send names direct.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.hosts import Problem, parse_network
from xds.policy.model import DomainPattern
from xds.policy.yaml_lines import at

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from xds.policy.findings import Findings
    from xds.policy.model import Destination, Network
    from xds.policy.yaml_lines import Node

_BELIEVE = "none"


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """The words of one form of policies: its key, where the names are, and how to write a bypass by name."""

    key: str
    names: tuple[str, ...]
    needs: str


VERIFY = VerifyKey("verify", ("to", "domains"), "write `action: direct` and `domains`")
NO_PROXY_VERIFY = VerifyKey("noProxyVerify", ("noProxy",), "put names into `noProxy`")


def read_verify(
    key: VerifyKey,
    texts: Sequence[str] | None,
    destinations: Collection[Destination],
    node: Node,
    findings: Findings,
    *,
    is_direct: bool,
) -> tuple[Network, ...]:
    """
    Return the networks that names must be in, as few and sorted; none if the client is believed.

    `node` is the one that has the key, or could have it.
    """
    spot = at(node, key.key)
    names = [item.host for item in destinations if isinstance(item.host, DomainPattern)]
    if not names or not is_direct:
        if texts is not None:
            message = f"`{key.key}` is for names that go direct, and there are none"
            findings.add("EX226", spot, message, f"remove it, or {key.needs}")
        return ()
    if texts is None:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        message = f"{quote(names[0].name)}{more}: any address is reached directly by whoever claims such a name"
        hint = (
            f"write `{key.key}:` with the networks of these hosts, or `{key.key}: {_BELIEVE}` to believe every client"
        )
        findings.add("EX227", at(node, *key.names), message, hint)
        return ()
    if list(texts) == [_BELIEVE]:
        return ()
    return _read_networks(key, texts, spot, findings)


def _read_networks(key: VerifyKey, texts: Sequence[str], node: Node, findings: Findings) -> tuple[Network, ...]:
    found: list[Network] = []
    for index, text in enumerate(texts):
        network = parse_network(text.strip())
        if text.strip() == _BELIEVE:
            message = f"{quote(text)} beside networks: names are verified or they are not"
            findings.add("EX226", at(node, index), message, f"write `{key.key}: {_BELIEVE}` alone, or networks alone")
        elif isinstance(network, Problem):
            findings.add(network.code, at(node, index), f"{quote(text)}: {network.message}", network.hint)
        elif network.prefixlen == 0:
            message = f"{quote(text)} is every address, which verifies nothing"
            hint = f"name the networks of these hosts, or write `{key.key}: {_BELIEVE}`"
            findings.add("EX226", at(node, index), message, hint)
        else:
            found.append(network)
    of_v4 = collapse_addresses(item for item in found if isinstance(item, IPv4Network))
    of_v6 = collapse_addresses(item for item in found if isinstance(item, IPv6Network))
    return (*of_v4, *of_v6)
