"""
The ranges of addresses that stand for names.

Nothing here gives a name its address. Invariant: with `mode: capture` there is at least one range, and no range
overlaps another or is too small for any name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.hosts import Problem, parse_network
from xds.policy.model import DnsMode
from xds.policy.yaml_lines import at

if TYPE_CHECKING:
    from xds.policy.documents import DnsShape
    from xds.policy.findings import Findings
    from xds.policy.model import Network
    from xds.policy.yaml_lines import Node

_FEWEST_BITS = 2
"""Of the host: one address for names that clients show, one for others, and the two that nobody has."""
_MOST_RANGES = 64
_BOTH_FAMILIES = "`syntheticRange: [198.18.0.0/15, 'fd00:18::/64']`"


def read_ranges(shape: DnsShape, node: Node, findings: Findings) -> tuple[Network, ...]:
    """Return the ranges, sorted."""
    spot = at(node, "syntheticRange")
    if len(shape.synthetic_range) > _MOST_RANGES:
        # Every pair of them is compared.
        message = f"there are {len(shape.synthetic_range)} ranges, more than {_MOST_RANGES}"
        findings.add("EX231", spot, message, "join them, or give one that is larger")
        return ()
    found: dict[Network, Node] = {}
    for index, text in enumerate(shape.synthetic_range):
        network = _read_range(text, at(spot, index), findings)
        if network is not None:
            _check_overlap(network, found, at(spot, index), findings)
            found.setdefault(network, at(spot, index))
    if DnsMode(shape.mode) is DnsMode.CAPTURE:
        _check_capture(found, len(shape.synthetic_range) > 0, node, findings)
    return tuple(sorted(found, key=lambda item: (item.version, int(item.network_address), item.prefixlen)))


def _read_range(text: str, spot: Node, findings: Findings) -> Network | None:
    network = parse_network(text.strip())
    if isinstance(network, Problem):
        findings.add(network.code, spot, f"{quote(text)}: {network.message}", network.hint)
        return None
    if network.prefixlen == 0:
        message = f"{quote(text)} makes every address a synthetic one"
        findings.add("EX205", spot, message, "give a range of your own, e.g. `198.18.0.0/15`")
        return None
    return network


def _check_overlap(network: Network, found: dict[Network, Node], spot: Node, findings: Findings) -> None:
    for other in found:
        if network != other and other.version == network.version and network.overlaps(other):
            findings.add("EX231", spot, f"{network} overlaps {other}", "keep the one that is meant")


def _check_capture(found: dict[Network, Node], is_given: bool, node: Node, findings: Findings) -> None:  # noqa: FBT001 - whether there was anything to read
    for network, spot in found.items():
        if network.max_prefixlen - network.prefixlen < _FEWEST_BITS:
            findings.add("EX231", spot, f"{network} has no room for names", "write e.g. `198.18.0.0/15`")
        elif network.is_loopback or network.is_multicast or network.is_link_local:
            message = f"{network} holds no addresses that a captured connection goes to"
            findings.add("EX231", spot, message, "write e.g. `198.18.0.0/15`")
    families = {network.version for network in found}
    if not is_given:
        findings.add("EX230", node, "`mode: capture` needs addresses that stand for names", f"add {_BOTH_FAMILIES}")
    elif len(families) == 1:
        other = "IPv6" if families == {4} else "IPv4"
        message = f"there is no {other} range, so that names have no {other} address"
        findings.add("EX234", at(node, "syntheticRange"), message, f"write e.g. {_BOTH_FAMILIES}")
