"""
The proxy variables of an application, made of the policy that is in force for its pod.

Nothing here reads a pod or a cluster. Invariant: a list is rendered only if no client that is known goes direct by it
where the policy says otherwise, but for what an entry of the policy itself says to that client; and what variables
can't say is refused, never left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.explain.no_proxy import choose_no_proxy
from xds.policy.model import Tunnel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import Action, Network, Policy

_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1")
_CLUSTER_LOCAL = (".svc", ".cluster.local")


class CannotDeliverError(Exception):
    """Variables can't say what the policy says. The message is for whoever makes the pod or the policy."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Variables:
    """
    The values of the variables; empty: what it would be for goes direct.

    `losses` are sentences about what clients make of the list otherwise than the policy does.
    """

    http_proxy: str
    https_proxy: str
    no_proxy: str
    losses: tuple[str, ...] = ()

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return all six names with their values: some clients read upper case only, others lower case."""
        pairs = (("HTTP_PROXY", self.http_proxy), ("HTTPS_PROXY", self.https_proxy), ("NO_PROXY", self.no_proxy))
        return (*pairs, *((name.lower(), value) for name, value in pairs))


def render_explicit_mode(policy: Policy, networks: Iterable[Network]) -> Variables:
    """
    Return the variables for a pod whose sidecar is its proxy; `networks` are the cluster's.

    Raises CannotDeliverError if the policy has no port for that.
    """
    if policy.explicit_port is None:
        reason = f"the policy {policy.name} has no port for explicit mode"
        raise CannotDeliverError(reason, "write `mode: explicit`, or `explicit: {port: 15002}` in its long form")
    url = f"http://127.0.0.1:{policy.explicit_port}"
    return Variables(url, url, ",".join(_always_direct(policy, networks)))


def render_env_mode(
    policy: Policy, networks: Iterable[Network], no_proxy_written: tuple[str, ...] | None = None
) -> Variables:
    """
    Return the variables for a pod without a sidecar; `networks` are the cluster's.

    `no_proxy_written` are the entries of `noProxy`, if they are known as they were written. Raises CannotDeliverError
    if variables can't say what the policy says.
    """
    chosen = choose_no_proxy(policy, no_proxy_written)
    if chosen.missing:
        raise CannotDeliverError(f"the policy {policy.name}: {chosen.missing}", "choose another mode")
    entries = (*_always_direct(policy, networks), *chosen.entries)
    return Variables(
        _render_url(policy, policy.default.http_action),
        _render_url(policy, policy.default.action),
        ",".join(dict.fromkeys(entries)),
    )


def _render_url(policy: Policy, action: Action) -> str:
    if not isinstance(action, Tunnel):
        return ""
    endpoint = next(proxy for proxy in policy.proxies if proxy.name == action.proxy).endpoints[0]
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{'https' if endpoint.tls else 'http'}://{host}:{endpoint.port}"


def _always_direct(policy: Policy, networks: Iterable[Network]) -> Iterable[str]:
    kept = policy.always_direct
    if kept.loopback:
        yield from _LOOPBACK
    if kept.cluster_local:
        yield from _CLUSTER_LOCAL
    if kept.cluster_networks:
        yield from map(str, networks)
