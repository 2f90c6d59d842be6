"""
PAC files: FindProxyForURL, as far as rules can say it.

`https` stands for TLS and all other TCP, `http` for plain HTTP: the file is compiled once for each, and both lists
become rules with one action for each. What rules can't say is hedged and told. Invariant: a connection is direct only
where the file says so whatever the unknown conditions are. Three readings are looser, and told: patterns for addresses
also match what a name resolves to, ends of names begin at a dot, and patterns for URLs do not look into paths.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from xds.importers.imported import Changes, Imported
from xds.importers.pac_budget import Budget
from xds.importers.pac_program import compile_program
from xds.importers.pac_regions import EVERYTHING, Region, Rows, Verdict, Way, multiply
from xds.importers.pac_syntax import ENTRY, parse_program
from xds.importers.variables import build_document, tell_general

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.importers.imported import Wish
    from xds.policy.model import DomainPattern, Network

EXACT = "node"
"""The dialect in which a name alone is that name, so that every pattern can be written."""

_A_PROXY = re.compile(r"[\"'`;]\s*(?:PROXY|HTTPS?|SOCKS[45]?)\s", re.IGNORECASE)
"""The front of a proxy in a text of JavaScript, as results have it."""

Verdicts = tuple[Verdict, Verdict]
"""For TLS and other TCP; for plain HTTP."""


def import_pac(text: str, wish: Wish) -> Imported:
    """
    Return the policy of a PAC file.

    Raises SourceError if the parser is missing, or if the text is no such file or too large to follow.
    """
    changes = Changes(wish.source)
    budget = Budget(wish.source)
    program = parse_program(text, wish.source)
    https, http = (compile_program(program, scheme, changes, budget) for scheme in ("https", "http"))
    rows = multiply(https, http, _pair, budget)
    proxies = _name_proxies(verdict for _, pair in rows for verdict in pair)
    rules = _build_rules(rows[:-1], proxies, changes)
    spec: dict[str, object] = {"proxies": {name: _build_proxy(urls) for urls, name in proxies.items()}}
    if rules:
        spec["rules"] = rules
    spec |= {"default": _actions(rows[-1][1], proxies), "dialect": EXACT}
    if not proxies:
        _tell_no_proxy(text, changes)
    tell_general(changes)
    return Imported(build_document(wish, spec), tuple(changes.found))


def _tell_no_proxy(text: str, changes: Changes) -> None:
    message = "no path leads to a proxy that a policy could name"
    if _A_PROXY.search(text):
        changes.lost(ENTRY, f"{message}, though the file names some", "write the rules by hand, or import another file")
    else:
        changes.changed(ENTRY, message, "import another file")


def _pair(https: Verdict, http: Verdict) -> Verdicts:
    return https, http


def _name_proxies(verdicts: Iterable[Verdict]) -> dict[tuple[str, ...], str]:
    """Return a name for each list of proxies, in the order in which they are met."""
    found = dict.fromkeys(verdict.proxies for verdict in verdicts if verdict.way is Way.TUNNEL)
    return {urls: "proxy" if number == 1 else f"proxy-{number}" for number, urls in enumerate(found, 1)}


def _build_proxy(urls: Sequence[str]) -> dict[str, object]:
    endpoints: list[dict[str, object]] = [{"url": url} for url in urls]
    for priority, endpoint in enumerate(endpoints):
        if priority:
            endpoint["priority"] = priority
    return {"endpoints": endpoints}


def _actions(verdicts: Verdicts, proxies: Mapping[tuple[str, ...], str]) -> dict[str, object]:
    https, http = verdicts
    found = _action(https, proxies)
    return found if https == http else {**found, "http": _action(http, proxies)}


def _action(verdict: Verdict, proxies: Mapping[tuple[str, ...], str]) -> dict[str, object]:
    if verdict.way is Way.TUNNEL:
        return {"action": verdict.way.value, "proxy": proxies[verdict.proxies]}
    return {"action": verdict.way.value}


def _build_rules(
    rows: Rows[Verdicts], proxies: Mapping[tuple[str, ...], str], changes: Changes
) -> list[dict[str, object]]:
    rules: list[dict[str, object]] = []
    for verdicts, run in groupby(rows, key=lambda row: row[1]):
        is_direct = any(verdict.way is Way.DIRECT for verdict in verdicts)
        regions = [region for row, _ in run if (region := _fit(row, verdicts, changes)) is not None]
        for to, verify in _group(regions):
            rule = {"name": f"{verdicts[0].way.value}-{len(rules) + 1}", "to": to, **_actions(verdicts, proxies)}
            rules.append({**rule, "verify": verify} if verify else rule)
            if is_direct and "domains" in to and not verify:
                message = "where names go direct, the policy believes every client that claims such a name"
                changes.note(ENTRY, message, "write `verify` with the networks of these hosts")
    return rules


def _fit(region: Region, verdicts: Verdicts, changes: Changes) -> Region | None:
    """Return what a rule can match of `region`; more of it only where that makes nothing direct."""
    name, network = region.name, region.network
    is_direct = any(verdict.way is Way.DIRECT for verdict in verdicts)
    if is_direct and name is not None and "." not in name.name and not name.subdomains:
        message = f"`{name.name}`: a name without a dot is recognised by its address, so no rule is made for it"
        changes.changed(ENTRY, message, "hosts of the cluster are known; add the networks of any others")
        return None
    if name is None or network is None:
        return region
    if verdicts[0] != verdicts[1] or not is_direct:
        message = f"`{name.name}` with {network}: names and addresses at once are for direct rules only"
        changes.lost(ENTRY, message, "what is not direct is decided by the name, whatever the address")
    # The network of a direct rule verifies its names, so that it widens nothing.
    return region if is_direct else Region(name, None, region.ports)


def _group(regions: Sequence[Region]) -> Iterable[tuple[dict[str, object], list[str]]]:
    """Join what one rule can say; yield what each matches, and the networks that verify its names."""
    verified: dict[tuple[DomainPattern, frozenset[int] | None], list[Network]] = {}
    rules: dict[tuple[tuple[Network, ...], frozenset[int] | None], list[Region]] = {}
    for region in regions:
        if region.name is not None and region.network is not None:
            verified.setdefault((region.name, region.ports), []).append(region.network)
        else:
            rules.setdefault(((), region.ports), []).append(region)
    for (name, ports), networks in verified.items():
        rules.setdefault((tuple(networks), ports), []).append(Region(name, None, ports))
    for (networks_of, ports), members in rules.items():
        yield _to(members, ports), [str(network) for network in networks_of]


def _to(members: Sequence[Region], ports: frozenset[int] | None) -> dict[str, object]:
    assert EVERYTHING not in members, "the last row is the default"
    domains = [text for member in members if member.name is not None for text in _texts(member.name)]
    cidrs = [_show(member.network) for member in members if member.network is not None]
    to: dict[str, object] = {}
    if ports is None or all(member.name or member.network for member in members):
        to |= {key: list(dict.fromkeys(texts)) for key, texts in (("domains", domains), ("cidrs", cidrs)) if texts}
    return to | ({"ports": sorted(ports)} if ports is not None else {})


def _texts(pattern: DomainPattern) -> Iterable[str]:
    if pattern.apex:
        yield pattern.name
    if pattern.subdomains:
        yield f"*.{pattern.name}"


def _show(network: Network) -> str:
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if whole else str(network)
