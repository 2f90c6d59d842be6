"""The control plane's service account may do what it needs, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cluster.deployed import ACCOUNT, grant, may, told_rights
from tests.cluster.place import connected

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.place import Place


async def test_the_cluster_grants_what_the_manifests_say_and_not_a_verb_more(place: Place, tmp_path: Path) -> None:
    """Compared with a service account that nobody gave anything, as every cluster grants a little to all of them."""
    deployed = await grant(place, tmp_path)
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    plain = place.write_kubeconfig(nobody, await place.request_token(place.shop, "web"))
    async with connected(deployed.kubeconfig) as api, connected(plain) as other:
        for of in (place.home, place.shop, "default"):
            assert await told_rights(api, of) == deployed.rights(of) | await told_rights(other, of)


async def test_what_it_does_not_need_is_refused(place: Place, tmp_path: Path) -> None:
    home, shop, nowhere = place.home, place.shop, ""
    allowed = {
        ("list", "pods", nowhere, ""),
        ("watch", "configmaps", nowhere, ""),
        ("patch", "configmaps", shop, "own"),
        ("create", "events", shop, ""),
        ("update", "leases.coordination.k8s.io", home, "egress-xds-leader"),
        ("list", "secrets", home, "corp-proxy-login"),
        ("watch", "secrets", shop, "shop-proxy-login"),
        ("list", "nodes", nowhere, ""),
    }
    refused = {
        *((verb, "secrets", of, "") for verb in ("list", "watch", "create", "delete") for of in (nowhere, home, shop)),
        ("get", "secrets", home, "egress-xds-tls"),
        ("get", "secrets", shop, "corp-proxy-login"),
        *((verb, "pods", shop, "web-0") for verb in ("create", "update", "patch", "delete", "deletecollection")),
        ("create", "pods/exec", shop, "web-0"),
        ("create", "pods/eviction", shop, "web-0"),
        ("get", "pods/log", shop, "web-0"),
        *((verb, "configmaps", home, "corp") for verb in ("create", "update", "delete", "deletecollection")),
        *((verb, "nodes", nowhere, "one") for verb in ("create", "update", "patch", "delete")),
        ("patch", "nodes/status", nowhere, "one"),
        ("get", "nodes/proxy", nowhere, "one"),
        *((verb, "namespaces", nowhere, home) for verb in ("create", "patch", "delete")),
        ("update", "leases.coordination.k8s.io", shop, "any"),
        ("delete", "events", home, "any"),
        ("create", "serviceaccounts/token", home, ACCOUNT),
        ("impersonate", "serviceaccounts", shop, "web"),
        ("create", "tokenreviews.authentication.k8s.io", nowhere, ""),
        ("bind", "clusterroles.rbac.authorization.k8s.io", nowhere, "cluster-admin"),
        ("patch", "clusterroles.rbac.authorization.k8s.io", nowhere, "cluster-admin"),
        ("patch", "validatingwebhookconfigurations.admissionregistration.k8s.io", nowhere, ACCOUNT),
        ("patch", "deployments.apps", home, ACCOUNT),
    }
    async with connected((await grant(place, tmp_path)).kubeconfig) as api:
        found = {request for request in allowed | refused if await may(api, *request)}

    assert found == allowed
