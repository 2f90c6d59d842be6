"""
Where clients do otherwise than the policy says although the variables say what variables can.

Each client is asked about hosts that an entry is for, as its own code reads the entry. Nothing here decides what is
rendered. Invariant: the cost grows with the policy, not with its square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.dialects.clients import CLIENTS, decide
from xds.explain.no_proxy import render_entries
from xds.policy.model import Direct, DomainPattern, Tunnel, UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import Destination, Policy, Proxy

_MAX_ASKED = 500
"""Destinations that clients are asked about: those after them are of the same few kinds."""
_MAX_SHOWN = 3
_HTTPS = 443


def find_losses(policy: Policy, proxies: Iterable[Proxy]) -> tuple[str, ...]:
    """Return sentences about what clients that read the variables do otherwise; `proxies` are those that are named."""
    direct = [item for rule in policy.rules if rule.action == Direct() for item in rule.destinations][:_MAX_ASKED]
    return (*_of_proxies(proxies), *_of_default(policy), *_of_entries(direct))


def _of_proxies(proxies: Iterable[Proxy]) -> Iterable[str]:
    for proxy in proxies:
        first = proxy.endpoints[0]
        if len(proxy.endpoints) > 1:
            others = len(proxy.endpoints) - 1
            yield f"of the proxy {proxy.name} only {first.host} is named: there is no fail-over to {others} more"
        if first.tls:
            yield f"the proxy {proxy.name} is reached by TLS, which wget and Java do not know"
            if proxy.tls.ca_pem is not None or proxy.tls.ca_file is not None:
                yield f"applications must trust the authorities of the proxy {proxy.name} themselves"


def _of_default(policy: Policy) -> Iterable[str]:
    default = policy.default
    is_proxied = isinstance(default.action, Tunnel) or isinstance(default.http_action, Tunnel)
    if is_proxied and default.on_unknown_name is UnknownName.DIRECT:
        yield "hosts without a name go through the proxy, too"


def _of_entries(direct: Iterable[Destination]) -> Iterable[str]:
    fewer: dict[tuple[str, ...], list[str]] = {}
    more: dict[tuple[str, ...], list[str]] = {}
    for destination in direct:
        entries = tuple(render_entries([destination]))
        if not entries:
            continue
        ignored = _clients(entries, destination, _samples(destination), goes_direct=False)
        fewer.setdefault(ignored, []).append(entries[0])
        if isinstance(destination.host, DomainPattern) and not destination.host.apex:
            widened = _clients(entries, destination, [destination.host.name], goes_direct=True)
            more.setdefault(widened, []).append(entries[0])
    for clients, texts in fewer.items():
        if clients:
            yield f"{_list(clients)} use the proxy for some or all that {_show(texts)} means"
    for clients, texts in more.items():
        if clients:
            yield f"{_list(clients)} take {_show(texts)} for the name itself, too"


def _clients(
    entries: tuple[str, ...], destination: Destination, hosts: Iterable[str], *, goes_direct: bool
) -> tuple[str, ...]:
    """Return the clients that do so for any of `hosts`."""
    asked = [(host, port) for host in hosts for port in destination.ports or (_HTTPS,)]
    text = ",".join(entries)
    return tuple(
        client.title
        for name, client in CLIENTS.items()
        if client.reads_environment
        and any(decide(name, text, host, port).goes_direct is goes_direct for host, port in asked)
    )


def _samples(destination: Destination) -> list[str]:
    """Return hosts that a destination is for, as they stand in a URL."""
    match destination.host:
        case DomainPattern() as pattern:
            return [pattern.name] * pattern.apex + [f"a.{pattern.name}"] * pattern.subdomains
        case None:
            return []
        case network:
            return [str(network.network_address + (network.num_addresses - 1))]


def _list(titles: tuple[str, ...]) -> str:
    *most, last = titles
    return f"{', '.join(most)} and {last}" if most else last


def _show(texts: list[str]) -> str:
    shown = ", ".join(f"`{text}`" for text in texts[:_MAX_SHOWN])
    return shown if len(texts) <= _MAX_SHOWN else f"{shown} and {len(texts) - _MAX_SHOWN} more"
