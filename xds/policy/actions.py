"""
Actions: the words `direct`, `tunnel` and `deny`, and the proxy that a tunnel takes.

Nothing here knows rules or destinations. Invariant: an action that could not be resolved is reported
and stands as `Deny`, so that no mistake can read as a bypass.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from xds.policy.findings import quote
from xds.policy.hosts import Problem
from xds.policy.model import Action, Deny, Direct, DomainPattern, TlsOrigination, Tunnel
from xds.policy.pem import parse_pem
from xds.policy.yaml_lines import at

if TYPE_CHECKING:
    from collections.abc import Collection

    from xds.policy.documents import ActionWord, OverrideShape
    from xds.policy.findings import Findings
    from xds.policy.model import Destination
    from xds.policy.yaml_lines import Node


MAX_NAMES = 10
"""Proxies that one hint names."""


class ActionShape(Protocol):
    """The keys that name an action: those of a rule, a default or an override."""

    @property
    def action(self) -> ActionWord:
        """The action's word."""
        ...

    @property
    def proxy(self) -> str | None:
        """The proxy that is named, if any."""
        ...


class DecisionShape(ActionShape, Protocol):
    """An action that may differ for plain HTTP: that of a rule or a default."""

    @property
    def http(self) -> OverrideShape | None:
        """What plain HTTP gets, where it differs."""
        ...


@dataclass(frozen=True, slots=True)
class ActionReader:
    """Resolves actions against the names of a document's proxies, sorted."""

    proxies: tuple[str, ...]
    findings: Findings

    def read_both(self, shape: DecisionShape, node: Node) -> tuple[Action, Action]:
        """Return what TLS and other TCP gets, and what plain HTTP gets (N16)."""
        action = self.read(shape, node)
        if shape.http is None:
            return action, action
        spot = at(node, "http")
        return action, self._with_origination(self.read(shape.http, spot), shape.http, spot)

    def _with_origination(self, action: Action, shape: OverrideShape, node: Node) -> Action:
        if shape.originate_tls is None:
            return action
        spot = at(node, "originateTLS")
        if not isinstance(action, Tunnel):
            message = "TLS is originated in tunnels only, and the action is none"
            self.findings.add("EX315", spot, message, "write `action: tunnel`, or remove `originateTLS`")
            return action
        ca = shape.originate_tls.ca
        if ca is None:
            return replace(action, origination=TlsOrigination())
        pem = parse_pem(ca.pem or "")
        if isinstance(pem, Problem):
            self.findings.add(pem.code, at(spot, "ca"), pem.message, pem.hint)
            return action
        return replace(action, origination=TlsOrigination(ca_pem=pem))

    def read(self, shape: ActionShape, node: Node) -> Action:
        """Return the action that `shape` names."""
        if shape.action == "tunnel":
            return self._read_tunnel(shape.proxy, node)
        if shape.proxy is not None:
            message = f"a proxy is given, but the action is {quote(shape.action)}"
            self.findings.add("EX311", at(node, "proxy"), message, "remove `proxy`, or write `action: tunnel`")
        return Direct() if shape.action == "direct" else Deny()

    def _read_tunnel(self, proxy: str | None, node: Node) -> Action:
        if proxy is None:
            if len(self.proxies) == 1:
                return Tunnel(self.proxies[0])
            message = "a tunnel needs a proxy, and none is named"
            hint = f"add `proxy`, one of {self._known()}" if self.proxies else "describe one under `spec.proxies`"
            self.findings.add("EX305", node, message, hint)
            return Deny()
        if not self._is_known(proxy):
            hint = f"known here: {self._known()}" if self.proxies else "describe it under `spec.proxies`"
            self.findings.add("EX304", at(node, "proxy"), f"there is no proxy {quote(proxy)}", hint)
            return Deny()
        return Tunnel(proxy)

    def _is_known(self, proxy: str) -> bool:
        # Every rule asks, and the proxies are sorted.
        index = bisect_left(self.proxies, proxy)
        return index < len(self.proxies) and self.proxies[index] == proxy

    def _known(self) -> str:
        names = ", ".join(quote(name) for name in self.proxies[:MAX_NAMES])
        more = len(self.proxies) - MAX_NAMES
        return f"{names} and {more} more" if more > 0 else names


def check_origination(action: Action, destinations: Collection[Destination], node: Node, findings: Findings) -> None:
    """Report TLS that would be originated to hosts that have no name to verify; no `destinations`: any host."""
    if not isinstance(action, Tunnel) or action.origination is None:
        return
    if not destinations or not all(isinstance(item.host, DomainPattern) for item in destinations):
        message = "TLS is originated to hosts that have no name here, so that nothing could verify them"
        findings.add("EX315", node, message, "write it in a rule whose `to` has `domains` only")
