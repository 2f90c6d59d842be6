"""
`explain`: one question about a connection, answered from the compiled resources, with the policy's words beside it.

What happens is what the walk of the resources says. Why is what a naive reading of the policy says, and only if both
agree; where they don't, the decision carries the contradiction, for that is a bug. Where the answer depends on an
address that nobody has told, there is one decision per part of the address space. No value of a secret is ever part
of an explanation.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from xds import names
from xds.errors import EgressXdsError
from xds.explain.cause import Cause, Reading, Verdict
from xds.explain.connection import Arrival, Connection, Fate, Protocol
from xds.explain.dns import names_at, resolve
from xds.explain.explicit import CONNECT, ask
from xds.explain.explicit_cause import find_explicit
from xds.explain.no_proxy import ClientAnswer, NoProxy, ask_clients, choose_no_proxy
from xds.explain.regions import MOST, Region, find_regions, is_within
from xds.explain.walk import Envoy
from xds.explain.written import Place, Written
from xds.facts import Facts
from xds.policy.model import DnsMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.explain.connection import Address
    from xds.policy.model import Policy, Proxy
    from xds.snapshot import Snapshot

HTTP_PORT = 80
ADDRESS = "ADDRESS"
"""Stands for an address that nobody has told, in what a proxy is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    A connection to `host`, a name or an address, as an application means it.

    `shown` is the server name or the Host that the client sends; None: what a client sends that wants `host`.
    `addresses` are what a name leads to, if that is known. `is_explicit` asks for a request to the listener for
    applications that know of a proxy.
    """

    host: str
    port: int
    protocol: Protocol
    shown: str | None = None
    addresses: tuple[Address, ...] = ()
    path: str = "/"
    is_explicit: bool = False

    @property
    def literal(self) -> Address | None:
        """The address that `host` is, if it is one."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """Host and port as requests write them."""
        return f"{self._bracketed}:{self.port}"

    @property
    def claimed(self) -> str:
        """What the client shows."""
        if self.shown is not None:
            return self.shown
        match self.protocol:
            case Protocol.TLS:
                # An address is no server name (RFC 6066, section 3).
                return self.host if self.literal is None else ""
            case Protocol.OTHER:
                return ""
            case _:
                return self._bracketed if self.port == HTTP_PORT else self.authority

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if isinstance(self.literal, IPv6Address) else self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """
    What is asked: resources, and the policy that they were compiled from, with its text and facts.

    Without a policy, as of what an Envoy says that it holds, there is no reason for what happens.
    """

    snapshot: Snapshot
    policy: Policy | None = None
    facts: Facts = field(default_factory=Facts)
    text: str = field(default="", repr=False)


class AddressNeededError(EgressXdsError):
    """What happens depends on the address of a name, and nothing says which addresses matter."""

    exit_code = 2

    def __init__(self, host: str) -> None:
        """Take the name."""
        super().__init__(
            f"where {host} leads decides, and no policy is given that says which addresses matter; "
            "add --address IP, or --resolve"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    What becomes of one connection, and why.

    `target` is what the proxy is asked for, or the address that is dialled; empty if it goes nowhere. `contradiction`
    says that the policy's reading comes to something else than the resources; empty: both agree.
    """

    arrival: Arrival
    verdict: Verdict
    target: str
    proxy: Proxy | None
    cause: Cause | None
    place: Place | None
    contradiction: str = ""

    @property
    def fate(self) -> Fate:
        """What Envoy does."""
        return self.arrival.outcome.fate

    @property
    def cluster(self) -> str:
        """Where it goes, in Envoy's words; empty: nowhere."""
        return self.arrival.outcome.cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A decision and the addresses or networks for which it is taken; none: for any other address."""

    addresses: tuple[str, ...]
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """
    The answer.

    `branches` has the usual decision first. `synthetic` is what the pod is told of the host, if its names are captured;
    `is_partial` says that the policy knows too many networks to look at each.
    """

    question: Question
    policy: Policy | None
    branches: tuple[Branch, ...]
    synthetic: tuple[Address, ...] = ()
    is_partial: bool = False
    no_proxy: NoProxy = field(default_factory=NoProxy)
    clients: tuple[ClientAnswer, ...] = ()

    @property
    def decision(self) -> Decision:
        """The usual one."""
        return self.branches[0].decision

    @property
    def contradictions(self) -> tuple[str, ...]:
        """All that must never be."""
        found = [branch.decision.contradiction for branch in self.branches]
        return tuple(dict.fromkeys(text for text in found if text))


def explain(subject: Subject, question: Question) -> Explanation:
    """
    Answer a question.

    Raises UnknownConfigurationError if the resources hold something that is not known here. Any other exception is a
    bug.
    """
    policy = subject.policy
    written = None if policy is None else Written.read(policy, subject.text)
    inspector = _Inspector(subject, question, written, Envoy(subject.snapshot))
    synthetic = () if question.is_explicit or question.literal else resolve(subject.snapshot, question.host)
    is_partial = False
    if question.is_explicit:
        branches = [Branch(addresses=(), decision=inspector.ask())]
    elif known := (question.addresses or synthetic or ((question.literal,) if question.literal else ())):
        branches = _group((str(address), inspector.take(address)) for address in known)
    else:
        if policy is None:
            raise AddressNeededError(question.host)
        regions = find_regions(policy, subject.facts)
        is_partial = len(regions) > MOST
        branches = inspector.take_regions(_largest(regions) if is_partial else regions)
    no_proxy = NoProxy(missing="it is not known here")
    if policy is not None and written is not None:
        no_proxy = choose_no_proxy(policy, written.no_proxy)
    scheme = "http" if question.protocol.is_http else "https"
    return Explanation(
        question=question,
        policy=policy,
        branches=tuple(branches),
        synthetic=synthetic,
        is_partial=is_partial,
        no_proxy=no_proxy,
        clients=ask_clients(no_proxy, question.host, question.port, scheme),
    )


@dataclass(frozen=True, slots=True)
class _Inspector:
    subject: Subject
    question: Question
    written: Written | None
    envoy: Envoy

    def take(self, address: Address) -> Decision:
        """Decide for one address."""
        asked, policy = self.question, self.subject.policy
        connection = Connection(address, asked.port, asked.protocol, asked.claimed, asked.path)
        arrival = self.envoy.take(connection)
        target = connection.dialled if arrival.outcome.fate is Fate.DIRECT else arrival.outcome.target
        if policy is None:
            return self._decide(arrival, target, ())
        stands_for = names_at(self.subject.snapshot, address) if policy.dns_mode is DnsMode.CAPTURE else ()
        host = "" if asked.literal is not None else asked.host.lower().removesuffix(".")
        return self._decide(arrival, target, Reading(policy, self.subject.facts).find(connection, host, stands_for))

    def ask(self) -> Decision:
        """Decide a request of explicit mode."""
        asked = self.question
        method = "GET" if asked.protocol.is_http else CONNECT
        arrival = ask(self.subject.snapshot, method, asked.authority, asked.path)
        host = asked.authority.rpartition(":")[0]
        target = asked.authority if arrival.outcome.fate is Fate.DIRECT else arrival.outcome.target
        policy = self.subject.policy
        causes = () if policy is None else (find_explicit(policy, self.subject.facts, method, host, asked.port),)
        return self._decide(arrival, target, causes)

    def take_regions(self, regions: Iterable[Region]) -> list[Branch]:
        """Decide for every part of the address space, the usual decision first."""
        found = []
        policy = self.subject.policy
        shields = policy.synthetic_ranges if policy is not None and policy.dns_mode is DnsMode.CAPTURE else ()
        for region in regions:
            if any(region.address in item for item in shields):
                # No name server answers with what stands for names.
                continue
            label = f"any other IPv{region.address.version} address" if region.network is None else str(region.network)
            decision = self.take(region.address)
            dialled = Connection(region.address, self.question.port, self.question.protocol).dialled
            found.append((label, replace(decision, target=decision.target.replace(dialled, self._unknown))))
        usual, *others = _group(found)
        others.sort(key=lambda branch: branch.decision.cause is not None and branch.decision.cause.is_built_in)
        return [replace(usual, addresses=()), *(replace(item, addresses=_widest(item.addresses)) for item in others)]

    @property
    def _unknown(self) -> str:
        return f"{ADDRESS}:{self.question.port}"

    def _decide(self, arrival: Arrival, target: str, causes: tuple[Cause, ...]) -> Decision:
        outcome = arrival.outcome
        policy = self.subject.policy
        proxies = {} if policy is None else {names.proxy_cluster(proxy.name): proxy for proxy in policy.proxies}
        proxy = proxies.get(outcome.cluster)
        verdict = _verdict(outcome.fate)
        wanted = proxy.name if proxy is not None else ""
        agreeing = [item for item in causes if item.verdict is verdict and (not wanted or item.proxy == wanted)]
        cause = next(iter((*agreeing, *causes)), None)
        return Decision(
            arrival=arrival,
            verdict=verdict,
            target=target,
            proxy=proxy,
            cause=cause,
            place=None if cause is None else self._place(cause),
            contradiction="" if agreeing or cause is None else _contradict(arrival, cause),
        )

    def _place(self, cause: Cause) -> Place:
        if cause.is_built_in or self.written is None:
            return Place(cause.where)
        if cause.destination is None:
            return self.written.find_default(is_http=self.question.protocol.is_http)
        name = (
            self.question.claimed if self.question.protocol is Protocol.TLS else self.question.claimed.partition(":")[0]
        )
        return self.written.find_rule(cause, name.lower().removesuffix("."), self.question.port)


def _verdict(fate: Fate) -> Verdict:
    if fate.is_refused:
        return Verdict.REFUSED
    return Verdict.DIRECT if fate is Fate.DIRECT else Verdict.PROXY


def _contradict(arrival: Arrival, cause: Cause) -> str:
    what = f"{arrival.outcome.fate.value} by the chain {arrival.chain}"
    policy = f"{cause.verdict.value}{f' {cause.proxy}' if cause.proxy else ''} ({cause.rule}: {cause.reason})"
    return f"the resources say: {what}; the policy says: {policy}. This is a bug of the compiler or of this explanation"


def _group(decided: Iterable[tuple[str, Decision]]) -> list[Branch]:
    """Join what is decided alike, in the order given."""
    groups: dict[object, list[tuple[str, Decision]]] = defaultdict(list)
    for label, decision in decided:
        rule = "" if decision.cause is None else decision.cause.rule
        key = (decision.arrival.chain, decision.fate, decision.cluster, rule, decision.contradiction)
        groups[key].append((label, decision))
    return [_join([label for label, _ in found], [item for _, item in found]) for found in groups.values()]


def _join(labels: Sequence[str], decisions: Sequence[Decision]) -> Branch:
    """Take the first decision for all; where several entries of a rule made them, the rule's own place."""
    first = decisions[0]
    is_one = all(item.place == first.place for item in decisions)
    place = first.place if is_one or first.cause is None else Place(first.cause.where)
    return Branch(addresses=tuple(dict.fromkeys(labels)), decision=replace(first, place=place))


def _widest(labels: Sequence[str]) -> tuple[str, ...]:
    """Leave out networks that lie in another one of the list: what lies in between is decided alike."""
    networks = {label: ip_network(label) for label in labels if "/" in label}
    return tuple(
        label
        for label in labels
        if label not in networks or not any(is_within(networks[label], other) for other in networks.values())
    )


def _largest(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Return the largest region of each family."""
    first: dict[int, Region] = {}
    for region in regions:
        first.setdefault(region.address.version, region)
    return tuple(first.values())
