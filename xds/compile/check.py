"""
What there is to say about a policy before a single resource is built from it.

`check_policy` takes a policy apart as far as every listener and route needs it, and finds all that is wrong with it.
This module must not know Envoy: whoever only wants to know whether a policy is good imports no message. Invariant: a
policy without an error here compiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.compile.builtin import builtin_rules
from xds.compile.decisions import Plan, build_plan
from xds.compile.explicit_plans import ExplicitPlans, build_explicit_plans
from xds.compile.hosts import is_address
from xds.compile.proxy_files import read_material
from xds.compile.synthetic import Synthetic, build_synthetic, check_synthetic
from xds.diagnostics import Diagnostic
from xds.policy.model import DnsMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.facts import Facts
    from xds.policy.model import Policy, Proxy
    from xds.snapshot import Snapshot

MAX_SEGMENTS = 40
"""Each look-up nests two messages deeper, and protobuf parsers stop at a hundred."""


@dataclass(frozen=True, slots=True)
class Compilation:
    """The result: `snapshot` is None exactly if a diagnostic is an error."""

    snapshot: Snapshot | None
    diagnostics: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A policy as look-ups, and what is wrong with it."""

    plan: Plan
    """Decides TLS and other TCP."""
    http_plan: Plan
    explicit: ExplicitPlans | None
    """None unless applications may know of a proxy."""
    synthetic: Synthetic | None
    """None if the policy leaves name servers alone."""
    diagnostics: tuple[Diagnostic, ...]

    @property
    def is_good(self) -> bool:
        """Whether resources can be built from it."""
        return not any(diagnostic.is_error for diagnostic in self.diagnostics)


def check_policy(policy: Policy, facts: Facts) -> Checked:
    """Take `policy` apart and judge it."""
    builtin = builtin_rules(policy, facts)
    rules = builtin + policy.rules
    shields = policy.synthetic_ranges
    plan = build_plan(rules, lambda rule: rule.action, policy.default.action, shields)
    http_plan = build_plan(rules, lambda rule: rule.http_action, policy.default.http_action, shields)
    explicit = None if policy.explicit_port is None else build_explicit_plans(rules, policy)
    synthetic = build_synthetic(policy, rules, plan, http_plan)
    plans = (plan, http_plan, *(() if explicit is None else (explicit.connect, explicit.http)))
    findings = [*_check_depth(policy, plans), *(one for proxy in policy.proxies for one in _check_proxy(proxy, facts))]
    if synthetic is not None:
        findings += check_synthetic(synthetic, policy, builtin)
    return Checked(plan=plan, http_plan=http_plan, explicit=explicit, synthetic=synthetic, diagnostics=tuple(findings))


def _check_depth(policy: Policy, plans: Iterable[Plan]) -> Iterable[Diagnostic]:
    deepest = max(len(plan.segments) for plan in plans)
    # Two more look-ups are for the addresses that stand for names.
    most = MAX_SEGMENTS - 2 * (policy.dns_mode is DnsMode.CAPTURE)
    if deepest > most:
        yield Diagnostic(
            "EX501",
            policy.where,
            f"the rules change between names, addresses and ports {deepest} times; {most} is the most",
            "put rules with the same action next to each other, addresses before names",
        )


def _check_proxy(proxy: Proxy, facts: Facts) -> Iterable[Diagnostic]:
    yield from read_material(proxy, facts)[1]
    for endpoint in proxy.endpoints:
        if endpoint.tls and is_address(endpoint.host) and proxy.tls.server_name is None:
            # The short form has keys of its own at the top, and none for what a certificate says.
            form = "" if "." in proxy.where.key else " in the long form"
            yield Diagnostic(
                "EX502",
                proxy.where,
                f"proxy {proxy.name!r} is reached by TLS at an address, so its certificate names an unknown host",
                f"write the proxy's name in its URL, or the name in its certificate as tls.serverName{form}",
            )
