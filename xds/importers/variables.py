"""
What AKS, OpenShift and the variables have in common: two proxies and a list of what bypasses them, as a policy.

The short form is written where it can say everything, else the long form. Invariant: a proxy that can't be named
makes its traffic refused, never direct.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds.errors import SourceError
from xds.importers.imported import Home, Imported, Weight
from xds.importers.no_proxy import split_kinds
from xds.importers.proxy_urls import ProxyUrl
from xds.policy.documents import API_VERSION, KIND
from xds.policy.model import Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.importers.imported import Changes, Wish

_TOLD = 3

Target = ProxyUrl | str
"""A proxy, or `direct` or `deny`."""

LOGIN_FILE = "/etc/egress-xds/proxy-login"
"""Where a login is looked for outside of Kubernetes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variables:
    """What is known after reading: targets for plain HTTP and everything else, entries that bypass them, a CA."""

    http: Target
    https: Target
    no_proxy: tuple[str, ...] = ()
    trusted_ca: str = ""
    """PEM, or base64 of PEM."""
    ca: Mapping[str, object] = field(default_factory=dict)
    """A reference to authorities, in the words of the long form."""
    namespace: str = ""
    selector: Mapping[str, object] = field(default_factory=dict)


def choose_target(url: ProxyUrl | None, *, is_given: bool, otherwise: Target) -> Target:
    """Return the proxy; what is given but can't be named is refused, and what is not given is `otherwise`."""
    if url is not None:
        return url
    return "deny" if is_given else otherwise


def build_policy(variables: Variables, wish: Wish, changes: Changes) -> Imported:
    """
    Return the policy in the shortest form that says everything.

    Raises SourceError if there is no proxy at all.
    """
    proxies = [target for target in (variables.http, variables.https) if isinstance(target, ProxyUrl)]
    if not proxies:
        lost = [change for change in changes.found if change.weight is Weight.LOST]
        told = "; ".join(f"{change.where.key}: {change.message}" for change in lost[:_TOLD])
        raise SourceError(
            f"{wish.source} names no HTTP proxy{f' ({told})' if told else ''}; import what has httpProxy or httpsProxy"
        )
    tell_general(changes)
    needs_long = bool(variables.ca or variables.selector or any(proxy.has_login for proxy in proxies))
    policy = _build_long(variables, wish, changes) if needs_long else _build_short(variables, wish)
    return Imported(policy, tuple(changes.found))


def tell_general(changes: Changes) -> None:
    """Say what holds for every import: a transparent policy reaches further than what programs were told."""
    changes.note(
        "",
        "all TCP is decided by the policy: also that of programs which ignored their proxy settings, "
        "and what is neither HTTP nor TLS",
        "name what should stay direct by its address, e.g. databases outside of the cluster",
    )


def _build_short(variables: Variables, wish: Wish) -> dict[str, object]:
    policy: dict[str, object] = {"name": wish.name}
    if variables.namespace and wish.home is Home.FILES:
        policy["namespace"] = variables.namespace
    policy |= {"httpProxy": _word(variables.http), "httpsProxy": _word(variables.https)}
    if variables.no_proxy:
        policy["noProxy"] = list(variables.no_proxy)
    if variables.trusted_ca:
        policy["trustedCA"] = variables.trusted_ca
    return policy | {"dialect": wish.dialect}


def _word(target: Target) -> str:
    return target.url if isinstance(target, ProxyUrl) else target


def _build_long(variables: Variables, wish: Wish, changes: Changes) -> dict[str, object]:
    if variables.http == variables.https:
        names = {"proxy": variables.https}
    else:
        names = {"https-proxy": variables.https, "http-proxy": variables.http}
    proxies = {
        name: _build_proxy(name, target, variables, wish, changes)
        for name, target in names.items()
        if isinstance(target, ProxyUrl)
    }
    default = _action(variables.https, "proxy" if "proxy" in names else "https-proxy")
    if variables.http != variables.https:
        default["http"] = _action(variables.http, "http-proxy")
    spec: dict[str, object] = {"selector": dict(variables.selector)} if variables.selector else {}
    spec["proxies"] = proxies
    if variables.no_proxy:
        domains, cidrs = split_kinds(variables.no_proxy, Dialect(wish.dialect))
        to = {key: values for key, values in (("domains", domains), ("cidrs", cidrs)) if values}
        spec["rules"] = [{"name": "no-proxy", "to": to, "action": "direct"}]
    if variables.trusted_ca:
        spec["trustedCA"] = variables.trusted_ca
    spec |= {"default": default, "dialect": wish.dialect}
    return build_document(wish, spec, variables.namespace)


def build_document(wish: Wish, spec: Mapping[str, object], namespace: str = "") -> dict[str, object]:
    """Return a document of the long form."""
    metadata = {"name": wish.name}
    if namespace and wish.home is Home.FILES:
        metadata["namespace"] = namespace
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": dict(spec)}


def _action(target: Target, proxy: str) -> dict[str, object]:
    if isinstance(target, ProxyUrl):
        return {"action": "tunnel", "proxy": proxy}
    return {"action": target}


def _build_proxy(name: str, target: ProxyUrl, variables: Variables, wish: Wish, changes: Changes) -> dict[str, object]:
    proxy: dict[str, object] = {"endpoints": [{"url": target.url}]}
    if target.has_login:
        proxy["auth"] = {"basic": _refer_to_login(name, wish, changes)}
    if target.is_tls and variables.ca:
        proxy["tls"] = {"ca": dict(variables.ca)}
    elif target.is_tls and variables.trusted_ca:
        proxy["tls"] = {"ca": variables.trusted_ca}
    return proxy


def _refer_to_login(name: str, wish: Wish, changes: Changes) -> dict[str, object]:
    """Return where the login will be, and say how to put it there: it is in nothing that is printed."""
    what = "the proxy's URL holds a login, which no policy may"
    if wish.home is Home.CLUSTER:
        secret = f"{wish.name}-{name}-login"
        hint = (
            "create it in the policy's namespace, the parts of the URL decoded: kubectl create secret generic "
            f"{secret} --type=kubernetes.io/basic-auth --from-file=username=FILE --from-file=password=FILE"
        )
        changes.changed("", f"{what}: it is expected in the Secret {secret}", hint)
        return {"secretRef": {"name": secret}}
    file = LOGIN_FILE if name == "proxy" else f"{LOGIN_FILE}-{name}"
    hint = "put it there as one line, user and password with a colon between, decoded, for the control plane to read"
    changes.changed("", f"{what}: it is expected in the file {file}", hint)
    return {"file": file}
