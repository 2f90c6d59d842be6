"""
What of a policy caused a decision: its rules read naively, one after the other, of which the first that matches counts.

This is the policy's side only. Whoever asks compares it with what the compiled resources do; nothing here reads those
or decides anything. Invariant: it uses nothing of the compiler but what is built in and what a name looks like.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, assert_never

from xds import names
from xds.compile.builtin import builtin_rules
from xds.compile.refuse import REFUSE_ALL
from xds.diagnostics import Where
from xds.explain.claims import Claim, Shown, read_claim
from xds.explain.connection import Connection, Protocol
from xds.explain.misses import Miss, Sight, covers, describe_destination, describe_ports, find_misses
from xds.policy.coverage import LOOPBACK
from xds.policy.model import (
    Action,
    Deny,
    Direct,
    DnsMode,
    DomainPattern,
    PlainHttp,
    Tunnel,
    UnknownName,
)

if TYPE_CHECKING:
    from xds.facts import Facts
    from xds.policy.model import Destination, Policy, Proxy, Rule

HTTPS_PORT = 443
BUILT_IN = Where("built-in")
DEFAULT = "default"
"""What stands for a rule where none matches."""
_ODD = "what the client claims to be for is neither a name nor an address"


class Verdict(Enum):
    """Which way a connection goes."""

    DIRECT = "direct"
    PROXY = "proxy"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """
    The rule that decides, what it says in the end, and why.

    `rule` is the rule's name, `default`, or what is built in; `proxy` is that of a tunnel, or of one that was refused.
    """

    rule: str
    where: Where
    verdict: Verdict
    reason: str
    proxy: str = ""
    destination: Destination | None = None
    """What of the rule matched."""
    misses: tuple[Miss, ...] = ()
    """Earlier rules that nearly matched."""

    @property
    def is_built_in(self) -> bool:
        """Whether the policy does not say it itself."""
        return self.where.source in {BUILT_IN.source, REFUSE_ALL.where.source}


@dataclass(frozen=True, slots=True)
class Reading:
    """A policy as its author reads it, for connections that are captured."""

    policy: Policy
    facts: Facts

    def find(self, connection: Connection, dialled: str = "", stands_for: tuple[str, ...] = ()) -> tuple[Cause, ...]:
        """
        Return the cause, and where the policy leaves two things open, both: the first is what happens if anybody looks.

        `dialled` is the name that the application dialled, `stands_for` are the names whose synthetic address it is.
        """
        if self._is_envoy_itself(connection):
            return (_refuse("built-in: Envoy's own port", "what is sent to Envoy itself would go round in a circle"),)
        is_silent = connection.port in self.policy.server_first_ports
        seen = replace(connection, protocol=Protocol.OTHER, name="") if is_silent else connection
        claim = read_claim(seen)
        if self.policy.dns_mode is DnsMode.CAPTURE and not self._is_real(connection):
            return (self._find_synthetic(Sight(seen, claim, dialled, is_silent), stands_for),)
        if claim.shown is not Shown.ODD:
            return (self._find(Sight(seen, claim, dialled, is_silent)),)
        # Where what names nobody goes directly anyway, nobody has to look.
        nameless = self._find(Sight(seen, Claim(Shown.NOTHING), dialled, is_silent))
        refused = _refuse("built-in: plain names only", _ODD)
        return (refused, nameless) if nameless.verdict is Verdict.DIRECT else (refused,)

    def _is_envoy_itself(self, connection: Connection) -> bool:
        is_here = any(connection.address in network for network in LOOPBACK)
        return self.policy.always_direct.loopback and is_here and connection.port == names.OUTBOUND_PORT

    def _is_real(self, connection: Connection) -> bool:
        return not any(connection.address in network for network in self.policy.synthetic_ranges)

    def _find_synthetic(self, sight: Sight, stands_for: tuple[str, ...]) -> Cause:
        """Find what decides at an address that stands for a name, where nothing is ever dialled (N14)."""
        if not stands_for:
            return _refuse("built-in: synthetic addresses", "the address is one of those for names, and no name has it")
        if sight.claim.shown is Shown.ODD:
            return _refuse("built-in: plain names only", _ODD)
        if sight.claim.shown is not Shown.NAME:
            if sight.connection.protocol.is_http:
                return _refuse(
                    "built-in: synthetic addresses", "the address stands for a name, and the Host shows none"
                )
            own = [name for name in stands_for if name in self._plain_names()]
            if not own:
                text = "the client shows no name, and the address is shared by names that clients must show"
                return _refuse("built-in: synthetic addresses", text)
            shown = replace(sight.connection, protocol=Protocol.TLS, name=own[0])
            sight = Sight(shown, Claim(Shown.NAME, own[0]), own[0])
        found = self._find(sight)
        if found.verdict is not Verdict.DIRECT:
            return found
        text = f"{found.reason}, but the address stands for a name: nothing can be dialled there"
        return replace(found, verdict=Verdict.REFUSED, reason=text)

    def _plain_names(self) -> set[str]:
        return {
            item.host.name
            for rule in self.policy.rules
            for item in rule.destinations
            if item.plain_tcp and isinstance(item.host, DomainPattern)
        }

    def _find(self, sight: Sight) -> Cause:
        """Find the first rule that matches, and what its action comes to."""
        rules = builtin_rules(self.policy, self.facts) + self.policy.rules
        for index, rule in enumerate(rules):
            action = rule.http_action if sight.connection.protocol.is_http else rule.action
            found = next((item for item in rule.destinations if self._matches(item, rule, action, sight)), None)
            if found is not None:
                reason = f"the rule lists {describe_destination(found)}"
                cause = Cause(rule=rule.name, where=rule.where, verdict=Verdict.DIRECT, reason=reason)
                misses = find_misses(rules[:index], self.policy, sight)
                return self._judge(replace(cause, destination=found, misses=misses), action, sight)
        return self._find_default(sight, find_misses(rules, self.policy, sight))

    def _matches(self, destination: Destination, rule: Rule, action: Action, sight: Sight) -> bool:
        if destination.ports and sight.connection.port not in destination.ports:
            return False
        match destination.host:
            case None:
                return True
            case DomainPattern() as pattern:
                is_named = sight.claim.shown is Shown.NAME and covers(pattern, sight.claim.name)
                return is_named and (action != Direct() or self._is_verified(rule, sight.connection))
            case network:
                return sight.connection.address in network and self._is_real(sight.connection)

    def _is_verified(self, rule: Rule, connection: Connection) -> bool:
        """Whether a bypass may believe the name (N20)."""
        if not rule.verify:
            return True
        return self._is_real(connection) and any(connection.address in network for network in rule.verify)

    def _find_default(self, sight: Sight, misses: tuple[Miss, ...]) -> Cause:
        otherwise = self.policy.default
        action = otherwise.http_action if sight.connection.protocol.is_http else otherwise.action
        reason = "no rule matches"
        if isinstance(action, Tunnel) and sight.claim.shown is not Shown.NAME:
            reason = (
                f"no rule matches and the connection names no host (onUnknownName: {otherwise.on_unknown_name.value})"
            )
            match otherwise.on_unknown_name:
                case UnknownName.DENY:
                    action = Deny()
                case UnknownName.DIRECT:
                    action = Direct()
                case UnknownName.CONNECT_IP:
                    pass
        cause = Cause(rule=DEFAULT, where=self.policy.where, verdict=Verdict.DIRECT, reason=reason, misses=misses)
        return self._judge(cause, action, sight)

    def _judge(self, cause: Cause, action: Action, sight: Sight) -> Cause:
        """Say what an action comes to, with what the proxy takes."""
        match action:
            case Direct():
                return cause
            case Deny():
                return replace(cause, verdict=Verdict.REFUSED)
            case Tunnel(name):
                (proxy,) = (proxy for proxy in self.policy.proxies if proxy.name == name)
                obstacle = _obstacle(proxy, action, sight)
                if not obstacle:
                    return replace(cause, verdict=Verdict.PROXY, proxy=name)
                reason = f"{cause.reason}, but {obstacle}"
                return replace(cause, verdict=Verdict.REFUSED, proxy=name, reason=reason)
            case other:
                assert_never(other)


def _obstacle(proxy: Proxy, action: Tunnel, sight: Sight) -> str:
    """Return why the proxy can't be asked; empty: it can."""
    port = sight.connection.port
    if sight.connection.protocol.is_http:
        if action.origination is not None:
            if sight.claim.shown is not Shown.NAME:
                return "TLS is originated to hosts that have a name only"
            port = HTTPS_PORT
        elif proxy.plain_http is PlainHttp.DENY:
            return f'the proxy "{proxy.name}" takes no plain HTTP (plainHTTP: deny)'
        elif proxy.plain_http is PlainHttp.ABSOLUTE_FORM:
            return ""
    if proxy.connect_ports is None or port in proxy.connect_ports:
        return ""
    return f'the proxy "{proxy.name}" takes CONNECT for {describe_ports(proxy.connect_ports)} only (connectPorts)'


def _refuse(rule: str, reason: str) -> Cause:
    return Cause(rule=rule, where=BUILT_IN, verdict=Verdict.REFUSED, reason=reason)
