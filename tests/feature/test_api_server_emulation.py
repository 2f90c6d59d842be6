"""The emulated API server answers what a real one answered to the same requests, as recorded."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.support.api_server import ApiServerEmulation, emulation_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATA = Path(__file__).parents[1] / "data" / "kubernetes-1.36"
POD = {"kind": "Pod", "apiVersion": "v1"}


def recording(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return found


def put_as_recorded(server: ApiServerEmulation, item: dict[str, Any]) -> None:
    """Store an object so that it gets the resource version that it had."""
    wanted = int(item["metadata"]["resourceVersion"])
    latest = server.store.version
    server.store.version = wanted - 1
    server.put(item)
    server.store.version = max(latest, wanted)


@asynccontextmanager
async def recorded_cluster() -> AsyncIterator[ApiServerEmulation]:
    """The pods, the namespace, the Secret and the Service that were there when the answers were recorded."""
    async with ApiServerEmulation() as server:
        pages = [recording(f"pods-list-page-{number}")["body"] for number in (1, 2)]
        pods = [POD | pod for page in pages for pod in page["items"]]
        (service,) = recording("services")["body"]["items"]
        rest = [recording(name)["body"] for name in ("namespace", "secret")]
        for item in sorted(pods, key=lambda pod: int(pod["metadata"]["resourceVersion"])):
            put_as_recorded(server, item)
        last = {**pods[-1], "metadata": {**pods[-1]["metadata"], "name": "orders-0", "resourceVersion": "283"}}
        put_as_recorded(server, last)
        for item in [*rest, {"kind": "Service", "apiVersion": "v1"} | service]:
            put_as_recorded(server, item)
        server.store.history.clear()
        server.store.version = 284
        yield server


async def ask(server: ApiServerEmulation, request: dict[str, Any], **headers: str) -> tuple[int, Any, str, Any]:
    body = request.get("body")
    kind = "application/apply-patch+yaml" if request["method"] == "PATCH" else "application/json"
    sent = {"User-Agent": "Python-urllib/3.13", "Content-Type": kind, **headers}
    data = None if body is None else json.dumps(body)
    async with (
        aiohttp.ClientSession() as session,
        session.request(request["method"], server.url + request["path"], data=data, headers=sent) as answer,
    ):
        text = await answer.text()
        lines = [json.loads(line) for line in text.splitlines()]
        return answer.status, lines, answer.content_type, answer.headers.get("Retry-After")


def without_chance(value: Any) -> Any:  # noqa: ANN401  # any JSON
    """Leave out what differs from one server, and one second, to the next."""
    left_out = {"uid", "creationTimestamp", "deletionTimestamp", "time"}
    if isinstance(value, dict):
        kept = {name: without_chance(inner) for name, inner in value.items() if name not in left_out}
        return kept | ({"name": "…"} if "generateName" in value else {})
    return [without_chance(inner) for inner in value] if isinstance(value, list) else value


AT_VERSION = {
    "services": 298,
    "configmap-created": 291,
    "configmap-list": 292,
    "lease-created": 295,
    "event-created": 294,
    "list-future-resource-version": 329,
}


@pytest.mark.parametrize(
    "name",
    [
        "pods-list-page-1",
        "pods-list-page-2",
        "pods-metadata-only",
        "namespace",
        "secret",
        "services",
        "not-found-404",
        "list-future-resource-version",
        "configmap-created",
        "configmap-list",
        "configmap-status-annotation",
        "conflict-409",
        "lease-created",
        "event-created",
        "tokenreview-ok",
        "tokenreview-wrong-audience",
        "unauthorized-401",
        "forbidden-403",
    ],
)
async def test_a_recorded_request_is_answered_as_it_was(name: str) -> None:
    recorded = recording(name)
    async with recorded_cluster() as server:
        if name.startswith("configmap-") or name == "conflict-409":
            created = recording("configmap-created")["request"]
            server.store.version = 291
            if name != "configmap-created":
                await ask(server, created)
            if name == "configmap-status-annotation":
                server.store.version = 293
        server.store.version = AT_VERSION.get(name, server.store.version)
        reviewed = recording("tokenreview-ok")
        server.reviews[reviewed["request"]["body"]["spec"]["token"]] = reviewed["body"]["status"]
        if name == "unauthorized-401":
            server.faults.tokens = {"another"}
        if name == "forbidden-403":
            server.forbid("list", "pods")
            server.faults.user = "system:serviceaccount:payments:checkout"
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1" if "metadata" in name else "*/*"

        status, (body,), content_type, retry_after = await ask(server, recorded["request"], Accept=accept)

    assert status == recorded["status"]
    assert without_chance(body) == without_chance(recorded["body"])
    assert content_type == recorded["headers"]["Content-Type"]
    assert retry_after == recorded["headers"].get("Retry-After")


async def test_a_garbage_continue_token_is_a_bad_request() -> None:
    recorded = recording("pods-list-expired-continue")
    async with recorded_cluster() as server:
        status, (body,), *_ = await ask(server, recorded["request"])
    prefix = "invalid continue token: continue key is not valid: "
    assert body["message"].startswith(prefix)
    assert recorded["body"]["message"].startswith(prefix)
    assert (status, {**body, "message": ""}) == (400, {**recorded["body"], "message": ""})


async def test_a_watch_tells_what_a_recorded_one_told() -> None:
    recorded = recording("pods-watch")
    added, relabelled, running, _, deleted, _ = (event["object"] for event in recorded["events"])
    async with recorded_cluster() as server:
        server.put(added)
        server.put(relabelled)
        server.put(running)
        server.remove("Pod", "payments", deleted["metadata"]["name"])
        server.faults.longest_watch = 0.1
        _, events, content_type, _ = await ask(server, recorded["request"])
    assert _without_fields(events) == _without_fields(recorded["events"])
    assert content_type == "application/json"


def _without_fields(events: list[dict[str, Any]]) -> Any:  # noqa: ANN401  # any JSON
    # An object that is changed keeps its first entry of managedFields here.
    for event in events:
        event["object"]["metadata"].pop("managedFields", None)
    return without_chance(events)


async def test_a_watch_from_a_forgotten_version_gets_one_error_and_ends() -> None:
    recorded = recording("pods-watch-410")
    async with recorded_cluster() as server:
        server.store.version = 326
        server.compact()
        status, events, *_ = await ask(server, recorded["request"])
    assert (status, events) == (200, recorded["events"])


async def test_a_page_after_compaction_is_gone() -> None:
    async with recorded_cluster() as server:
        server.store.version = 300
        server.compact()
        status, (body,), *_ = await ask(server, recording("pods-list-page-2")["request"])
    assert (status, body["reason"], body["code"]) == (410, "Expired", 410)


async def test_a_page_shows_the_collection_as_it_was_at_the_first_page() -> None:
    recorded = recording("pods-list-page-2")
    async with recorded_cluster() as server:
        server.remove("Pod", "payments", "checkout-3")
        server.put({**POD, "metadata": {"namespace": "payments", "name": "checkout-33"}})
        _, (body,), *_ = await ask(server, recorded["request"])
    assert [pod["metadata"]["name"] for pod in body["items"]] == ["checkout-3", "checkout-4", "checkout-5"]


async def test_an_apply_drops_what_its_manager_no_longer_names_and_changes_nothing_twice() -> None:
    recorded = recording("configmap-status-annotation")["request"]
    other = json.loads(json.dumps(recorded))
    other["body"]["metadata"]["annotations"] = {"egress-xds/other": "1"}
    async with recorded_cluster() as server:
        await ask(server, recording("configmap-created")["request"])
        _, (first,), *_ = await ask(server, recorded)
        _, (again,), *_ = await ask(server, recorded)
        _, (changed,), *_ = await ask(server, other)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert changed["metadata"]["annotations"] == {"egress-xds/other": "1"}
    assert changed["data"] == first["data"]


async def test_a_lease_with_an_old_version_is_a_conflict() -> None:
    request = recording("lease-created")["request"]
    async with ApiServerEmulation() as server:
        _, (lease,), *_ = await ask(server, request)
        update = {"method": "PUT", "path": f"{request['path']}/egress-xds", "body": lease}
        lease["spec"]["holderIdentity"] = "egress-xds-1"
        taken, *_ = await ask(server, update)
        late, (body,), *_ = await ask(server, update)
    assert (taken, late) == (200, 409)
    assert body["reason"] == "Conflict"
    assert body["details"] == {"name": "egress-xds", "group": "coordination.k8s.io", "kind": "leases"}


def test_the_process_serves_what_it_was_given_and_takes_orders(tmp_path: Path) -> None:
    config_map = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "corp", "namespace": "a"}}
    with emulation_process(tmp_path, config_map) as process:
        listed = process.request("GET", "/api/v1/configmaps")
        process.request("POST", "/api/v1/namespaces/a/configmaps", {"metadata": {"name": "second"}})
        process.tell(compact=True, bookmark_interval=0.5)
        kubeconfig = json.loads(process.kubeconfig.read_text(encoding="utf-8"))
        both = process.request("GET", "/api/v1/configmaps")
    assert [item["metadata"]["name"] for item in listed["items"]] == ["corp"]
    assert [item["metadata"]["name"] for item in both["items"]] == ["corp", "second"]
    assert kubeconfig["clusters"][0]["cluster"]["server"] == process.url
