"""
How clients read one entry of NO_PROXY, asked of each of them by examples.

Nothing here knows a policy: the readings of `xds.dialects` are put into words. Invariant: only clients that look at
the variables by themselves are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.dialects.clients import CLIENTS, decide
from xds.policy.model import DomainPattern
from xds.policy.patterns import Reading, join_names

if TYPE_CHECKING:
    from xds.policy.patterns import Entry

_PORT, _OTHER_PORT = 443, 8443


def compare_names(text: str, entry: Entry, own: Reading) -> str:
    """Return how clients read a name in another way than `own`; empty if none does."""
    assert isinstance(entry.host, DomainPattern), "an entry for a name"
    port = _PORT if entry.port is None else entry.port
    found: dict[Reading, list[str]] = {}
    for client in _all():
        apex, below = (_is_direct(client, text, host, port) for host in (entry.host.name, f"x.{entry.host.name}"))
        is_told = entry.port is not None and not apex and not below
        if Reading(apex, below) != own and not is_told:
            found.setdefault(Reading(apex, below), []).append(CLIENTS[client].title)
    differing = ", ".join(f"by {join_names(clients)} as {reading.words}" for reading, clients in found.items())
    return f"read as {own.words}, but {differing}" if differing else ""


def compare_ports(text: str, entry: Entry) -> str:
    """Return which clients do not mind the port of an entry, or take none with a port; empty if there are none."""
    never: list[str] = []
    always: list[str] = []
    host, port = _example(entry), entry.port or _PORT
    for client in _all():
        if not _is_direct(client, text, host, port):
            never.append(CLIENTS[client].title)
        elif _is_direct(client, text, host, _OTHER_PORT if port != _OTHER_PORT else _PORT):
            always.append(CLIENTS[client].title)
    parts = [f"by {join_names(never)} not at all"] if never else []
    parts += [f"by {join_names(always)} for every port"] if always else []
    return f"read with the port, but {', '.join(parts)}" if parts else ""


def compare_networks(text: str, entry: Entry) -> str:
    """Return which clients match addresses with an entry, and which do not."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for client in _all():
        found[_is_direct(client, text, _example(entry), entry.port or _PORT)].append(CLIENTS[client].title)
    matching = f"{join_names(found[True])} match it with addresses in URLs" if found[True] else ""
    ignoring = f"{join_names(found[False])} ignore it" if found[False] else ""
    return ", ".join(part for part in (matching, ignoring) if part)


def _example(entry: Entry) -> str:
    """Return a host that the entry is meant for."""
    assert entry.host is not None, "an entry for everything is not compared"
    if isinstance(entry.host, DomainPattern):
        return entry.host.name if entry.host.apex else f"x.{entry.host.name}"
    return str(entry.host[min(1, entry.host.num_addresses - 1)])


def _all() -> list[str]:
    return [name for name, client in CLIENTS.items() if client.reads_environment]


def _is_direct(client: str, text: str, host: str, port: int) -> bool:
    return decide(client, text, host, port).goes_direct
