"""The API server has pods injected before it stores them: pods of many shapes, made and read back."""

from __future__ import annotations

from base64 import b64encode
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.deployed import placed
from tests.cluster.place import LABEL, MANAGER, NOT_FOUND, following, until
from tests.feature.test_admission import free_port
from tests.feature.test_serve_kubernetes import to
from tests.support.certificates import Authority
from tests.support.cluster import namespace, pod, policy
from tests.support.manifests import KUSTOMIZE, read_manifests
from xds.flags import HostPort
from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.cluster.place import Place
    from tests.support.manifests import Manifest

INVALID = 422
OURS = ["egress-bootstrap", "egress-envoy", "egress-capture"]
OPTED_IN = {"egress-xds/inject": "true", "pod-security.kubernetes.io/enforce": "privileged"}
Json = dict[str, Any]

SHAPES: dict[str, Json] = {
    "plain": {},
    "job": {"restartPolicy": "Never"},
    "init": {"initContainers": [{"name": "first", "image": "app"}]},
    "native": {"initContainers": [{"name": "stays", "image": "app", "restartPolicy": "Always"}]},
    "user": {"securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 2000}},
    "dns": {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"]}},
    "tokenless": {"automountServiceAccountToken": False},
    "hardened": {
        "containers": [
            {"name": "app", "image": "app", "securityContext": {"readOnlyRootFilesystem": True}},
            {"name": "other", "image": "app", "resources": {"limits": {"memory": "64Mi"}}},
        ]
    },
}


def webhook(place: Place, port: int, authority: Authority) -> Manifest:
    """Return the webhook of `deploy/`, for the namespaces of this run, at a port of this machine."""
    objects = read_manifests(KUSTOMIZE / "base" / "webhook.yaml")
    (given,) = [item for item in objects if item["kind"] == "MutatingWebhookConfiguration"]
    found = deepcopy(placed(given, place))
    (hook,) = found["webhooks"]
    path = hook["clientConfig"]["service"]["path"]
    bundle = b64encode(authority.certificate.encode()).decode()
    hook["clientConfig"] = {"url": f"https://localhost:{port}{path}", "caBundle": bundle}
    hook["namespaceSelector"]["matchExpressions"].append({"key": LABEL, "operator": "In", "values": [place.run.name]})
    return found


@asynccontextmanager
async def injecting(place: Place, directory: Path) -> AsyncIterator[None]:
    """Run a control plane that injects pods of the application's namespace, with its webhook in force."""
    if not HostPort(host=place.api.host, port=place.api.port).is_loopback:
        pytest.skip(f"the API server {place.api.host} does not run on this machine, so it can't ask a webhook here")
    authority, port = Authority(), free_port()
    issued = authority.issue("localhost")
    for name, text in {"tls.crt": issued.certificate, "tls.key": issued.key, "ca.crt": authority.certificate}.items():
        (directory / name).write_text(text, encoding="utf-8")
    settings = replace(
        place.settings,
        admission_listen=HostPort(host="127.0.0.1", port=port),
        tls_certificate=directory / "tls.crt",
        tls_key=directory / "tls.key",
        inject_image="egress-xds:test",
        inject_init_image="egress-xds-init:test",
    )
    await place.apply(namespace(place.shop, OPTED_IN))
    await place.apply(policy(place.home, "corp", to(10)))
    said = [""]

    async def is_injected() -> bool:
        try:
            found = await make(place, "probe", {}, dryRun="All")
        except ApiError as error:
            said.append(error.message)
            return "failed calling webhook" in error.message
        return "egress-envoy" in containers(found)

    async with following(place.run.kubeconfig, settings):
        await place.apply(webhook(place, port, authority))
        await until(is_injected, 30)
        if "failed calling webhook" in said[-1]:
            pytest.skip(f"the API server, perhaps in a container, does not reach this machine: {said[-1]}")
        yield


async def make(place: Place, name: str, spec: Json, labels: Json | None = None, **query: str) -> Json:
    """Make a pod of the application that no scheduler knows; `spec` may hold annotations, below `egress-xds/`."""
    annotations = spec.get("annotations", {})
    item = pod(place.shop, name, labels, account="web", **annotations)
    item["spec"] |= {"schedulerName": MANAGER, **{key: spec[key] for key in spec if key != "annotations"}}
    del item["status"]
    return await place.apply(item, **query)


def containers(found: Json) -> list[str]:
    """Return the names of all containers, those of init first."""
    return [item["name"] for key in ("initContainers", "containers") for item in found["spec"].get(key) or ()]


async def read(place: Place, name: str) -> Json:
    """Return a pod as it is stored."""
    return await place.ask("GET", f"/api/v1/namespaces/{place.shop}/pods/{name}")


async def test_pods_of_many_shapes_are_stored_with_their_sidecars(place: Place, tmp_path: Path) -> None:
    async with injecting(place, tmp_path):
        for name, spec in SHAPES.items():
            await make(place, name, spec)
        stored = {name: await read(place, name) for name in SHAPES}

    for name, found in stored.items():
        own = [item["name"] for key in ("initContainers", "containers") for item in SHAPES[name].get(key, ())]
        assert containers(found)[:3] == OURS, name
        assert set(own) <= set(containers(found)), name
        assert found["metadata"]["annotations"]["egress-xds/mode"] == "transparent"
        (envoy,) = [item for item in found["spec"]["initContainers"] if item["name"] == "egress-envoy"]
        assert envoy["restartPolicy"] == "Always", name


async def test_who_opts_out_by_annotation_or_label_is_left_alone(place: Place, tmp_path: Path) -> None:
    async with injecting(place, tmp_path):
        await make(place, "by-annotation", {"annotations": {"inject": "false"}})
        await make(place, "by-label", {}, {"egress-xds/inject": "false"})
        stored = [await read(place, name) for name in ("by-annotation", "by-label")]

    assert [containers(found) for found in stored] == [["app"], ["app"]]


async def test_a_dry_run_shows_the_sidecar_and_stores_nothing(place: Place, tmp_path: Path) -> None:
    async with injecting(place, tmp_path):
        shown = await make(place, "dry", {}, dryRun="All")
        with pytest.raises(ApiError) as caught:
            await read(place, "dry")

    assert containers(shown)[:3] == OURS
    assert caught.value.status == NOT_FOUND


async def test_what_can_not_be_had_is_refused_and_nobody_goes_without_while_no_one_answers(
    place: Place, tmp_path: Path
) -> None:
    async with injecting(place, tmp_path):
        with pytest.raises(ApiError, match=r"denied the request: .*egress-xds/mode") as caught:
            await make(place, "wrong", {"annotations": {"mode": "sideways"}})
    assert caught.value.status == INVALID

    with pytest.raises(ApiError, match="failed calling webhook"):
        await make(place, "late", {})
    await make(place, "way-out", {}, {"egress-xds/inject": "false"})

    assert containers(await read(place, "way-out")) == ["app"]
