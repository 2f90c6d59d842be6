"""
The facts of this machine: what the proxies' names resolve to, and the addresses that are always direct (N12).

Always direct are the name servers of resolv.conf, the Kubernetes API server, the address that the control
plane itself listens on, and what the operator named. Names are looked up again regularly; one that fails keeps its last
addresses, and a resolv.conf without any name server, as while it is written, leaves those before. Nothing here decides
what a fact is good for. OSError and UnicodeError do not leave this module.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from xds.facts import DirectEndpoint, Facts, merge_networks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from pathlib import Path

    from xds.facts import Address
    from xds.flags import HostPort
    from xds.settings import Settings

DNS_PORT = 53

_RETRY = 5.0
"""Seconds until a name that has never resolved is tried again, if that is sooner than the usual interval."""

_LOOKUPS = 32
"""
Look-ups at a time. They have threads of their own, so that a dead name server does not keep compiles waiting; so many
that the names of one namespace's policies, if none of them resolves, leave some to the others.
"""


class NetworkFacts:
    """Collects facts with the system's resolver."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cluster_ranges = merge_networks(settings.cluster_cidr)
        self._pool = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="resolve")
        self._known: dict[str, tuple[Address, ...]] = {}
        self._failed: set[str] = set()
        self._name_servers: tuple[Address, ...] = ()

    async def collect(self, hosts: frozenset[str]) -> Facts:
        """Return the facts for `hosts`, looking up what is not known yet, and forget all other names."""
        api_server = self._settings.api_server
        wanted = {host for host in {*hosts, *([api_server.host] if api_server else [])} if _parse(host) is None}
        self._known = {host: known for host, known in self._known.items() if host in wanted}
        self._failed &= wanted
        await self._look_up(wanted - self._known.keys() - self._failed)
        return Facts(
            always_direct=_sort(self._always_direct()),
            cluster_ranges=self._cluster_ranges,
            addresses={host: self._known[host] for host in sorted(hosts & self._known.keys())},
            has_ipv6=self._settings.ip_families == "dual",
        )

    async def changes(self) -> AsyncIterator[None]:
        """Look every name up again at the interval of the settings; yield when an address changed."""
        while True:
            interval = self._settings.resolve_interval
            await asyncio.sleep(min(interval, _RETRY) if self._failed else interval)
            before = dict(self._known)
            await self._look_up(self._known.keys() | self._failed)
            if self._known != before:
                yield

    async def _look_up(self, hosts: Iterable[str]) -> None:
        names = sorted(hosts)
        for host, found in zip(names, await asyncio.gather(*map(self._resolve, names)), strict=True):
            if found:
                self._known[host] = found
                self._failed.discard(host)
            elif host not in self._known:
                self._note_failure(host)

    async def _resolve(self, host: str) -> tuple[Address, ...]:
        """Return the addresses of `host`, sorted; none if there is no answer in time."""
        lookup = asyncio.get_running_loop().run_in_executor(self._pool, _ask_system, host)
        try:
            return await asyncio.wait_for(lookup, self._settings.resolve_timeout)
        except (OSError, UnicodeError, TimeoutError):
            return ()

    def _note_failure(self, host: str) -> None:
        if host not in self._failed:
            import structlog  # noqa: PLC0415  # takes longer to import than most commands to answer

            log = structlog.get_logger(__name__)
            log.warning("name does not resolve; connections to it are not recognised as the proxy's", host=host)
        self._failed.add(host)

    def _always_direct(self) -> Iterable[DirectEndpoint]:
        if self._settings.resolv_conf is not None:
            self._name_servers = read_name_servers(self._settings.resolv_conf) or self._name_servers
        for address in self._name_servers:
            yield DirectEndpoint(reason="DNS servers", network=ip_network(address), ports=(DNS_PORT,))
        if self._settings.api_server is not None:
            yield from _endpoints("the API server", self._settings.api_server, self._known)
        if self._settings.listen.port:
            listening = _endpoints("the control plane", self._settings.listen, {})
            yield from (endpoint for endpoint in listening if _is_reachable(endpoint.network.network_address))
        for direct in self._settings.always_direct:
            yield DirectEndpoint(reason=direct.reason, network=direct.network, ports=direct.ports)


def read_name_servers(resolv_conf: Path) -> tuple[Address, ...]:
    """Return the name servers of a resolv.conf(5), but for those on this host; none if it can't be read."""
    try:
        text = resolv_conf.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    words = [line.split() for line in text.splitlines()]
    found = [_parse(line[1]) for line in words if len(line) > 1 and line[0] == "nameserver"]
    return tuple(dict.fromkeys(address for address in found if address is not None and _is_reachable(address)))


def _ask_system(host: str) -> tuple[Address, ...]:
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found = {address for *_, sockaddr in answers if (address := _parse(str(sockaddr[0]))) is not None}
    return tuple(sorted(found, key=lambda address: (address.version, int(address))))


def _endpoints(reason: str, at: HostPort, known: Mapping[str, tuple[Address, ...]]) -> Iterable[DirectEndpoint]:
    literal = _parse(at.host)
    for address in known.get(at.host, ()) if literal is None else (literal,):
        yield DirectEndpoint(reason=reason, network=ip_network(address), ports=(at.port,))


def _parse(text: str) -> Address | None:
    """Return the address that `text` is, without its zone; None if it is a name."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _is_reachable(address: Address) -> bool:
    """Whether another host could mean this one by `address`."""
    return not (address.is_loopback or address.is_unspecified)


def _sort(endpoints: Iterable[DirectEndpoint]) -> tuple[DirectEndpoint, ...]:
    """Return each endpoint once, in an order that does not depend on how it was found."""
    return tuple(sorted(set(endpoints), key=lambda item: (item.reason, str(item.network), item.ports)))
