"""
All of a policy but its rules, as texts by the keys of the long form, and which of them differ.

Nothing is left out that changes what a pod gets or whether it gets it; rules are compared by `xds.changes.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.changes.rules import compare_fields
from xds.changes.words import (
    describe_actions,
    describe_endpoint,
    describe_network,
    describe_pem,
    describe_requirement,
    describe_seconds,
    describe_switch,
)
from xds.diagnostics import Where
from xds.policy.model import Default, Deny, Policy, Proxy, ProxyTls
from xds.policy.secrets import describe_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import HealthCheck

_Texts = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """One key whose value is another; a list is told by what it no longer holds and what it holds now."""

    key: str
    """As in the long form: `proxies.corp.connectTimeout`."""
    removed: tuple[str, ...]
    added: tuple[str, ...]
    before: Where | None
    """The place of its proxy, or else of its policy; None: it was not there."""
    after: Where | None


def compare_settings(before: Policy | None, after: Policy | None) -> tuple[SettingChange, ...]:
    """Return which settings differ; of a policy or a proxy that is new or gone, those that are not the default."""
    old = {} if before is None else _describe(before)
    new = {} if after is None else _describe(after)
    if before is None or after is None:
        old, new = ({key: value for key, value in side.items() if value != _USUAL.get(key)} for side in (old, new))
    return tuple(
        SettingChange(
            key=change.key,
            removed=change.removed,
            added=change.added,
            before=_place(before, change.key),
            after=_place(after, change.key),
        )
        for change in compare_fields(_fill(old, new), _fill(new, old))
    )


def _fill(texts: _Texts, other: _Texts) -> _Texts:
    """Take away the defaults of proxies that the other version does not have: their endpoints say that they are."""
    alone = {key for key in texts if key.startswith("proxies.") and key not in other}
    return {key: value for key, value in texts.items() if key not in alone or value != _DEFAULTS.get(_tail(key))}


def _tail(key: str) -> str:
    """Return the part of a key behind the proxy's name, which may have dots."""
    return next((tail for tail in _DEFAULTS if key.endswith(f".{tail}")), key)


def _place(policy: Policy | None, key: str) -> Where | None:
    if policy is None:
        return None
    found = (proxy.where for proxy in policy.proxies if key.startswith(f"proxies.{proxy.name}."))
    return next(found, None if key.startswith("proxies.") else policy.where)


def _describe(policy: Policy) -> _Texts:
    selector, direct, default = policy.selector, policy.always_direct, policy.default
    return {
        "selector.namespaces": selector.namespaces,
        "selector.namespaceLabels": tuple(map(describe_requirement, selector.namespace_labels)),
        "selector.podLabels": tuple(map(describe_requirement, selector.labels)),
        "selector.serviceAccounts": selector.service_accounts,
        "priority": (str(policy.priority),),
        "default": (describe_actions(default.action, default.http_action),),
        "default.onUnknownName": (default.on_unknown_name.value,),
        **{key: value for proxy in policy.proxies for key, value in _describe_proxy(proxy)},
        "dialect": (policy.dialect.value,),
        "dns.mode": (policy.dns_mode.value,),
        "dns.syntheticRange": tuple(map(describe_network, policy.synthetic_ranges)),
        "serverFirstPorts": tuple(map(str, policy.server_first_ports)),
        "alwaysDirect.loopback": (describe_switch(is_on=direct.loopback),),
        "alwaysDirect.linkLocal": (describe_switch(is_on=direct.link_local),),
        "alwaysDirect.clusterLocal": (describe_switch(is_on=direct.cluster_local),),
        "alwaysDirect.clusterNetworks": (describe_switch(is_on=direct.cluster_networks),),
        "accessLog.path": (policy.access_log or "off",),
        "explicit.port": () if policy.explicit_port is None else (str(policy.explicit_port),),
        "mode": (policy.mode.value,),
        "trustedCA": () if policy.trusted_ca is None else (describe_pem(policy.trusted_ca),),
    }


def _describe_proxy(proxy: Proxy) -> Iterable[tuple[str, tuple[str, ...]]]:
    prefix = f"proxies.{proxy.name}."
    yield f"{prefix}endpoints", tuple(map(describe_endpoint, proxy.endpoints))
    yield from ((f"{prefix}{key}", value) for key, value in _describe_options(proxy).items())


def _describe_options(proxy: Proxy) -> _Texts:
    ports, health, outlier = proxy.connect_ports, proxy.health, proxy.outlier
    return {
        "auth.basic": () if proxy.login is None else (describe_path(proxy.login.file),),
        **_describe_tls(proxy.tls),
        "protocol": (proxy.protocol.value,),
        "connectPorts": ("any",) if ports is None else tuple(map(str, ports)),
        "plainHTTP": (proxy.plain_http.value,),
        "connectTimeout": (describe_seconds(proxy.connect_timeout),),
        "health": () if health is None else (_describe_health(health),),
        "outlier": () if outlier is None else (f"{outlier.failures} failures, {outlier.ejection_time:g}s at first",),
        "attempts": (f"{proxy.attempts.count}, {proxy.attempts.backoff:g}s between",),
        "idleTimeout": (describe_seconds(proxy.idle_timeout),),
    }


def _describe_health(health: HealthCheck) -> str:
    probes = f"every {health.interval:g}s, for {health.timeout:g}s"
    return f"{probes}, unhealthy after {health.unhealthy_after}, healthy after {health.healthy_after}"


def _describe_tls(tls: ProxyTls) -> _Texts:
    certificate = tls.client_certificate
    authorities = [] if tls.ca_pem is None else [describe_pem(tls.ca_pem)]
    authorities += [] if tls.ca_file is None else [describe_path(tls.ca_file)]
    files = () if certificate is None else (certificate.certificate_file, certificate.key_file)
    return {
        "tls.ca": tuple(authorities),
        "tls.serverName": () if tls.server_name is None else (tls.server_name,),
        "tls.minimumVersion": (tls.minimum_version.value,),
        "tls.clientCertificate": tuple(map(describe_path, files)),
    }


_NOTHING_SAID = Policy(name="", default=Default(action=Deny(), http_action=Deny()), where=Where(""))
_USUAL = {key: value for key, value in _describe(_NOTHING_SAID).items() if key != "default"}
"""What a policy has that says nothing but its default."""
_DEFAULTS = _describe_options(Proxy(name="", endpoints=(), where=Where("")))
"""What a proxy has that says nothing but where it is."""
