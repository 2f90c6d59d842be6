"""
The proxy variables of an application, made of the policy that is in force for its pod.

Nothing here reads a pod or a cluster. Invariant: a list is rendered only if no client that is known goes direct by it
where the policy says otherwise, but for what an entry of the policy itself says to that client; and what variables
can't say is refused, never left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xds.diagnostics import Diagnostic
from xds.explain.no_proxy import choose_no_proxy, render_entries
from xds.injection.losses import find_losses
from xds.policy.model import (
    Deny,
    Destination,
    Direct,
    DomainPattern,
    Mode,
    PlainHttp,
    ProxyProtocol,
    Tunnel,
    UnknownName,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import Action, Network, Policy, Proxy, Rule

MAX_NO_PROXY = 96 * 1024
"""Characters of a list; the kernel takes 128 KiB for one variable."""

_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "[::1]")
_LINK_LOCAL = ("169.254.169.254", "169.254.0.0/16", "fe80::/10", "fd00:ec2::254", "[fd00:ec2::254]")
_CLUSTER_LOCAL = (".svc", ".cluster.local")
_API_SERVER = "$(KUBERNETES_SERVICE_HOST)"
"""The kubelet puts the address of the API server there; elsewhere it is a name that no host has."""

_OTHER_MODE = "choose the mode `transparent` or `explicit`, in which the sidecar sees to it"


class CannotDeliverError(Exception):
    """Variables can't say what the policy says. The message is for whoever makes the pod or the policy."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Variables:
    """
    The values of the variables; an empty URL: what it would be for goes direct.

    `losses` say, each in a sentence, where clients do otherwise than the policy says.
    """

    http_proxy: str
    https_proxy: str
    no_proxy: str
    losses: tuple[str, ...] = ()

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return all six names with their values: some clients read upper case first, others lower case."""
        pairs = (("HTTP_PROXY", self.http_proxy), ("HTTPS_PROXY", self.https_proxy), ("NO_PROXY", self.no_proxy))
        return (*pairs, *((name.lower(), value) for name, value in pairs))


def render_explicit_mode(policy: Policy, networks: Iterable[Network]) -> Variables:
    """
    Return the variables for a pod whose sidecar is its proxy; `networks` are the cluster's.

    Only what stays within the pod and the cluster goes past the sidecar: the policy decides the rest there. Raises
    CannotDeliverError if the policy has no port for that.
    """
    if policy.explicit_port is None:
        reason = f"the policy {policy.name} has no port for explicit mode"
        raise CannotDeliverError(reason, "add `explicit: {port: 15002}` to it, or `mode: explicit`")
    url = f"http://127.0.0.1:{policy.explicit_port}"
    return Variables(url, url, _join(policy, _always_direct(policy, networks)))


def render_env_mode(
    policy: Policy, networks: Iterable[Network], no_proxy_written: tuple[str, ...] | None = None
) -> Variables:
    """
    Return the variables for a pod without a sidecar; `networks` are the cluster's.

    `no_proxy_written` are the entries of `noProxy`, where they are known as they are written: they are kept beside what
    is derived from them. Raises CannotDeliverError if variables can't say what the policy says.
    """
    http, https = _check_all(policy)
    own, losses = _own_entries(policy, no_proxy_written)
    named = tuple(dict.fromkeys(proxy for proxy in (https, http) if proxy is not None))
    if not named:
        return Variables("", "", "")
    no_proxy = _join(policy, (*_always_direct(policy, networks), *own))
    return Variables(_render_url(http), _render_url(https), no_proxy, (*find_losses(policy, named), *losses))


def check_env_mode(policy: Policy) -> tuple[Diagnostic, ...]:
    """Report a policy that is to reach pods by variables alone and can't."""
    if policy.mode is not Mode.ENV:
        return ()
    try:
        _check_all(policy)
        own, _ = _own_entries(policy, None)
        _join(policy, (*_always_direct(policy, ()), *own))
    except CannotDeliverError as error:
        return (Diagnostic("EX507", policy.where, error.reason, error.remedy),)
    return ()


def _refusal(policy: Policy, reason: str, remedy: str = _OTHER_MODE) -> CannotDeliverError:
    return CannotDeliverError(f"variables can't say what the policy {policy.name} says: {reason}", remedy)


def _check_all(policy: Policy) -> tuple[Proxy | None, Proxy | None]:
    """Refuse what no variable says, but for the list; return the proxies of plain HTTP and of the rest."""
    _check_default(policy)
    for rule in policy.rules:
        _check_rule(policy, rule)
    http, https = _find_proxy(policy, policy.default.http_action), _find_proxy(policy, policy.default.action)
    for proxy in (https, http):
        if proxy is not None:
            _check_proxy(policy, proxy)
    if http is not None and http.plain_http is not PlainHttp.ABSOLUTE_FORM:
        reason = f"the proxy {http.name} has `plainHTTP: {http.plain_http.value}`, and clients send it in absolute form"
        raise _refusal(policy, reason)
    return http, https


def _check_default(policy: Policy) -> None:
    default = policy.default
    actions = (default.action, default.http_action)
    if Deny() in actions:
        raise _refusal(policy, "by default it refuses connections")
    tunnels = [action for action in actions if isinstance(action, Tunnel)]
    if tunnels and default.on_unknown_name is UnknownName.DENY:
        raise _refusal(policy, "it refuses connections to hosts without a name")
    if any(tunnel.origination is not None for tunnel in tunnels):
        raise _refusal(policy, "by default it makes HTTPS of plain HTTP")


def _check_rule(policy: Policy, rule: Rule) -> None:
    """Refuse what a rule says beyond `direct`, and beyond what the default says anyway."""
    default = policy.default
    for action, usual in ((rule.action, default.action), (rule.http_action, default.http_action)):
        match action:
            case Deny():
                raise _refusal(policy, f"the rule {rule.name} refuses connections")
            case Tunnel() if action != usual:
                raise _refusal(policy, f"the rule {rule.name} says otherwise than the default which proxy is used")
            case _:
                pass
    names = [item.host for item in rule.destinations if isinstance(item.host, DomainPattern)]
    if rule.verify and names:
        remedy = (
            f"write `verify: none` (short form: `noProxyVerify: none`) if clients may be believed, or {_OTHER_MODE}"
        )
        raise _refusal(policy, f"the rule {rule.name} looks at the addresses of names, which no client does", remedy)


def _check_proxy(policy: Policy, proxy: Proxy) -> None:
    """Refuse what a proxy demands and variables can't name; a password in a variable could be read by everybody."""
    what = ""
    if proxy.login is not None:
        what = "demands a login, which would stand in the pod for everybody to read"
    elif proxy.tls.client_certificate is not None:
        what = "demands a client certificate"
    elif proxy.tls.server_name is not None:
        what = "has a certificate for another name than its own"
    elif proxy.protocol is ProxyProtocol.HTTP2:
        what = "is spoken to in HTTP/2, which clients do not do"
    if what:
        raise _refusal(policy, f"the proxy {proxy.name} {what}")


def _own_entries(policy: Policy, written: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the entries for the policy's own rules, and what is lost of these."""
    default = policy.default
    proxied = default.action if isinstance(default.action, Tunnel) else default.http_action
    if not isinstance(proxied, Tunnel):
        return (), ()
    # Where one of both goes direct anyway it needs no entries, and those for the other do no harm.
    chosen = choose_no_proxy(replace(policy, default=replace(default, action=proxied, http_action=proxied)), None)
    if chosen.missing and not written:
        raise _refusal(policy, chosen.missing)
    _check_apexes(policy)
    if chosen.missing:
        return tuple(written or ()), ("entries stand as they are written, and each client reads them in its own way",)
    return (*(written or ()), *chosen.entries), ()


def _check_apexes(policy: Policy) -> None:
    """Refuse what most clients would read as more: to them `.x` is `x` too, which another rule sends elsewhere."""
    direct = [item for rule in policy.rules if rule.action == Direct() for item in rule.destinations]
    below = {item.host.name for item in direct if isinstance(item.host, DomainPattern) and not item.host.apex}
    for rule in policy.rules:
        for item in rule.destinations:
            name = item.host.name if isinstance(item.host, DomainPattern) and item.host.apex else ""
            if rule.action != Direct() and name in below:
                raise _refusal(
                    policy, f"the rule {rule.name} is about {name}, and to most clients `.{name}` is that too"
                )


def _find_proxy(policy: Policy, action: Action) -> Proxy | None:
    if not isinstance(action, Tunnel):
        return None
    return next(proxy for proxy in policy.proxies if proxy.name == action.proxy)


def _render_url(proxy: Proxy | None) -> str:
    if proxy is None:
        return ""
    endpoint = proxy.endpoints[0]
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{'https' if endpoint.tls else 'http'}://{host}:{endpoint.port}"


def _always_direct(policy: Policy, networks: Iterable[Network]) -> Iterable[str]:
    kept = policy.always_direct
    if kept.loopback:
        yield from _LOOPBACK
    if kept.link_local:
        yield from _LINK_LOCAL
    if kept.cluster_local:
        yield from _CLUSTER_LOCAL
    yield _API_SERVER
    if kept.cluster_networks:
        yield from render_entries(map(Destination, networks))


def _join(policy: Policy, entries: Iterable[str]) -> str:
    text = ",".join(dict.fromkeys(entries))
    if len(text) > MAX_NO_PROXY:
        reason = f"the list has {len(text)} characters, more than {MAX_NO_PROXY}"
        raise _refusal(policy, reason, "name networks and domains in place of single hosts, or choose another mode")
    return text
