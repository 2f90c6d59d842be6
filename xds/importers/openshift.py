"""
OpenShift's cluster-wide `Proxy` (config.openshift.io/v1).

`spec` is what administrators wrote; `status` adds what the cluster knows to be internal, which is always direct here.
Invariant: a network of `status` that `spec` does not name is left out, and told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.errors import SourceError
from xds.importers.imported import Changes, Home
from xds.importers.no_proxy import Item, is_built_in, read_entries, split_kinds
from xds.importers.proxy_urls import ProxyUrl, read_url
from xds.importers.reading import Reader
from xds.importers.variables import Variables, build_policy, choose_target
from xds.policy.findings import quote
from xds.policy.hosts import Problem
from xds.policy.model import Dialect
from xds.policy.names import is_subdomain
from xds.policy.patterns import parse_entry, split_entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.importers.imported import Imported, Wish
    from xds.importers.variables import Target

API_GROUP = "config.openshift.io/"
KIND = "Proxy"

_BUNDLE = "ca-bundle.crt"
"""The key of the ConfigMap in openshift-config."""


def is_openshift(document: object) -> bool:
    """Whether a decoded document is such an object."""
    return (
        isinstance(document, dict)
        and document.get("kind") == KIND
        and str(document.get("apiVersion", API_GROUP)).startswith(API_GROUP)
    )


def import_openshift(document: object, wish: Wish) -> Imported:
    """
    Return the policy of a `Proxy`.

    Raises SourceError if it is none, or names no proxy.
    """
    if not is_openshift(document):
        raise SourceError(f"{wish.source} is no Proxy of config.openshift.io; print it: oc get proxy cluster -o yaml")
    changes = Changes(wish.source)
    proxy = Reader(document, "", changes)
    proxy.tell_unknown(("apiVersion", "kind", "metadata", "spec", "status"))
    spec, status = proxy.child("spec"), proxy.child("status")
    spec.tell_unknown(("httpProxy", "httpsProxy", "noProxy", "trustedCA", "readinessEndpoints"))
    status.tell_unknown(("httpProxy", "httpsProxy", "noProxy"))
    for_http, for_https = (_read_target(key, spec, status, changes) for key in ("httpProxy", "httpsProxy"))
    if spec.has("readinessEndpoints"):
        message = "not used: they only tested, before OpenShift took the settings over, that the proxy answers"
        changes.note("spec.readinessEndpoints", message, "see that they can be reached through the proxy yourself")
    return build_policy(
        Variables(
            http=for_http,
            https=for_https,
            no_proxy=_read_list(spec, status, wish, changes),
            ca=_refer_to_ca(spec, (for_http, for_https), wish, changes),
        ),
        wish,
        changes,
    )


def _read_target(key: str, spec: Reader, status: Reader, changes: Changes) -> Target:
    section, path = (spec, f"spec.{key}") if spec.has(key) or not status.has(key) else (status, f"status.{key}")
    if section is status:
        message = "stands in `status` only: the cluster is still using what `spec` no longer says"
        changes.changed(path, message, f"remove `{key}` from the policy if it is going to be removed")
    if not section.has(key):
        message = "is missing, so that its traffic goes past the proxy, as it did"
        changes.changed(path, message, f"write `{key}:` with the proxy's URL if that is not meant")
        return "direct"
    return choose_target(read_url(section.text(key), path, changes), is_given=True, otherwise="deny")


def _read_list(spec: Reader, status: Reader, wish: Wish, changes: Changes) -> tuple[str, ...]:
    dialect = Dialect(wish.dialect)
    written = split_entries(spec.text("noProxy"))
    added = [text for text in split_entries(status.text("noProxy")) if text not in written]
    networks = [text for text in split_kinds(added, dialect)[1] if not _is_known(text, dialect)]
    if networks:
        more = f" and {len(networks) - 1} more" if len(networks) > 1 else ""
        changes.changed(
            "status.noProxy",
            f"{quote(networks[0])}{more}: left out, as the cluster's networks are always direct here, as far as it "
            "tells them: Services, pods and nodes, but no other hosts of the machine network",
            "add the machine network to the list if it holds hosts that are no nodes",
        )
    items = [Item(text, "spec.noProxy") for text in written] + [
        Item(text, "status.noProxy") for text in added if text not in networks
    ]
    return read_entries(items, dialect, changes)


def _is_known(text: str, dialect: Dialect) -> bool:
    entry = parse_entry(text, dialect)
    return not isinstance(entry, Problem) and entry.host is not None and is_built_in(entry.host)


def _refer_to_ca(spec: Reader, targets: tuple[Target, ...], wish: Wish, changes: Changes) -> Mapping[str, object]:
    """Return where the authorities will be: OpenShift has them in a ConfigMap, and policies name Secrets or files."""
    trusted = spec.child("trustedCA")
    trusted.tell_unknown(("name",))
    name = trusted.text("name")
    if not name:
        return {}
    key = "spec.trustedCA.name"
    if not is_subdomain(name):
        changes.lost(key, "left out: this is no name of a ConfigMap", "correct it")
        return {}
    applications = "for applications, where the proxy reads TLS, write them into the policy as `trustedCA`"
    if not any(isinstance(target, ProxyUrl) and target.is_tls for target in targets):
        message = f"left out: no proxy's URL is https, so the authorities verify nothing here; {applications}"
        changes.lost(key, message, 'then annotate pods, or namespaces, with `egress-xds/trusted-ca: "true"`')
        return {}
    copy = f"oc extract configmap/{name} -n openshift-config --keys={_BUNDLE}"
    if wish.home is Home.CLUSTER:
        message = f"is a ConfigMap, and policies name Secrets: the Secret {name} is expected; {applications}"
        changes.changed(key, message, f"{copy} and kubectl create secret generic {name} --from-file={_BUNDLE}")
        return {"secretRef": {"name": name, "key": _BUNDLE}}
    file = f"/etc/egress-xds/{_BUNDLE}"
    changes.changed(key, f"is a ConfigMap, and policies here name files: {file} is expected; {applications}", copy)
    return {"file": file}
