"""
What a rule matches: entries of several lists become one canonical tuple of destinations.

Canonical means that two rules that match the same are equal: ports are merged per host, what is
covered is removed (N6), and the order is fixed. Actions matter here only where a bypass would be wider
than its author can mean (N3, N11, N13). Nothing here knows proxies or documents.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from xds.policy.findings import quote
from xds.policy.hosts import Problem, is_address_like, parse_name, parse_network
from xds.policy.lints import Lint, Lints
from xds.policy.model import Destination, Dialect, DomainPattern, Network
from xds.policy.patterns import Entry, Form, parse_entry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from xds.policy.findings import Findings
    from xds.policy.yaml_lines import Node, Scalar


class Kinds(Enum):
    """Which kinds of entry a list takes."""

    NAMES = "host names"
    NETWORKS = "addresses and networks"
    BOTH = "destinations"


_NOT_CAPTURED = "write `dns: {mode: capture, syntheticRange: [198.18.0.0/15, 'fd00:18::/64']}`, or give addresses"
_FORMS_OF_NETWORKS = (Form.ADDRESS, Form.CIDR)
_LOCALHOST = "localhost"
_FORMS_OF_NAMES = (Form.NAME, Form.DOTTED, Form.STARRED)

Ports = frozenset[int] | set[int] | None
"""None: every port."""

HostT = TypeVar("HostT")


class DestinationSet:
    """Collects the destinations of one rule. `tuple()` of it is canonical."""

    def __init__(
        self,
        dialect: Dialect,
        findings: Findings,
        lints: Lints,
        *,
        is_direct: bool,
        ports: Collection[int] = (),
        server_first_ports: Collection[int] = (),
        has_addresses: bool = False,
    ) -> None:
        """
        Set up for a rule.

        `ports` are those of entries that have none of their own; `has_addresses` says that names can be given
        addresses that stand for them.
        """
        self._dialect = dialect
        self._findings = findings
        self._lints = lints
        self._is_direct = is_direct
        self._ports = frozenset(ports) or None
        self._server_first = frozenset(server_first_ports)
        self._has_addresses = has_addresses
        self._any: dict[None, Ports] = {}
        self._apexes: dict[str, Ports] = {}
        self._subdomains: dict[str, Ports] = {}
        self._networks: dict[Network, Ports] = {}
        self._named: dict[str, Ports] = {}

    def add_text(self, text: str, node: Scalar, kinds: Kinds) -> None:
        """Read one entry of a list that takes `kinds`."""
        entry = parse_entry(text, self._dialect)
        if isinstance(entry, Problem):
            self._findings.add(entry.code, node, f"{quote(text)}: {entry.message}", entry.hint)
        elif (kinds is Kinds.NAMES and entry.form in _FORMS_OF_NETWORKS) or (
            kinds is Kinds.NETWORKS and entry.form not in _FORMS_OF_NETWORKS
        ):
            other = "cidrs" if kinds is Kinds.NAMES else "domains"
            self._findings.add(
                "EX207", node, f"{quote(text)} stands in a list of {kinds.value}", f"move it to `{other}`"
            )
        else:
            self._note_form(entry, text, node, kinds)
            self._add_entry(entry, text, node)

    def add_address(self, text: str, ports: Iterable[int], node: Node) -> None:
        """Read one `host` of `to.tcp` with its ports."""
        if not is_address_like(text):
            self._add_named(text, frozenset(ports) or self._ports, node)
            return
        network = parse_network(text.strip())
        if isinstance(network, Problem):
            self._findings.add(network.code, node, f"{quote(text)}: {network.message}", network.hint)
            return
        if self._refuse_everything(network, text, node):
            return
        _merge(self._networks, network, frozenset(ports) or self._ports)

    def _add_named(self, text: str, ports: Ports, node: Node) -> None:
        """Read one `host` of `to.tcp` that is a name, and so needs an address that stands for it."""
        name = parse_name(text)
        if "*" in text or text.startswith("."):
            message, hint = "no single name, so that a proxy could not be asked for it", "name each host by itself"
            self._findings.add("EX204", node, f"{quote(text)}: {message}", hint)
        elif isinstance(name, Problem):
            self._findings.add(name.code, node, f"{quote(text)}: {name.message}", name.hint)
        elif not self._has_addresses:
            message = f"{quote(text)}: TCP by name needs an address that stands for the name, and `dns.mode` is `off`"
            self._findings.add("EX232", node, message, _NOT_CAPTURED)
        elif self._is_direct:
            message = f"{quote(text)}: what is dialled directly must be resolved for real, so that its address decides"
            self._findings.add("EX233", node, message, "give its addresses; for TLS and plain HTTP, `domains`")
        else:
            _merge(self._named, name, ports)

    def add_any_host(self) -> None:
        """Match any host on the rule's ports."""
        _merge(self._any, None, self._ports)

    def build(self) -> tuple[Destination, ...]:
        """Return the destinations in their canonical order."""
        found = [_destination(None, ports) for ports in self._any.values()]
        for name in sorted(self._apexes.keys() | self._subdomains.keys()):
            found += self._destinations_of(name)
        for name in sorted(self._named):
            ports = tuple(sorted(self._named[name] or ()))
            found.append(Destination(DomainPattern(name, subdomains=False), ports, plain_tcp=True))
        for network in sorted(self._networks, key=_network_order):
            found.append(_destination(network, self._networks[network]))
        return tuple(found)

    def _destinations_of(self, name: str) -> list[Destination]:
        if name not in self._subdomains:
            return [_destination(DomainPattern(name, subdomains=False), self._apexes[name])]
        below = self._subdomains[name]
        if name not in self._apexes:
            return [_destination(DomainPattern(name, apex=False), below)]
        if self._apexes[name] == below:
            return [_destination(DomainPattern(name), below)]
        return [
            _destination(DomainPattern(name, apex=False), below),
            _destination(DomainPattern(name, subdomains=False), self._apexes[name]),
        ]

    def _note_form(self, entry: Entry, text: str, node: Scalar, kinds: Kinds) -> None:
        # A list of networks is no client's; a name in a rule may well have come from one.
        is_network = kinds is Kinds.BOTH and entry.form is Form.CIDR
        if is_network and entry.port is not None:
            self._lints.note(Lint.NETWORK_PORT, node, text)
            return
        if entry.form in _FORMS_OF_NAMES or is_network:
            self._lints.note(entry.form, node, text)
        if kinds is Kinds.BOTH and entry.port is not None:
            self._lints.note(Lint.PORT, node, text)

    def _add_entry(self, entry: Entry, text: str, node: Scalar) -> None:
        ports = self._ports if entry.port is None else frozenset((entry.port,))
        match entry.host:
            case None:
                is_new = self._refuse_everything(None, text, node) or _merge(self._any, None, ports)
            case DomainPattern() as pattern:
                is_new = self._add_pattern(pattern, ports, text, node)
            case network:
                is_new = self._refuse_everything(network, text, node) or _merge(self._networks, network, ports)
        if not is_new:
            self._lints.note(Lint.REPEAT, node, text)

    def _refuse_everything(self, network: Network | None, text: str, node: Node) -> bool:
        """Refuse an entry that sends everything direct, as a slip of the pen would (N3, N7)."""
        if not self._is_direct or (network is not None and network.prefixlen > 0):
            return False
        message = f"{quote(text)} sends everything past the proxies"
        self._findings.add("EX203", node, message, self._lints.remedies.everything)
        return True

    def _add_pattern(self, pattern: DomainPattern, ports: Ports, text: str, node: Scalar) -> bool:
        """Add the halves of a pattern; return whether that matches anything new, or a warning told why not."""
        if ports is not None and ports <= self._server_first:
            self._lints.note(Lint.SERVER_FIRST, node, text)
        takes_apex, takes_subdomains = pattern.apex, pattern.subdomains
        if pattern.name == _LOCALHOST or pattern.name.endswith(f".{_LOCALHOST}"):
            self._lints.note(Lint.LOCALHOST, node, text)
            if self._is_direct:
                return True
        elif pattern.apex and "." not in pattern.name:
            self._lints.note(Lint.SINGLE_LABEL, node, text)
            if self._is_direct:
                takes_apex = False
                if not takes_subdomains:
                    return True
        is_new = takes_apex and _merge(self._apexes, pattern.name, ports)
        return (takes_subdomains and _merge(self._subdomains, pattern.name, ports)) or is_new


def _merge(table: dict[HostT, Ports], host: HostT, ports: Ports) -> bool:
    """Add `ports` to those of `host`; return whether that changed anything."""
    if host not in table:
        table[host] = ports
        return True
    known = table[host]
    if known is None or (ports is not None and ports <= known):
        return False
    if ports is None:
        table[host] = None
    elif isinstance(known, set):
        # Grown in place: one host may have thousands of entries, each with a port of its own.
        known |= ports
    else:
        table[host] = {*known, *ports}
    return True


def _destination(host: DomainPattern | Network | None, ports: Ports) -> Destination:
    return Destination(host, tuple(sorted(ports or ())))


def _network_order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
