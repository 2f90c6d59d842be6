"""
Random policies whose entries are close relatives, and random connections that come near them.

Names share suffixes, networks nest, ports repeat: entries that never meet would decide nothing that a test could
get wrong.
"""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from tests.support.policies import WHERE, endpoint
from xds.explain.connection import Connection, Protocol
from xds.facts import DirectEndpoint, Facts, FileContent
from xds.policy.model import (
    Action,
    AlwaysDirect,
    BasicLogin,
    Default,
    Deny,
    Destination,
    Direct,
    DnsMode,
    DomainPattern,
    PlainHttp,
    Policy,
    Proxy,
    Rule,
    Tunnel,
    UnknownName,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds.explain.connection import Address
    from xds.policy.model import Network

PORTS = (22, 80, 443, 8080)
PROXY_NAMES = ("a", "b")
PROXY_ADDRESSES = ("10.0.0.9", "10.1.2.3", "2001:db8::9", "198.18.0.9")
PROXY_HOST = "proxy.a.example"
LOGIN_FILE = "/login"
BASES = ("10.1.2.3", "10.1.255.255", "127.0.0.1", "169.254.169.254", "198.18.0.9", "198.19.0.1", "192.0.2.7")
BASES_V6 = ("2001:db8::9", "2001:db8:1::1", "fd00:ec2::254", "::1", "fe80::1")
CAPTURED_RANGES = ("100.64.0.0/10", "fd00:18::/64")
SYNTHETIC = ("198.18.0.0/15", "198.18.0.0/24", "2001:db8::/48")

_labels = st.sampled_from(["a", "b", "xn--c"])
_ends = st.sampled_from(["example", "a.example", "svc", "cluster.local", "b"])


@st.composite
def names(draw: st.DrawFn) -> str:
    """Draw one of few names, most of them below one another."""
    labels = draw(st.lists(_labels, max_size=3))
    return ".".join([*labels, draw(_ends)])


def ports() -> st.SearchStrategy[tuple[int, ...]]:
    """Draw the ports of a destination: mostly all of them."""
    some = st.sets(st.sampled_from(PORTS), min_size=1, max_size=2).map(lambda found: tuple(sorted(found)))
    return st.just(()) | st.just(()) | some


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Draw a network around one of few addresses, of any length."""
    if draw(st.booleans()):
        length = draw(st.sampled_from([0, 7, 8, 15, 16, 23, 24, 31, 32]))
        return IPv4Network((draw(st.sampled_from(BASES)), length), strict=False)
    length = draw(st.sampled_from([0, 10, 32, 47, 48, 64, 127, 128]))
    return IPv6Network((draw(st.sampled_from(BASES_V6)), length), strict=False)


def _some_networks() -> st.SearchStrategy[Network]:
    """Draw a network that is not everything."""
    return networks().filter(lambda network: network.prefixlen > 0)


@st.composite
def patterns(draw: st.DrawFn) -> DomainPattern:
    """Draw a domain with its apex, what is below it, or both."""
    apex, subdomains = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    return DomainPattern(draw(names()), apex=apex, subdomains=subdomains)


def destinations() -> st.SearchStrategy[Destination]:
    """Draw a destination: a domain, a network, or (seldom) ports of any host."""
    named = st.builds(Destination, patterns(), ports())
    addressed = st.builds(Destination, networks(), ports())
    anywhere = st.builds(Destination, st.none(), ports())
    return st.one_of(named, addressed, named, addressed, anywhere)


def actions(proxies: Sequence[str]) -> st.SearchStrategy[Action]:
    """Draw what a rule may do."""
    return st.sampled_from([Direct(), Deny(), *(Tunnel(name) for name in proxies)])


@st.composite
def rules(draw: st.DrawFn, proxies: Sequence[str]) -> Rule:
    """Draw a rule; every third or so treats plain HTTP differently."""
    action = draw(actions(proxies))
    http = draw(st.one_of(st.none(), st.none(), actions(proxies)))
    found = draw(st.lists(destinations(), min_size=1, max_size=4))
    sends_direct = Direct() in (action, http or action)
    verify = draw(st.just([]) | st.lists(_some_networks(), min_size=1, max_size=2, unique=True)) if sends_direct else []
    return Rule(
        name="rule",
        destinations=tuple(found),
        action=action,
        http_action=http or action,
        verify=tuple(verify),
        where=WHERE,
    )


@st.composite
def proxies(draw: st.DrawFn, name: str) -> Proxy:
    """Draw a proxy with endpoints at addresses that rules cover too."""
    hosts = st.sampled_from([*PROXY_ADDRESSES, PROXY_HOST])
    found = draw(st.lists(st.tuples(hosts, st.sampled_from([80, 3128])), min_size=1, max_size=3, unique=True))
    return Proxy(
        name=name,
        endpoints=tuple(endpoint(host, port, priority=draw(st.integers(0, 3))) for host, port in found),
        connect_ports=draw(st.sampled_from([None, None, (443,), (22, 443)])),
        plain_http=draw(st.sampled_from(PlainHttp)),
        login=draw(st.sampled_from([None, None, BasicLogin(file=LOGIN_FILE)])),
        where=WHERE,
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Draw a whole policy."""
    chosen = draw(st.sampled_from([(), PROXY_NAMES[:1], PROXY_NAMES]))
    action = draw(actions(chosen))
    return Policy(
        name="drawn",
        proxies=tuple(draw(proxies(name)) for name in chosen),
        rules=tuple(draw(st.lists(rules(chosen), max_size=7))),
        default=Default(
            action=action,
            http_action=draw(st.one_of(st.just(action), actions(chosen))),
            on_unknown_name=draw(st.sampled_from(UnknownName)),
        ),
        synthetic_ranges=tuple(ip_network(text) for text in draw(st.sets(st.sampled_from(SYNTHETIC), max_size=2))),
        server_first_ports=draw(st.sampled_from([(), (22,), (22, 8080)])),
        always_direct=AlwaysDirect(
            loopback=draw(st.booleans()),
            link_local=draw(st.booleans()),
            cluster_local=draw(st.booleans()),
            cluster_networks=draw(st.booleans()),
        ),
        where=WHERE,
    )


@st.composite
def captured_policies(draw: st.DrawFn) -> Policy:
    """Draw a policy whose names are answered with synthetic addresses, some of them for plain TCP."""
    policy = draw(policies())
    rules = tuple(draw(_with_names_of_tcp(rule)) for rule in policy.rules)
    ranges = tuple(ip_network(text) for text in CAPTURED_RANGES)
    return dataclasses.replace(policy, rules=rules, dns_mode=DnsMode.CAPTURE, synthetic_ranges=ranges)


@st.composite
def _with_names_of_tcp(draw: st.DrawFn, rule: Rule) -> Rule:
    if Direct() in (rule.action, rule.http_action):
        return rule
    hosts = draw(st.lists(names(), max_size=2, unique=True))
    named = [Destination(DomainPattern(host, subdomains=False), draw(ports()), plain_tcp=True) for host in hosts]
    return dataclasses.replace(rule, destinations=(*rule.destinations, *named))


def _direct_endpoints(*reasons: str) -> st.SearchStrategy[tuple[DirectEndpoint, ...]]:
    found = st.builds(DirectEndpoint, reason=st.sampled_from(reasons), network=networks(), ports=ports())
    return st.lists(found, max_size=2).map(tuple)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    """Draw what the edges found out."""
    resolved = draw(st.lists(st.sampled_from(PROXY_ADDRESSES).map(ip_address), max_size=2, unique=True))
    return Facts(
        always_direct=draw(_direct_endpoints("DNS", "the API server")),
        cluster_direct=draw(_direct_endpoints("services", "the API server")),
        cluster_ranges=tuple(draw(st.just([]) | st.lists(_some_networks(), min_size=1, max_size=2, unique=True))),
        addresses={PROXY_HOST: tuple(resolved)} if resolved else {},
        files={LOGIN_FILE: FileContent(f"user:{draw(st.sampled_from(['one', 'two']))}")},
        has_ipv6=draw(st.booleans()),
    )


@st.composite
def connections(draw: st.DrawFn, policy: Policy) -> Connection:
    """Draw a connection to, or just beside, something that `policy` speaks of."""
    address = draw(_addresses(policy))
    protocol = draw(st.sampled_from(Protocol))
    name = ""
    if protocol is not Protocol.OTHER:
        name = draw(_claims(policy, address, protocol))
    return Connection(address, draw(st.sampled_from([*PORTS, 3128])), protocol, name)


def _hosts(policy: Policy) -> list[object]:
    return [destination.host for rule in policy.rules for destination in rule.destinations]


@st.composite
def _addresses(draw: st.DrawFn, policy: Policy) -> Address:
    known = [host for host in _hosts(policy) if isinstance(host, (IPv4Network, IPv6Network))]
    known += [network for rule in policy.rules for network in rule.verify]
    known += [ip_network(text) for text in (*BASES, *BASES_V6, *PROXY_ADDRESSES)]
    network = draw(st.sampled_from(known))
    edge = int(draw(st.sampled_from([network.network_address, network.broadcast_address])))
    highest = 2**network.max_prefixlen - 1
    beside = min(max(edge + draw(st.sampled_from([0, 0, 1, -1])), 0), highest)
    return type(network.network_address)(beside)


@st.composite
def _claims(draw: st.DrawFn, policy: Policy, address: Address, protocol: Protocol) -> str:
    known = [host.name for host in _hosts(policy) if isinstance(host, DomainPattern)]
    name = draw(st.sampled_from(known) | names() if known else names())
    prefix = draw(st.sampled_from(["", "", "www.", "a.b.", "zz"]))
    spelt = draw(st.sampled_from([str.lower, str.upper, "{}.".format]))(prefix + name)
    bare = str(address) if address.version == 4 or protocol is Protocol.TLS else f"[{address}]"
    odd = draw(st.sampled_from(ODD_CLAIMS)).format(name=name, address=bare)
    nothing = "" if protocol is not Protocol.HTTP_11 else odd
    claim = draw(st.sampled_from([spelt, spelt, spelt, spelt, bare, nothing, odd]))
    port = draw(st.sampled_from(["", "", ":80", ":8080", ":99999"])) if protocol.is_http and claim == spelt else ""
    return claim + port


ODD_CLAIMS = (
    "x@{name}",
    "{name}:80@{name}",
    "allowed.example:x@{name}",
    "{name}..",
    ".{name}",
    "{name}/..",
    "a,{name}",
    "{name}:80:80",
    "{name}%",
    "2130706433",
    "0x7f000001",
    "127.1",
    "{name}.1",
    "1.2.3.256",
    "1.2.3.04",
)
"""What is neither a name nor an address, or might be a different one to each reader."""


@st.composite
def reordered(draw: st.DrawFn, policy: Policy) -> Policy:
    """Draw a policy that differs in the order of things whose order means nothing."""
    shuffled = tuple(
        dataclasses.replace(rule, destinations=tuple(draw(st.permutations(rule.destinations)))) for rule in policy.rules
    )
    turned = tuple(
        dataclasses.replace(proxy, endpoints=tuple(draw(st.permutations(proxy.endpoints)))) for proxy in policy.proxies
    )
    return dataclasses.replace(
        policy,
        rules=shuffled,
        proxies=tuple(draw(st.permutations(turned))),
        synthetic_ranges=tuple(draw(st.permutations(policy.synthetic_ranges))),
    )


@st.composite
def reordered_facts(draw: st.DrawFn, found: Facts) -> Facts:
    """Draw facts that were found in another order."""
    return dataclasses.replace(
        found,
        always_direct=tuple(draw(st.permutations(found.always_direct))),
        cluster_direct=tuple(draw(st.permutations(found.cluster_direct))),
        addresses={host: tuple(draw(st.permutations(known))) for host, known in found.addresses.items()},
    )
