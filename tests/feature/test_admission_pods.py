"""The webhook for pods over real HTTPS: what becomes of a pod that the API server is about to make."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from tests.feature.test_admission import (
    CERTIFICATE,
    GOOD,
    KEY,
    RECORDED,
    Webhook,
    free_port,
    question,
    running,
    slow,
    write_certificate,
)
from tests.support.api_server import ApiServerEmulation
from tests.support.certificates import Authority
from tests.support.cluster import CLUSTER_SETTINGS, HOME, following, namespace, policy
from tests.support.control_plane import PATIENCE, wait_until
from tests.support.json_patch import apply_patch
from tests.support.pod_rules import check_schema, find_violations
from xds.admin.metrics import metrics_page
from xds.admission.certificate import ServerCertificate
from xds.admission.connections import MAX_CONNECTIONS
from xds.admission.pods import UNDECIDED_POD, Known, Place, PodInjector
from xds.admission.server import INJECT, Desk
from xds.compile.certificates import ends_at, read_certificates
from xds.flags import HostPort
from xds.injection.settings import SidecarSettings
from xds.policy.model import Mode, Workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.control_plane import Running
    from xds.settings import Settings

SHOP = "payments"
"""The namespace of the recorded pods."""
OPTED_IN = {"egress-xds/inject": "true"}
PATH = f"{INJECT}?timeout=10s"
SHAPES = sorted(path.stem for path in RECORDED.glob("admission-pod-*.json"))
LEFT_ALONE = {"admission-pod-host-network", "admission-pod-opt-out"}
AS_ENVOY = "admission-pod-run-as-user"
"""Its containers run as 1337."""
EXPLICIT = f"{GOOD}mode: explicit\n"
OURS = ["egress-bootstrap", "egress-envoy", "egress-capture"]


def settings_in(directory: Path, port: int, **changes: Any) -> Settings:  # noqa: ANN401  # any field
    """Return the settings of a control plane that injects, with its certificate in `directory`."""
    return replace(
        replace(CLUSTER_SETTINGS, **{"shutdown_grace": 0.01, **changes}),
        admission_listen=HostPort(host="127.0.0.1", port=port),
        tls_certificate=directory / CERTIFICATE,
        tls_key=directory / KEY,
        inject_image="registry.corp.example/egress-xds:1",
        inject_init_image="registry.corp.example/egress-xds-init:1",
    )


@asynccontextmanager
async def injecting(
    api: ApiServerEmulation,
    directory: Path,
    authority: Authority,
    **changes: Any,  # noqa: ANN401  # any setting
) -> AsyncIterator[tuple[Webhook, Running]]:
    """Run a control plane that follows the emulation and injects."""
    port = free_port()
    write_certificate(directory, authority)
    (directory / "ca.crt").write_text(authority.certificate, encoding="utf-8")
    async with following(api, directory, settings_in(directory, port, **changes)) as control_plane:
        yield Webhook(ServerCertificate(CERTIFICATE, KEY), authority, port), control_plane


@asynccontextmanager
async def shop(directory: Path, text: str = GOOD, **annotations: str) -> AsyncIterator[Webhook]:
    """Run all of it, in a cluster with one policy and a namespace that asked for injection."""
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(namespace(SHOP, OPTED_IN, **annotations))
        api.put(policy(HOME, "corp", text))
        async with injecting(api, directory, Authority()) as (webhook, _):
            yield webhook


async def test_metrics_tell_when_the_certificate_ends_that_the_api_server_sees(tmp_path: Path) -> None:
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        async with injecting(api, tmp_path, Authority()) as (_, control_plane):
            page = metrics_page(control_plane.parts.administration.observed)
            await wait_until(lambda: b'{use="reviews"}' in page().body)
            text = page().body.decode()

    ends = dict(re.findall(r'^egress_xds_tls_certificate_not_after_seconds\{use="(\w+)"\} (\S+)$', text, re.MULTILINE))
    (chain,) = read_certificates((tmp_path / CERTIFICATE).read_text(encoding="utf-8"))
    assert {use: float(moment) for use, moment in ends.items()} == dict.fromkeys(("streams", "reviews"), ends_at(chain))


def changed(response: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that the API server would make of an answer."""
    assert response["allowed"], response
    if "patch" not in response:
        return before
    assert response["patchType"] == "JSONPatch"
    found = apply_patch(before, json.loads(base64.b64decode(response["patch"])))
    assert isinstance(found, dict)
    return found


async def make(webhook: Webhook, body: dict[str, Any]) -> dict[str, Any]:
    """Ask about a pod and return it as it would be made."""
    return changed(await webhook.ask(body, path=PATH), body["request"]["object"])


def asked(**annotations: str) -> dict[str, Any]:
    """Return the question about a plain pod with annotations below `egress-xds/`."""
    body = question("admission-pod-plain")
    own = {f"egress-xds/{name.replace('_', '-')}": value for name, value in annotations.items()}
    body["request"]["object"]["metadata"]["annotations"] |= own
    return body


def containers(pod: dict[str, Any]) -> list[str]:
    """Return the names of all containers, those of init first."""
    return [item["name"] for key in ("initContainers", "containers") for item in pod["spec"].get(key, ())]


def judge(pod: dict[str, Any]) -> None:
    """Have a pod judged as an API server does before it stores it."""
    check_schema(pod)
    assert find_violations(pod) == []


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_recorded_pod_gets_its_sidecar_and_stays_a_pod(shape: str) -> None:
    body = question(shape)
    before = body["request"]["object"]
    if shape == AS_ENVOY:
        before["metadata"]["annotations"]["egress-xds/run-as-user"] = "1339"
    async with running(desks=desks(known())) as webhook:
        response = await webhook.ask(body, path=PATH)
    after = changed(response, before)

    assert response["uid"] == body["request"]["uid"]
    judge(after)
    if shape in LEFT_ALONE:
        assert after == before
        assert response["auditAnnotations"]["mode"] == "none"
    else:
        assert containers(after)[:3] == OURS
        assert containers(after)[3:] == containers(before)
        assert response["auditAnnotations"] == {"mode": "transparent"}
        assert after["metadata"]["annotations"]["egress-xds/mode"] == "transparent"


async def test_a_pod_that_runs_as_envoy_does_is_refused_for_it_would_not_be_captured() -> None:
    async with running(desks=desks(known())) as webhook:
        response = await webhook.ask(question(AS_ENVOY), path=PATH)

    assert response["allowed"] is False
    assert "1337" in response["status"]["message"]


async def test_who_opts_out_is_not_told_and_who_could_not_know_is() -> None:
    async with running(desks=desks(known())) as webhook:
        opted_out = await webhook.ask(question("admission-pod-opt-out"), path=PATH)
        on_node = await webhook.ask(question("admission-pod-host-network"), path=PATH)

    assert "warnings" not in opted_out
    assert [warning for warning in on_node["warnings"] if "hostNetwork" in warning]


async def test_a_dry_run_is_answered_as_all_else() -> None:
    dry = question("admission-pod-dry-run")
    wet = deepcopy(dry)
    wet["request"]["dryRun"] = False
    async with running(desks=desks(known())) as webhook:
        answers = [await webhook.ask(body, path=PATH) for body in (dry, wet)]

    assert dry["request"]["dryRun"] is True
    assert answers[0] == answers[1]
    assert "patch" in answers[0]


@pytest.mark.parametrize("mode", ["transparent", "explicit", "env"])
async def test_a_pod_that_is_asked_about_again_gets_nothing_twice(tmp_path: Path, mode: str) -> None:
    async with shop(tmp_path, EXPLICIT) as webhook:
        body = asked(mode=mode)
        first = await make(webhook, body)
        body["request"]["object"] = first
        again = await webhook.ask(body, path=PATH)
        late = {"name": "late", "image": "registry.example/late:1"}
        with_another = {**first, "spec": {**first["spec"], "containers": [*first["spec"]["containers"], late]}}
        body["request"]["object"] = with_another
        second = await make(webhook, body)

    assert "patch" not in again
    assert containers(second) == [*containers(first), "late"]
    told = [{item["name"] for item in container.get("env", ())} for container in second["spec"]["containers"][-2:]]
    assert ("HTTPS_PROXY" in told[0]) is (mode != "transparent")
    assert ("HTTPS_PROXY" in told[1]) is (mode != "transparent")
    judge(second)


async def test_a_pod_gets_what_the_policy_says_that_will_be_in_force_for_it(tmp_path: Path) -> None:
    """The one that its labels, its account, its namespace and its annotation lead to."""
    spec = {
        "selector": {"serviceAccounts": ["checkout"], "podLabels": {"matchLabels": {"app": "checkout"}}},
        "mode": "explicit",
        "proxies": {"corp": {"endpoints": [{"url": "http://192.0.2.10:3128"}]}},
        "default": {"action": "tunnel", "proxy": "corp"},
    }
    more = {"apiVersion": "egress-xds/v1alpha1", "kind": "EgressPolicy", "metadata": {"name": "more"}, "spec": spec}
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(namespace(SHOP, OPTED_IN))
        api.put(policy(HOME, "corp", GOOD))
        api.put(policy(SHOP, "wanted", f"{GOOD}mode: env\nname: wanted\n"))
        api.put(policy(SHOP, "more", json.dumps(more)))
        async with injecting(api, tmp_path, Authority()) as (webhook, _):
            by_labels = await webhook.ask(asked(), path=PATH)
            other = asked()
            other["request"]["object"]["metadata"]["labels"]["app"] = "cart"
            by_namespace = await webhook.ask(other, path=PATH)

    assert by_labels["auditAnnotations"] == {"mode": "explicit", "policy": f"{SHOP}/more"}
    assert by_namespace["auditAnnotations"] == {"mode": "env", "policy": f"{SHOP}/wanted"}


async def test_what_a_namespace_says_holds_for_its_pods_and_what_flags_say_for_all(tmp_path: Path) -> None:
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(namespace(SHOP, OPTED_IN, **{"sidecar-memory": "200Mi"}))
        api.put(policy(HOME, "corp", GOOD))
        defaults = (("sidecar-memory", "300Mi"), ("sidecar-cpu", "250m"))
        async with injecting(api, tmp_path, Authority(), inject_default=defaults) as (webhook, _):
            by_namespace = await make(webhook, asked())
            by_pod = await make(webhook, asked(sidecar_memory="150Mi"))

    assert requests(by_namespace) == {"cpu": "250m", "memory": "200Mi"}
    assert requests(by_pod) == {"cpu": "250m", "memory": "150Mi"}


def requests(pod: dict[str, Any]) -> dict[str, str]:
    """Return what the sidecar requests."""
    (envoy,) = [item for item in pod["spec"]["initContainers"] if item["name"] == "egress-envoy"]
    found = envoy["resources"]["requests"]
    assert isinstance(found, dict)
    return found


async def test_sidecars_are_told_where_the_control_plane_is_and_whom_to_believe_also_when_that_changes(
    tmp_path: Path,
) -> None:
    authority, renewed = Authority(), Authority("another")
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(namespace(SHOP, OPTED_IN))
        api.put(policy(HOME, "corp", GOOD))
        async with injecting(api, tmp_path, authority) as (webhook, _):
            before = await make(webhook, asked())
            (tmp_path / "ca.crt").write_text("-----BEGIN PRIVATE KEY-----\n", encoding="utf-8")
            (tmp_path / "ca.crt").write_text(renewed.certificate, encoding="utf-8")
            async with asyncio.timeout(20):
                while believed(after := await make(webhook, asked())) == authority.certificate:  # noqa: ASYNC110  # pods tell
                    await asyncio.sleep(0.05)

    assert believed(before) == authority.certificate
    assert believed(after) == renewed.certificate
    (bootstrap,) = [item for item in after["spec"]["initContainers"] if item["name"] == "egress-bootstrap"]
    assert f"--server=egress-xds.{HOME}.svc:18000" in bootstrap["args"]
    assert bootstrap["image"] == "registry.corp.example/egress-xds:1"


def believed(pod: dict[str, Any]) -> str:
    """Return the authority that a pod's sidecar believes."""
    return str(pod["metadata"]["annotations"]["egress-xds/server-ca"])


async def test_what_a_pod_can_not_have_is_refused_with_every_reason(tmp_path: Path) -> None:
    async with shop(tmp_path) as webhook:
        wrong = await webhook.ask(asked(mode="sideways", famly="ipv4"), path=PATH)
        undeliverable = await webhook.ask(asked(mode="explicit"), path=PATH)

    for response in (wrong, undeliverable):
        assert response["allowed"] is False
        assert (response["status"]["code"], response["status"]["reason"]) == (422, "Invalid")
        assert "patch" not in response
    assert "egress-xds/mode" in wrong["status"]["message"]
    assert "egress-xds/famly" in wrong["status"]["message"]
    assert "corp" in undeliverable["status"]["message"]


async def test_a_policy_that_can_not_be_used_keeps_no_pod_from_its_sidecar(tmp_path: Path) -> None:
    """It is captured and served nothing; without the sidecar it would reach everything."""
    async with shop(tmp_path, "httpProxy: [\n") as webhook:
        response = await webhook.ask(asked(), path=PATH)
        needed = await webhook.ask(asked(mode="env"), path=PATH)

    assert containers(changed(response, asked()["request"]["object"]))[:3] == OURS
    assert any("can't be used" in warning for warning in response["warnings"])
    assert needed["allowed"] is False


async def test_a_pod_that_no_policy_selects_gets_its_sidecar(tmp_path: Path) -> None:
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(namespace(SHOP, OPTED_IN))
        async with injecting(api, tmp_path, Authority()) as (webhook, _):
            response = await webhook.ask(asked(), path=PATH)

    assert containers(changed(response, asked()["request"]["object"]))[:3] == OURS
    assert response["auditAnnotations"] == {"mode": "transparent"}


async def test_hundreds_of_pods_at_once_all_get_their_sidecars(tmp_path: Path) -> None:
    async with shop(tmp_path) as webhook, webhook.connect() as session:

        async def ask(number: int) -> dict[str, Any]:
            body = asked()
            body["request"]["uid"] = f"uid-{number}"
            async with session.post(
                f"{INJECT}?timeout=30s", json=body, server_hostname="egress-xds.egress-system.svc"
            ) as answer:
                assert answer.status == 200
                found = (await answer.json())["response"]
                assert isinstance(found, dict)
                return found

        answers = await asyncio.gather(*map(ask, range(300)))

    assert [answer["uid"] for answer in answers] == [f"uid-{number}" for number in range(300)]
    assert len({answer["patch"] for answer in answers}) == 1


async def test_a_replica_that_ends_answers_for_as_long_as_it_may_still_be_asked(tmp_path: Path) -> None:
    """A Service names it for a moment longer, and no pod is made while nobody answers."""
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(namespace(SHOP, OPTED_IN))
        async with injecting(api, tmp_path, Authority(), shutdown_grace=2.0) as (webhook, control_plane):
            await webhook.ask(asked(), path=PATH)
            control_plane.stop.set()
            async with asyncio.timeout(PATIENCE):
                while await is_served_at(control_plane.address):  # noqa: ASYNC110  # its streams have ended by then
                    await asyncio.sleep(0.01)
            late = await webhook.ask(asked(), path=PATH)

    assert "patch" in late
    assert control_plane.task.done()


async def is_served_at(address: str) -> bool:
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


# --- what is not known


def refused_for_now(response: dict[str, Any]) -> bool:
    """Whether a client that gets this answer asks again by itself, a second later."""
    status = response.get("status", {})
    return (
        response["allowed"] is False
        and "patch" not in response
        and (status["code"], status["reason"]) == (503, "ServiceUnavailable")
        and status["details"] == {"retryAfterSeconds": 1}
        and "try again" in status["message"]
    )


async def test_a_namespace_that_was_made_a_moment_ago_is_waited_for(tmp_path: Path) -> None:
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(policy(HOME, "corp", EXPLICIT))
        async with injecting(api, tmp_path, Authority()) as (webhook, _):
            asking = asyncio.create_task(webhook.ask(asked(), path=f"{INJECT}?timeout=30s"))
            before = await webhook.ask(asked(inject="false"), path=f"{INJECT}?timeout=1s")
            was_done = asking.done()
            api.put(namespace(SHOP, OPTED_IN, mode="explicit"))
            response = await asking

    assert before == {**before, "allowed": True}
    assert not was_done
    assert response["auditAnnotations"] == {"mode": "explicit", "policy": "/corp"}


async def test_a_namespace_that_never_becomes_known_has_its_pods_refused_for_now(tmp_path: Path) -> None:
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(policy(HOME, "corp", GOOD))
        async with injecting(api, tmp_path, Authority()) as (webhook, _):
            response = await webhook.ask(asked(mode="transparent"), path=f"{INJECT}?timeout=1s")

    assert refused_for_now(response)


async def no_wait(_: str) -> None:
    """Wait for a namespace that is known."""


def known(**changes: object) -> Known:
    """Return what is known where nothing is unknown, but for `changes`."""
    workload = Workload(pod="", namespace=SHOP)
    sidecar = SidecarSettings(
        image="egress-xds:1", init_image="egress-xds-init:1", server="xds.example:1", server_ca=Authority().certificate
    )
    everything: dict[str, Any] = {
        "place": lambda _namespace, _pod: Place(workload=workload, annotations={}),
        "is_served": lambda: True,
        "policy_for": lambda _: None,
        "networks": lambda: (),
        "sidecar": lambda: sidecar,
        "wait_for_namespace": no_wait,
    }
    return Known(**{**everything, **changes})


def desks(found: Known, **changes: Any) -> dict[str, Desk]:  # noqa: ANN401  # any field
    """Return the webhook for pods alone."""
    injector = PodInjector(found)
    desk = Desk(reviewer=injector, undecided=UNDECIDED_POD, prepare=injector.prepare, most_waiting=MAX_CONNECTIONS)
    return {INJECT: replace(desk, **changes)}


@pytest.mark.parametrize(
    "lack",
    [
        pytest.param({"is_served": lambda: False}, id="policies were not read yet"),
        pytest.param({"place": lambda _namespace, _pod: None}, id="the namespace is not known yet"),
        pytest.param({"sidecar": lambda: None}, id="which Kubernetes this is is not known yet"),
    ],
)
@pytest.mark.parametrize("mode", ["transparent", "explicit", "env", "sideways"])
async def test_as_long_as_something_that_decides_is_not_known_no_pod_is_let_through(
    lack: dict[str, Any], mode: str
) -> None:
    async with running(desks=desks(known(**lack))) as webhook:
        assert refused_for_now(await webhook.ask(asked(mode=mode), path=PATH))


async def test_who_gets_no_sidecar_in_any_case_needs_not_wait_for_policies() -> None:
    async with running(desks=desks(known(is_served=lambda: False))) as webhook:
        answers = [await webhook.ask(question(shape), path=PATH) for shape in sorted(LEFT_ALONE)]

    assert all(answer["allowed"] and "patch" not in answer for answer in answers)


async def test_a_pod_that_was_not_decided_about_in_time_is_refused_for_now() -> None:
    stop = Event()
    with capture_logs() as logs:
        async with running(desks=desks(known(), reviewer=slow(stop))) as webhook:
            response = await webhook.ask(asked(), path=f"{INJECT}?timeout=1s")
            stop.set()

    assert refused_for_now(response)
    assert any(entry["event"] == "review: refused for now, for it took too long" for entry in logs)


async def test_of_more_pods_than_are_waited_for_none_is_let_through() -> None:
    stop = Event()
    async with running(desks=desks(known(), reviewer=slow(stop), most_waiting=3)) as webhook:
        asking = [asyncio.create_task(webhook.ask(asked(), path=f"{INJECT}?timeout=2s")) for _ in range(10)]
        answers = await asyncio.gather(*asking)
        stop.set()

    assert all(map(refused_for_now, answers))


async def test_what_is_waited_for_takes_half_of_the_time_at_most() -> None:
    async def never(_: str) -> None:
        await asyncio.Event().wait()

    async with running(desks=desks(known(wait_for_namespace=never))) as webhook:
        response = await webhook.ask(asked(), path=f"{INJECT}?timeout=2s")

    assert "patch" in response


NO_PODS: dict[str, tuple[str, object]] = {
    "no pod": ("object", None),
    "a list": ("object", []),
    "no namespace": ("namespace", ""),
    "a label that is no text": ("object", {"metadata": {"labels": {"a": 1}}}),
    "metadata that are a list": ("object", {"metadata": ["a"], "spec": {}}),
}


async def test_what_is_no_pod_is_a_bad_request_and_no_pod_is_made_of_it(tmp_path: Path) -> None:
    async with shop(tmp_path) as webhook:
        answers = {name: await webhook.send(changed_request(*change), path=PATH) for name, change in NO_PODS.items()}

    assert {name: status for name, (status, _) in answers.items()} == dict.fromkeys(NO_PODS, 400)


def changed_request(part: str, value: object) -> bytes:
    """Return the question about a plain pod with another part of the request."""
    body = asked()
    body["request"][part] = value
    return json.dumps(body).encode()


async def test_a_pod_without_the_parts_of_one_is_refused() -> None:
    body = asked()
    body["request"]["object"]["spec"]["containers"] = "app"
    async with running(desks=desks(known())) as webhook:
        response = await webhook.ask(body, path=PATH)

    assert response["allowed"] is False


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE", "CONNECT"])
async def test_a_pod_that_is_there_already_stays_as_it_is(operation: str) -> None:
    body = asked()
    body["request"]["operation"] = operation
    async with running(desks=desks(known(sidecar=lambda: None))) as webhook:
        assert await webhook.ask(body, path=PATH) == {"uid": body["request"]["uid"], "allowed": True}


@pytest.mark.parametrize(
    ("version", "is_native"),
    [
        pytest.param({"major": "1", "minor": "36"}, True, id="today's"),
        pytest.param({"major": "1", "minor": "29+"}, True, id="the first that has them, as a vendor tells it"),
        pytest.param({"major": "1", "minor": "28"}, False, id="the last that doesn't"),
        pytest.param({}, True, id="one that does not tell"),
    ],
)
async def test_a_sidecar_is_native_where_the_cluster_has_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: dict[str, str], is_native: bool
) -> None:
    monkeypatch.setattr("tests.support.api_server._VERSION", version)
    async with shop(tmp_path) as webhook:
        pod = await make(webhook, asked())

    place = "initContainers" if is_native else "containers"
    (envoy,) = [item for item in pod["spec"][place] if item["name"] == "egress-envoy"]
    assert ("restartPolicy" in envoy) is is_native


async def test_a_pod_that_was_made_is_served_as_its_annotation_says(tmp_path: Path) -> None:
    """What the injector wrote comes back from the API server with the pod."""
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(namespace(SHOP, OPTED_IN))
        api.put(policy(HOME, "corp", EXPLICIT))
        async with injecting(api, tmp_path, Authority()) as (webhook, control_plane):
            pod = await make(webhook, asked())
            api.put({**pod, "status": {"phase": "Running"}})
            cluster = control_plane.parts.cluster
            assert cluster is not None
            await wait_until(lambda: [*cluster.mirror.injected()] != [])
            (workload,) = cluster.mirror.injected()

    assert (workload.namespace, workload.pod) == (SHOP, "s-plain")
    assert workload.mode is Mode.EXPLICIT
