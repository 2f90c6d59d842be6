"""
Decisions that differ between two versions of a policy, for a sample of what they speak of.

The sample is made of the names and networks in the rules of both versions, those of changed rules first, and of a host
and an address that no rule names; of a network both ends are asked for, and where it differs from what it was. Each is
asked of the compiled resources of both versions, as an Envoy would decide.
Invariant: what is told is what those resources do; what is not told may differ all the same, for it was not asked.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, collapse_addresses
from itertools import islice
from typing import TYPE_CHECKING, assert_never

from xds import names
from xds.changes.rules import compare_rules
from xds.explain.connection import Connection, Fate, Protocol
from xds.explain.unknown import UnknownConfigurationError
from xds.explain.walk import Envoy
from xds.policy.model import DomainPattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xds.explain.connection import Address, Outcome
    from xds.policy.model import Destination, Network, Policy, Rule
    from xds.snapshot import Snapshot

_MOST, _FEWEST, _EFFORT = 200, 12, 100_000
"""How many connections are asked for: fewer of policies that suggest many, for each then takes longer."""

_HTTPS, _HTTP = 443, 80
_SOMEWHERE = IPv4Address("203.0.113.77")
"""Where names are taken to lead (RFC 5737), unless the rule says where they must."""
_MOST_NETWORKS = 3
"""Of those that a rule wants names to lead into."""
_NOBODY = "no-rule-names-it.invalid"
_BELOW = "any"
"""The label that stands for whatever is below a name."""


@dataclass(frozen=True, slots=True)
class Side:
    """One version: what it says, if anything, and what it was compiled to."""

    policy: Policy | None
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Decision:
    """A connection that goes another way."""

    target: str
    """`host:port`, ` at ` and the address if that matters; `any other host` and `any other address` no rule names."""
    protocol: Protocol
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class DecisionSample:
    """The decisions that differ, among `probed` of the `known` connections that the rules suggest."""

    changed: tuple[Decision, ...]
    probed: int
    known: int


def sample_decisions(before: Side, after: Side) -> DecisionSample:
    """Ask both versions for connections that their rules suggest."""
    probes = list(dict.fromkeys(_probes(before.policy, after.policy)))
    most = max(_FEWEST, min(_MOST, _EFFORT // len(probes)))
    old, new = Envoy(before.snapshot), Envoy(after.snapshot)
    asked = [(connection, _ask(old, connection), _ask(new, connection)) for connection in probes[:most]]
    changed = (
        Decision(_describe_target(connection), connection.protocol, was, will)
        for connection, was, will in asked
        if was is not None and will is not None and was != will
    )
    return DecisionSample(tuple(changed), len(asked), len(probes))


def _ask(envoy: Envoy, connection: Connection) -> str | None:
    """Return what becomes of a connection; None: these resources hold what can't be walked."""
    try:
        return _describe_outcome(envoy.take(connection).outcome)
    except UnknownConfigurationError:
        return None


def _describe_outcome(outcome: Outcome) -> str:
    proxy = outcome.cluster.removeprefix(names.proxy_cluster(""))
    match outcome.fate:
        case Fate.DIRECT:
            return "direct"
        case Fate.CLOSED | Fate.FORBIDDEN:
            return "refused"
        case Fate.TUNNELLED:
            return f"CONNECT {outcome.target} through {proxy}"
        case Fate.FORWARDED:
            return f"GET {outcome.target} through {proxy}"
        case other:
            assert_never(other)


def _describe_target(connection: Connection) -> str:
    if connection.name == _NOBODY:
        return f"any other host:{connection.port}"
    if not connection.name and connection.address == _SOMEWHERE:
        return f"any other address:{connection.port}"
    if not connection.name:
        return connection.dialled
    named = f"{connection.name}:{connection.port}"
    return named if connection.address == _SOMEWHERE else f"{named} at {connection.address}"


def _probes(before: Policy | None, after: Policy | None) -> Iterator[Connection]:
    yield from _of_name(_NOBODY, (), _SOMEWHERE)
    yield from _of_address(_SOMEWHERE, ())
    old, new = (() if policy is None else policy.rules for policy in (before, after))
    changes = compare_rules(before, after)
    pairs = [
        (
            None if change.before is None else old[change.before.position - 1],
            None if change.after is None else new[change.after.position - 1],
        )
        for change in changes
    ]
    for one, other in (*pairs, *((there, here) for here, there in pairs)):
        yield from _of_rule(one, without=other)
    for rule in (*(rule for pair in pairs for rule in pair), *old, *new):
        yield from _of_rule(rule, without=None)


def _of_rule(rule: Rule | None, *, without: Rule | None) -> Iterator[Connection]:
    """Yield connections to what `rule` matches and `without` does not."""
    if rule is None:
        return
    left_out = frozenset(() if without is None else without.destinations)
    others = _Networks(without)
    for destination in rule.destinations:
        if destination not in left_out:
            yield from _of_destination(destination, rule, others)


class _Networks:
    """The networks of a rule, whatever their ports."""

    def __init__(self, rule: Rule | None) -> None:
        hosts = () if rule is None else (destination.host for destination in rule.destinations)
        networks = [host for host in hosts if isinstance(host, IPv4Network | IPv6Network)]
        self._known: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        known: list[Network] = []
        known += collapse_addresses(item for item in networks if isinstance(item, IPv4Network))
        known += collapse_addresses(item for item in networks if isinstance(item, IPv6Network))
        for network in known:
            first = int(network.network_address)
            self._known[network.version].append((first, first + network.num_addresses))

    def find_outside(self, network: Network) -> Iterator[Address]:
        """Yield an address of `network` that these do not hold, if only some of its addresses are so."""
        known = self._known[network.version]
        first = place = int(network.network_address)
        begin = max(bisect(known, (first,)) - 1, 0)
        for start, end in islice(known, begin, None):
            if end <= place:
                continue
            if start > place:
                break
            place = end
        is_cut = begin < len(known) and any(
            start < first + network.num_addresses and end > first for start, end in known[begin : begin + 2]
        )
        if is_cut and place < first + network.num_addresses:
            yield network.network_address + (place - first)


def _of_destination(destination: Destination, rule: Rule, others: _Networks) -> Iterable[Connection]:
    match destination.host:
        case None:
            return _of_name(_NOBODY, destination.ports, _SOMEWHERE)
        case DomainPattern(name, apex, subdomains):
            addresses = [_first_of(network) for network in rule.verify[:_MOST_NETWORKS]] or [_SOMEWHERE]
            hosts = [name] * apex + [f"{_BELOW}.{name}"] * subdomains
            pairs = [(host, address) for address in addresses for host in hosts]
            return (probe for host, address in pairs for probe in _of_name(host, destination.ports, address))
        case network:
            ends = dict.fromkeys((_first_of(network), *others.find_outside(network), _last_of(network)))
            return (probe for address in ends for probe in _of_address(address, destination.ports))


def _first_of(network: Network) -> Address:
    """Return an address of a network; its very first one is often that of a smaller network, too."""
    return network.network_address + (network.num_addresses > 1)


def _last_of(network: Network) -> Address:
    return network.broadcast_address - (network.num_addresses > 1)


def _of_name(host: str, ports: tuple[int, ...], address: Address) -> Iterable[Connection]:
    for port in ports or (_HTTPS, _HTTP):
        protocol = Protocol.HTTP_11 if port == _HTTP else Protocol.TLS
        yield Connection(address, port, protocol, host)


def _of_address(address: Address, ports: tuple[int, ...]) -> Iterable[Connection]:
    for port in ports or (_HTTPS,):
        yield Connection(address, port, Protocol.OTHER)
