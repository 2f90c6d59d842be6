"""
Warnings about a policy of the long form as a whole: parts that are fine each, but have no effect together.

They need a policy without errors, because with some, what is unused may be so because of them. Nothing
here changes what a policy means.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.hosts import Problem, is_address_like
from xds.policy.model import Action, PlainHttp, Policy, Proxy, Rule, Tunnel
from xds.policy.proxies import parse_endpoint
from xds.policy.rule_lints import lint_rules
from xds.policy.yaml_lines import Fields, Items, Node, Scalar, at

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.findings import Findings
    from xds.policy.model import Network

_HTTP_PORT = 80
_SHOWN = 5


def lint_long(policy: Policy, root: Fields, findings: Findings) -> None:
    """Warn of what `policy`, which was read from `root`, says in vain."""
    _lint_proxies(policy, root, findings)
    _lint_loop_guard(policy, root, findings)
    _lint_unknown_name(policy, root, findings)
    lint_rules(policy, root, findings)


def _lint_proxies(policy: Policy, root: Fields, findings: Findings) -> None:
    used = {action.proxy for action in _actions(policy) if isinstance(action, Tunnel)}
    proxies = {proxy.name: proxy for proxy in policy.proxies}
    for name in sorted(proxies.keys() - used):
        spot = at(root, "spec", "proxies", name)
        findings.add("EX308", spot, f"nothing uses the proxy {quote(name)}", "name it in a rule, or remove it")
    for rule in policy.rules:
        if isinstance(rule.action, Tunnel) and rule.action.proxy in proxies:
            _lint_connect_ports(rule, proxies[rule.action.proxy], findings)


def _default_actions(policy: Policy) -> tuple[Action, Action]:
    return policy.default.action, policy.default.http_action


def _actions(policy: Policy) -> Iterable[Action]:
    yield from _default_actions(policy)
    for rule in policy.rules:
        yield from (rule.action, rule.http_action)


def _lint_connect_ports(rule: Rule, proxy: Proxy, findings: Findings) -> None:
    if proxy.connect_ports is None:
        return
    asked = {port for destination in rule.destinations for port in destination.ports}
    if proxy.plain_http is PlainHttp.ABSOLUTE_FORM:
        # Plain HTTP in absolute form needs no CONNECT.
        asked.discard(_HTTP_PORT)
    refused = sorted(asked - set(proxy.connect_ports))
    if refused:
        ports = ", ".join(str(port) for port in refused[:_SHOWN]) + ("…" if len(refused) > _SHOWN else "")
        message = f"the rule {quote(rule.name)} tunnels to ports that {quote(proxy.name)} takes no CONNECT for: {ports}"
        findings.add_at(
            "EX224", rule.where, message, "they will be refused: add them to `connectPorts` if the proxy allows"
        )


def _lint_loop_guard(policy: Policy, root: Fields, findings: Findings) -> None:
    """Warn of proxies at synthetic addresses: no CIDR matches those (N10), not even the one of the loop guard (N15)."""
    for proxy in policy.proxies:
        endpoints = at(root, "spec", "proxies", proxy.name, "endpoints")
        assert isinstance(endpoints, Items), "a policy without errors has its endpoints in a list"
        for item in endpoints.items:
            url = at(item, "url")
            address = _address_of(url)
            if address is not None and any(_covers(network, address) for network in policy.synthetic_ranges):
                message = f"the proxy {quote(proxy.name)} is at {address.network_address}, which stands for a name here"
                findings.add(
                    "EX312", url, message, "take the proxy's address out of `dns.syntheticRange`, or correct it"
                )


def _address_of(url: Node) -> Network | None:
    assert isinstance(url, Scalar), "a policy without errors has text for its URLs"
    endpoint = parse_endpoint(url.text)
    assert not isinstance(endpoint, Problem), "a policy without errors has good URLs"
    return ip_network(endpoint.host) if is_address_like(endpoint.host) else None


def _covers(network: Network, address: Network) -> bool:
    return address.network_address in network


def _lint_unknown_name(policy: Policy, root: Fields, findings: Findings) -> None:
    """Warn of `onUnknownName` where no default tunnels: it speaks of connections that one would tunnel (N18)."""
    default = at(root, "spec", "default")
    assert isinstance(default, Fields), "a policy without errors has a default"
    given = default.fields.get("onUnknownName")
    if given is None or any(isinstance(action, Tunnel) for action in _default_actions(policy)):
        return
    message = "`onUnknownName` has no effect: it is for connections that the default would tunnel, and it tunnels none"
    findings.add("EX225", given, message, "remove it; rules and `default.action` decide without it")
