"""
AKS' `httpProxyConfig`: the file of `az aks create --http-proxy-config`, or what shows a cluster.

The keys are those of `ManagedClusterHTTPProxyConfig` (Microsoft.ContainerService/managedClusters). Invariant: as AKS
does, and no other source, `httpProxy` stands in for a missing `httpsProxy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.importers.imported import NOTHING, Changes
from xds.importers.no_proxy import Item, read_entries
from xds.importers.proxy_urls import ProxyUrl, read_url
from xds.importers.reading import Reader
from xds.importers.variables import Variables, build_policy, choose_target
from xds.policy.hosts import Problem
from xds.policy.model import Dialect
from xds.policy.pem import parse_pem

if TYPE_CHECKING:
    from xds.importers.imported import Imported, Wish

KEY = "httpProxyConfig"

_KEYS = ("httpProxy", "httpsProxy", "noProxy", "trustedCa", "effectiveNoProxy", "enabled")


def is_aks(document: object) -> bool:
    """Whether a decoded document is such a file, or a cluster that holds one."""
    if not isinstance(document, dict):
        return False
    nested = document.get("properties")
    if KEY in document or (isinstance(nested, dict) and KEY in nested):
        return True
    return "kind" not in document and any(key in document for key in ("httpProxy", "httpsProxy"))


def import_aks(document: object, wish: Wish) -> Imported:
    """
    Return the policy of `document`.

    Raises SourceError if it names no proxy.
    """
    changes = Changes(wish.source)
    config = _find(document, changes)
    config.tell_unknown(_KEYS)
    http = read_url(config.text("httpProxy"), _at(config, "httpProxy"), changes) if config.has("httpProxy") else None
    https = (
        read_url(config.text("httpsProxy"), _at(config, "httpsProxy"), changes) if config.has("httpsProxy") else None
    )
    for_http = choose_target(http, is_given=config.has("httpProxy"), otherwise="direct")
    for_https = choose_target(https, is_given=config.has("httpsProxy"), otherwise=for_http)
    if not config.has("httpsProxy"):
        changes.note(
            _at(config, "httpsProxy"), "is missing: AKS takes `httpProxy` for it, and so does the policy", NOTHING
        )
    if not config.has("httpProxy"):
        message = "is missing: plain HTTP goes past the proxy, as it did"
        changes.changed(
            _at(config, "httpProxy"), message, "write `httpProxy:` with the proxy's URL if that is not meant"
        )
    _tell_rest(config, changes)
    items = [Item(text, path) for text, path in config.texts("noProxy")]
    starred = next((item for item in items if item.text.strip().startswith("*.")), None)
    if starred is not None:
        message = "AKS supports no `*` in front of a domain; the policy reads it as its dialect does"
        changes.changed(starred.key, message, "write `.name.example`, which means the same to more clients")
    return build_policy(
        Variables(
            http=for_http,
            https=for_https,
            no_proxy=read_entries(items, Dialect(wish.dialect), changes),
            trusted_ca=_read_ca(config, (for_http, for_https), changes),
        ),
        wish,
        changes,
    )


def _find(document: object, changes: Changes) -> Reader:
    """Return the configuration itself, wherever it stands."""
    if isinstance(document, dict):
        if KEY in document:
            return Reader(document, "", changes).child(KEY)
        if isinstance(document.get("properties"), dict) and KEY in document["properties"]:
            return Reader(document, "", changes).child("properties").child(KEY)
    return Reader(document, "", changes)


def _at(config: Reader, key: str) -> str:
    return f"{config.path}.{key}" if config.path else key


def _tell_rest(config: Reader, changes: Changes) -> None:
    if config.raw("enabled") is False:
        message = "the configuration is switched off in AKS; the policy that is printed is not"
        changes.changed(_at(config, "enabled"), message, "leave the policy out as long as it should be off")
    if config.has("effectiveNoProxy"):
        message = "is what AKS made of `noProxy`, with networks that are always direct here, so it is not read"
        changes.note(_at(config, "effectiveNoProxy"), message, NOTHING)


def _read_ca(config: Reader, targets: tuple[object, ...], changes: Changes) -> str:
    """Return the authorities; AKS installs them on nodes, whatever they are for."""
    text, key = config.text("trustedCa"), _at(config, "trustedCa")
    if not text:
        return ""
    pem = parse_pem(text)
    if isinstance(pem, Problem):
        changes.lost(key, f"left out: {pem.message}", pem.hint)
        return ""
    is_of_proxy = any(isinstance(target, ProxyUrl) and target.is_tls for target in targets)
    message = "applications get it where pods ask for it, and nodes do not"
    message = f"verifies the proxy's own certificate; {message}" if is_of_proxy else message
    hint = 'annotate pods, or namespaces, with `egress-xds/trusted-ca: "true"`; install it on nodes as before'
    changes.changed(key, message, hint)
    return text
