"""
The list that clients would be given as NO_PROXY in place of a policy, and what each would make of it.

Nothing here reads a list; that is the room of the clients' dialects. Invariant: a list that is not written in the
policy is offered only where it says what the policy says, read as Go reads it; else there is a reason why not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.dialects.clients import CLIENTS, decide
from xds.policy.model import Deny, Direct, DomainPattern, Tunnel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import Destination, Network, Policy


@dataclass(frozen=True, slots=True)
class NoProxy:
    """The list, or why there is none; `origin` says where it comes from."""

    entries: tuple[str, ...] = ()
    origin: str = ""
    missing: str = ""

    @property
    def text(self) -> str:
        """The value of the variable."""
        return ",".join(self.entries)


@dataclass(frozen=True, slots=True)
class ClientAnswer:
    """What one client would do with the list."""

    client: str
    title: str
    goes_direct: bool
    why: str


def choose_no_proxy(policy: Policy, written: tuple[str, ...] | None) -> NoProxy:
    """Return the list of a policy; `written` are the entries of `noProxy`, if its document has that form."""
    if written is not None:
        return NoProxy(written, origin="noProxy")
    missing = _why_none(policy)
    if missing:
        return NoProxy(missing=missing)
    found = [item for rule in policy.rules if rule.action == Direct() for item in rule.destinations]
    return NoProxy(tuple(render_entries(found)), origin="the policy's direct rules")


def render_entries(destinations: Iterable[Destination]) -> Iterable[str]:
    """Yield the entries that stand for destinations which `choose_no_proxy` finds can be said."""
    for destination in destinations:
        yield from _entries(destination) or ()


def ask_clients(no_proxy: NoProxy, host: str, port: int, scheme: str) -> tuple[ClientAnswer, ...]:
    """Return what every client that is known would do."""
    if no_proxy.missing:
        return ()
    answers = {name: decide(name, no_proxy.text, host, port, scheme=scheme) for name in CLIENTS}
    return tuple(
        ClientAnswer(name, CLIENTS[name].title, answer.goes_direct, answer.why) for name, answer in answers.items()
    )


def _why_none(policy: Policy) -> str:
    """Return why no list says what the policy's rules say; empty: one does."""
    if not isinstance(policy.default.action, Tunnel) or not isinstance(policy.default.http_action, Tunnel):
        return "its default is not the proxy, which no NO_PROXY can say"
    is_past_direct = False
    for rule in policy.rules:
        if rule.action != rule.http_action and Direct() in (rule.action, rule.http_action):
            return f"rule {rule.name} treats plain HTTP differently"
        if rule.action != Direct():
            is_past_direct = True
        elif is_past_direct:
            return f"rule {rule.name} sends direct what earlier rules may not, and a NO_PROXY has no order"
        elif any(_entries(item) is None for item in rule.destinations):
            return f"rule {rule.name} lists what no entry of a NO_PROXY says"
    if any(Deny() in (rule.action, rule.http_action) for rule in policy.rules):
        return "it refuses some connections, which no NO_PROXY can say"
    return ""


def _entries(destination: Destination) -> Iterable[str] | None:
    """
    Return a destination as entries that Go reads so; None: there are none.

    Everything is said in each way that some client needs and none reads as more: `x` is the name alone to axios, .NET
    and `http` of Node.js, which take `.x` for what is below it; IPv6 is with brackets for some and without for others.
    """
    match destination.host:
        case DomainPattern(name, apex=True, subdomains=True):
            texts = [name, f".{name}"]
        case DomainPattern(name, apex=False):
            texts = [f".{name}"]
        case None | DomainPattern():
            return None
        case network:
            is_host = network.prefixlen == network.max_prefixlen
            if destination.ports and not is_host:
                return None
            texts = _address_entries(network, has_ports=bool(destination.ports)) if is_host else [str(network)]
    return [f"{text}:{port}" for port in destination.ports for text in texts] or texts


def _address_entries(network: Network, *, has_ports: bool) -> list[str]:
    text = str(network.network_address)
    if network.version == 4:  # noqa: PLR2004 - the family
        return [text]
    return [f"[{text}]"] if has_ports else [text, f"[{text}]"]
