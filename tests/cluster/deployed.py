"""The control plane as `deploy/` makes it: its service account, its rights and its token, in the place of a test."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cluster.place import CLUSTER_WIDE, Place, connected, until
from tests.support.manifests import KUSTOMIZE, build, read_manifests

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.manifests import Manifest
    from xds.kubernetes.connection import ApiServer

ACCOUNT = "egress-xds"
_AUTHORIZATION = "authorization.k8s.io/v1"
_OF_RIGHTS = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}

Right = tuple[str, str, str, str]
"""Group, resource, name (empty: all) and verb."""


@dataclass(frozen=True)
class Deployed:
    """What was applied, and the credentials of the service account."""

    objects: list[Manifest]
    kubeconfig: Path

    def rights(self, of: str) -> set[Right]:
        """Return what the manifests allow in a namespace."""
        roles = [item for item in self.objects if item["kind"] in {"ClusterRole", "Role"}]
        return rights(rule for item in roles if item["metadata"].get("namespace", of) == of for rule in item["rules"])


async def grant(place: Place, directory: Path, *components: str) -> Deployed:
    """Apply what `deploy/kustomize` says of rights, with these components too, and wait until it is in force."""
    place.need_real_server("RBAC and TokenRequest")
    found = build(KUSTOMIZE / "overlays" / "generated")
    found += read_manifests(KUSTOMIZE / "examples" / "secrets-of-a-namespace.yaml")
    for component in components:
        found += read_manifests(KUSTOMIZE / "components" / component / "cluster-role.yaml")
    objects = [placed(item, place) for item in found if item["kind"] in _OF_RIGHTS]
    for item in objects:
        await place.apply(item)
    kubeconfig = place.write_kubeconfig(directory, await place.request_token(place.home, ACCOUNT))
    deployed = Deployed(objects, kubeconfig)

    async with connected(kubeconfig) as api:

        async def is_in_force() -> bool:
            return all([deployed.rights(of) <= await told_rights(api, of) for of in (place.home, place.shop)])

        await until(is_in_force)
    return deployed


def placed(item: Manifest, place: Place) -> Manifest:
    """Return an object of `deploy/` in the namespaces of a test; what is cluster-wide gets a name of its own."""
    item = deepcopy(item)
    namespaces = {"egress-system": place.home, "shop": place.shop}
    metadata, role = item["metadata"], item.get("roleRef", {})
    if item["kind"] in CLUSTER_WIDE:
        metadata["name"] = f"{metadata['name']}-{place.token}"
    else:
        metadata["namespace"] = namespaces[metadata["namespace"]]
    if role.get("kind") == "ClusterRole" and not role["name"].startswith("system:"):
        role["name"] = f"{role['name']}-{place.token}"
    for subject in item.get("subjects", ()):
        subject["namespace"] = namespaces[subject["namespace"]]
    return item


def rights(rules: Iterable[Manifest]) -> set[Right]:
    """Return what rules allow; those about paths are left out."""
    return {
        (group, resource, name, verb)
        for rule in rules
        for group in rule.get("apiGroups") or ()
        for resource in rule.get("resources") or ()
        for name in rule.get("resourceNames") or ("",)
        for verb in rule["verbs"]
    }


async def told_rights(api: ApiServer, of: str) -> set[Right]:
    """Return what the API server says that whoever asks may do in a namespace, as `kubectl auth can-i --list`."""
    status = await _review(api, "SelfSubjectRulesReview", {"namespace": of})
    return rights(status["resourceRules"])


async def may(api: ApiServer, verb: str, resource: str, of: str = "", name: str = "") -> bool:
    """Whether whoever asks may do something; `resource` is as in `pods/exec` or `leases.coordination.k8s.io`."""
    plural, _, group = resource.partition(".")
    plural, _, subresource = plural.partition("/")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    spec = {"resourceAttributes": {**attributes, "namespace": of, "name": name}}
    return bool((await _review(api, "SelfSubjectAccessReview", spec))["allowed"])


async def _review(api: ApiServer, kind: str, spec: Manifest) -> Manifest:
    body = {"apiVersion": _AUTHORIZATION, "kind": kind, "spec": spec}
    found = await api.request("POST", f"/apis/{_AUTHORIZATION}/{kind.lower()}s", body=body)
    status = found["status"]
    assert isinstance(status, dict)
    return status
