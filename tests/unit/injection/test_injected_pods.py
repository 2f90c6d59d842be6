"""What becomes of a pod: for every shape a pod that an API server takes, and the same when it is asked again."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from tests.support.json_patch import apply_patch
from tests.support.pod_rules import check_schema, find_security_violations, find_violations
from tests.unit.injection.pod_shapes import (
    AUTHORITY,
    COMPANY,
    CORPORATE,
    ENV,
    EXPLICIT,
    SHAPES,
    SIDECAR,
    WITH_AUTHORITY,
    WITHOUT_NATIVE,
    Shape,
    around,
    container_of,
    names_of,
    pod,
)
from xds.cli.bootstrap import command as bootstrap_command
from xds.cli.capture import command as capture_command
from xds.cli.trust import command as trust_command
from xds.injection.inject import inject
from xds.injection.patch import render_patch
from xds.policy.model import Mode

if TYPE_CHECKING:
    import click

GOLDEN = Path(__file__).parent / "injected_golden"
VERBS: dict[str, click.Command] = {
    "bootstrap": bootstrap_command,
    "capture": capture_command,
    "trust": trust_command,
}
OURS = ("egress-trust", "egress-bootstrap", "egress-envoy", "egress-capture")
OPTED_OUT = {"egress-xds/inject": "false"}
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)


def as_pod(value: object) -> dict[str, Any]:
    """Return a pod as it crosses the network, with what a manifest may leave out."""
    found: dict[str, Any] = json.loads(json.dumps(value))
    return {"apiVersion": "v1", "kind": "Pod", **found}


@every_shape
def test_an_api_server_takes_what_becomes_of_a_pod(shape: Shape) -> None:
    injected = as_pod(shape.inject().pod)

    check_schema(injected)
    assert find_violations(injected) == []


@every_shape
def test_injecting_twice_gives_what_injecting_once_gives(shape: Shape) -> None:
    once = shape.inject()
    twice = inject(once.pod, shape.around, shape.sidecar)

    assert twice.mode is once.mode is shape.mode
    assert twice.pod == once.pod


@every_shape
def test_the_patch_makes_of_the_pod_what_injection_returns(shape: Shape) -> None:
    injected = shape.inject()

    assert apply_patch(shape.pod, render_patch(shape.pod, injected.pod)) == json.loads(json.dumps(injected.pod))


@every_shape
def test_what_was_in_the_pod_is_there_as_it_was(shape: Shape) -> None:
    """But for variables and mounts, which are added behind the application's own."""
    injected: Any = shape.inject().pod
    original = copy.deepcopy(shape.pod)

    for key in ("initContainers", "containers"):
        kept = [item for item in injected["spec"].get(key) or () if item["name"] not in OURS]
        before = original["spec"].get(key) or []
        assert [item["name"] for item in kept] == [item["name"] for item in before]
        for now, then in zip(kept, before, strict=True):
            for part in ("env", "volumeMounts"):
                held = then.get(part) or []
                assert [item["name"] for item in now.get(part) or ()][: len(held)] == [item["name"] for item in held]
            assert without(now, "env", "volumeMounts") == without(then, "env", "volumeMounts")
    parts = ("initContainers", "containers", "volumes")
    assert without(injected["spec"], *parts) == without(original["spec"], *parts)
    assert without(injected["metadata"], "annotations") == without(original["metadata"], "annotations")


def without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in keys}


@every_shape
def test_the_pod_that_is_handed_in_stays_as_it_is(shape: Shape) -> None:
    handed_in = copy.deepcopy(shape.pod)

    inject(handed_in, shape.around, shape.sidecar)

    assert handed_in == shape.pod


@every_shape
def test_only_the_step_that_captures_is_more_than_the_standard_restricted_allows(shape: Shape) -> None:
    injected = as_pod(shape.inject().pod)

    assert find_security_violations(injected, set(OURS) - {"egress-capture"}) == []
    assert ("egress-capture" in names_of(injected, "initContainers")) is (shape.mode is Mode.TRANSPARENT)


@every_shape
def test_every_container_of_ours_says_what_it_may_use(shape: Shape) -> None:
    """A namespace with a quota refuses a pod of which one container doesn't."""
    injected = shape.inject().pod

    for name in OURS:
        if name in [*names_of(injected, "initContainers"), *names_of(injected, "containers")]:
            resources = container_of(injected, name)["resources"]
            assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}


@every_shape
def test_the_arguments_are_ones_that_the_commands_take(shape: Shape) -> None:
    injected = as_pod(shape.inject().pod)

    for container in injected["spec"].get("initContainers") or ():
        if container["name"] in OURS and container["command"] == ["xds"]:
            verb, *arguments = container["args"]
            VERBS[verb].make_context(verb, arguments)


@every_shape
def test_status_counts_pods_with_a_sidecar_only(shape: Shape) -> None:
    annotations: Any = shape.inject().pod["metadata"]["annotations"]  # type: ignore[index]  # JSON has no types

    assert annotations["egress-xds/mode"] == shape.mode.value
    assert annotations.get("egress-xds/injected") == (None if shape.mode is Mode.ENV else "true")
    assert annotations.get("egress-xds/server-ca") == (None if shape.mode is Mode.ENV else AUTHORITY)


def test_the_bootstrap_is_written_by_the_arguments_of_its_container(tmp_path: Path) -> None:
    injected = Shape("", pod()).inject().pod
    arguments = [
        text.replace("/etc/egress-xds", str(tmp_path)) for text in container_of(injected, "egress-bootstrap")["args"]
    ]
    arguments = [text.replace("$(POD_NAME)", "web-0").replace("$(POD_NAMESPACE)", "shop") for text in arguments]

    done = CliRunner().invoke(bootstrap_command, arguments[1:], catch_exceptions=False)

    assert done.exit_code == 0, done.output
    written = yaml.safe_load((tmp_path / "bootstrap" / "bootstrap.yaml").read_text())
    assert written["node"]["id"] == "web-0.shop"
    assert written["admin"]["address"]["pipe"]["path"] == "/run/egress-xds/admin.sock"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transparent", Shape("", pod("initContainers: [{name: migrate, image: m:1}]"))),
        ("explicit", Shape("", pod(), Mode.EXPLICIT, around(EXPLICIT))),
        (
            "env",
            Shape(
                "",
                pod(annotations={"egress-xds/trusted-ca": "true"}),
                Mode.ENV,
                around(replace(ENV, trusted_ca=COMPANY)),
            ),
        ),
    ],
    ids=["transparent", "explicit", "env"],
)
def test_the_injected_pod_is_the_golden_one(name: str, shape: Shape, *, update_golden: bool) -> None:
    path = GOLDEN / f"{name}.yaml"
    text = yaml.safe_dump(json.loads(json.dumps(shape.inject().pod)), sort_keys=False, width=120)
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    assert text == path.read_text(encoding="utf-8")


def test_containers_run_in_an_order_in_which_nothing_leaves_unseen() -> None:
    injected = (
        Shape(
            "",
            pod("initContainers: [{name: migrate, image: m:1}]", annotations={"egress-xds/trusted-ca": "true"}),
            around=around(WITH_AUTHORITY),
        )
        .inject()
        .pod
    )

    assert names_of(injected, "initContainers") == [*OURS, "migrate"]
    assert container_of(injected, "egress-envoy")["restartPolicy"] == "Always"
    assert container_of(injected, "egress-capture")["args"][:3] == ["capture", "--apply", "--wait"]


def test_without_native_sidecars_envoy_is_the_first_container_and_capture_the_last_step() -> None:
    injection = Shape(
        "", pod("initContainers: [{name: migrate, image: m:1}]\nrestartPolicy: Never"), sidecar=WITHOUT_NATIVE
    ).inject()

    assert names_of(injection.pod, "initContainers") == ["egress-bootstrap", "migrate", "egress-capture"]
    assert names_of(injection.pod, "containers") == ["egress-envoy", "app"]
    assert "restartPolicy" not in container_of(injection.pod, "egress-envoy")
    assert "--force" in container_of(injection.pod, "egress-capture")["args"]
    assert "--wait" not in container_of(injection.pod, "egress-capture")["args"]
    assert [("migrate" in text, "does not end" in text) for text in injection.warnings] == [
        (True, False),
        (False, True),
    ]


def test_what_is_not_captured_is_what_the_pod_says() -> None:
    every = next(shape for shape in SHAPES if shape.name == "every annotation")

    assert container_of(every.inject().pod, "egress-capture")["args"] == [
        "capture",
        "--apply",
        "--wait",
        "--exempt-uid=2000",
        "--family=ipv4",
        "--exclude-port=5432",
        "--exclude-port=9092",
        "--exclude-cidr=192.0.2.0/24",
        "--exclude-uid=0",
        "--exclude-uid=999",
        "--reject-udp=all",
    ]


def test_envoy_gets_what_the_pod_says_and_four_fifths_of_it_are_its_heap() -> None:
    every = next(shape for shape in SHAPES if shape.name == "every annotation")
    injected = every.inject().pod

    assert container_of(injected, "egress-envoy")["resources"] == {
        "requests": {"cpu": "3", "memory": "256Mi"},
        "limits": {"cpu": "3", "memory": "1Gi"},
    }
    assert "--max-heap=819Mi" in container_of(injected, "egress-bootstrap")["args"]
    assert container_of(injected, "egress-envoy")["securityContext"]["runAsUser"] == 2000


def test_a_container_that_another_webhook_added_in_between_gets_its_variables() -> None:
    shape = Shape("", pod(), Mode.EXPLICIT, around(EXPLICIT))
    once = json.loads(json.dumps(shape.inject().pod))
    once["spec"]["containers"].append({"name": "late", "image": "late:1"})

    twice = inject(once, shape.around, SIDECAR)

    assert container_of(twice.pod, "late")["env"] == container_of(twice.pod, "app")["env"]
    assert inject(twice.pod, shape.around, SIDECAR).pod == twice.pod


@every_shape
def test_whatever_was_made_of_our_parts_in_between_is_made_anew(shape: Shape) -> None:
    once = shape.inject().pod
    changed = json.loads(json.dumps(once))
    found = [item for key in ("initContainers", "containers") for item in changed["spec"].get(key) or ()]
    for container in found:
        if container["name"] in OURS:
            container |= {"image": "another", "command": ["sleep"], "env": [{"name": "ADDED", "value": "1"}]}
    for volume in changed["spec"].get("volumes") or ():
        if volume["name"] in OURS:
            volume["hostPath"] = {"path": "/"}

    assert inject(changed, shape.around, shape.sidecar).pod == once


def test_what_an_api_server_fills_in_for_our_parts_is_nothing_that_a_pod_is_refused_for() -> None:
    once = Shape("", pod()).inject().pod
    stored = json.loads(json.dumps(once))
    for container in [*stored["spec"]["initContainers"], *stored["spec"]["containers"]]:
        container |= {"terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent"}
        mount = {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
        container.setdefault("volumeMounts", []).append(mount)
    stored["spec"]["volumes"].append({"name": "kube-api-access-x", "projected": {"sources": []}})
    container_of(stored, "egress-envoy")["startupProbe"]["successThreshold"] = 1

    again = json.loads(json.dumps(inject(stored, around(), SIDECAR).pod))

    assert container_of(again, "app") == container_of(stored, "app")
    assert [container_of(again, name) for name in OURS[1:]] == [container_of(once, name) for name in OURS[1:]]
    assert sorted(names_of(again, "volumes")) == sorted(names_of(stored, "volumes"))
    assert find_violations(as_pod(again)) == []


def test_a_pod_that_only_calls_its_parts_as_ours_gets_ours() -> None:
    forged = pod(
        """
        initContainers: [{name: egress-trust, image: mine, command: [sleep]}, {name: egress-capture, image: mine}]
        volumes: [{name: egress-identity, emptyDir: {}}]
        """
    )
    forged["spec"]["containers"].insert(0, {"name": "egress-envoy", "image": "mine"})

    injected = inject(forged, around(), SIDECAR).pod

    assert injected == {**Shape("", pod()).inject().pod, "metadata": injected["metadata"]}


def test_a_container_that_was_put_before_ours_runs_after_the_capture() -> None:
    once = json.loads(json.dumps(Shape("", pod()).inject().pod))
    once["spec"]["initContainers"].insert(0, {"name": "first", "image": "f:1"})

    assert names_of(inject(once, around(), SIDECAR).pod, "initContainers") == [*OURS[1:], "first"]


def test_what_a_mesh_put_before_ours_stays_there_and_what_others_did_does_not() -> None:
    beside = around(EXPLICIT, {"istio-injection": "enabled"})
    once = json.loads(json.dumps(inject(pod(), beside, SIDECAR).pod))
    once["spec"]["initContainers"][:0] = [{"name": name, "image": "i:1"} for name in ("istio-init", "mine")]

    twice = inject(once, beside, SIDECAR).pod

    assert names_of(twice, "initContainers") == ["istio-init", "egress-bootstrap", "egress-envoy", "mine"]
    assert inject(twice, beside, SIDECAR).pod == twice


def test_a_new_authority_of_the_control_plane_reaches_pods_that_are_made_of_injected_ones() -> None:
    once = Shape("", pod()).inject().pod
    newer = replace(SIDECAR, server_ca=AUTHORITY + COMPANY)

    annotations: Any = inject(once, around(), newer).pod["metadata"]["annotations"]  # type: ignore[index]  # JSON has no types

    assert annotations["egress-xds/server-ca"] == newer.server_ca


def test_beside_a_mesh_the_sidecar_is_a_user_that_the_mesh_sees_and_has_no_probe() -> None:
    """The kubelet's question would go to the mesh, which captures what comes in."""
    injected = Shape("", pod(), around=around(EXPLICIT, {"istio-injection": "enabled"})).inject().pod
    envoy = container_of(injected, "egress-envoy")

    assert envoy["securityContext"]["runAsUser"] == 1338
    assert "startupProbe" not in envoy
    assert not any("--probe" in text for text in container_of(injected, "egress-bootstrap")["args"])
    assert "egress-capture" not in names_of(injected, "initContainers")


def test_containers_of_a_mesh_get_no_variables() -> None:
    shape = next(shape for shape in SHAPES if shape.name == "beside Istio, which was first")
    injected = shape.inject().pod

    assert container_of(injected, "app")["env"]
    assert "env" not in container_of(injected, "istio-proxy")
    assert "env" not in container_of(injected, "istio-init")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (pod(annotations={"egress-xds/inject": "false"}), "it opted out"),
        (pod(annotations={"egress-xds/inject": "false", "egress-xds/mode": "nonsense"}), "it opted out"),
        (pod("hostNetwork: true"), "the network of its node"),
        (pod("os: {name: windows}"), "Windows"),
        (pod("nodeSelector: {kubernetes.io/os: windows}"), "Windows"),
        (pod(annotations={"kubernetes.io/config.mirror": "0123"}), "static pod"),
        (pod(labels={"egress-xds/inject": "false"}), "it opted out"),
    ],
    ids=[
        "opted out",
        "opted out, whatever else it says",
        "the network of the node",
        "Windows",
        "a node with Windows",
        "stands for a static pod",
        "opted out by its label, for which the webhook is not asked",
    ],
)
def test_what_is_left_alone_is_left_as_it_is_and_the_reason_is_told(shape: dict[str, Any], reason: str) -> None:
    injection = inject(shape, around(EXPLICIT), SIDECAR)

    assert injection.pod == shape
    assert injection.mode is None
    assert reason in injection.reason


def test_a_pod_that_is_left_alone_does_not_say_that_it_has_a_sidecar() -> None:
    says = {"egress-xds/injected": "true", "other": "stays"}
    with_one = pod("initContainers: [{name: egress-envoy, image: e:1}]", annotations={**says, **OPTED_OUT})

    assert inject(pod("hostNetwork: true", annotations=says), around(), SIDECAR).pod == pod(
        "hostNetwork: true", annotations={"other": "stays"}
    )
    assert inject(with_one, around(), SIDECAR).pod == with_one


def test_nothing_asks_whether_a_sidecar_is_ready_once_it_was() -> None:
    """Other pods reach the port of that question, and could keep it busy."""
    envoy = container_of(Shape("", pod()).inject().pod, "egress-envoy")

    assert "startupProbe" in envoy
    assert not {"readinessProbe", "livenessProbe"} & set(envoy)


def test_the_policy_decides_the_mode_unless_a_pod_or_its_namespace_does() -> None:
    explicit = replace(EXPLICIT, mode=Mode.ENV)
    in_namespace = around(explicit, annotations={"egress-xds/mode": "explicit"})

    assert inject(pod(), around(explicit), SIDECAR).mode is Mode.ENV
    assert inject(pod(), in_namespace, SIDECAR).mode is Mode.EXPLICIT
    assert inject(pod(annotations={"egress-xds/mode": "transparent"}), in_namespace, SIDECAR).mode is Mode.TRANSPARENT


@pytest.mark.parametrize(
    ("shape", "warning"),
    [
        (Shape("", pod(), around=around(None)), "no policy is in force"),
        (Shape("", pod(), around=around(labels={"pod-security.kubernetes.io/enforce": "baseline"})), "NET_ADMIN"),
        (Shape("", pod(container="env: [{name: https_proxy, value: 'http://p:1'}]")), "sets https_proxy itself"),
        (
            Shape(
                "",
                pod(annotations={"egress-xds/exclude-ports": "1", "egress-xds/mode": "explicit"}),
                around=around(EXPLICIT),
            ),
            "has no effect in the mode explicit",
        ),
        (Shape("", pod(annotations={"egress-xds/trusted-ca": "true"}), around=around(CORPORATE)), "has no trustedCA"),
        (Shape("", pod(container="envFrom: [{configMapRef: {name: c}}]"), around=around(EXPLICIT)), "(envFrom)"),
        (
            Shape("", pod(), around=around(replace(EXPLICIT, mode=Mode.TRANSPARENT), {"istio-injection": "enabled"})),
            "captures, by what its namespace says: egress-xds captures nothing",
        ),
        (
            Shape(
                "",
                pod(labels={"sidecar.istio.io/inject": "true"}),
                around=around(replace(EXPLICIT, mode=Mode.TRANSPARENT)),
            ),
            "captures, by a label, an annotation or a container of its own",
        ),
        (
            Shape("", pod(annotations={"egress-xds/run-as-user": "1000"})),
            "which user runs app is for the image to say",
        ),
        (Shape("", pod(), sidecar=WITHOUT_NATIVE), "whose first and last connections may fail"),
        (Shape("", pod("restartPolicy: Never"), sidecar=WITHOUT_NATIVE), "does not end when the application does"),
    ],
    ids=[
        "no policy",
        "pod security",
        "a proxy of its own",
        "an annotation of another mode",
        "no authority to add",
        "variables from elsewhere",
        "a mesh that its namespace wants",
        "a mesh that the pod alone wants",
        "a user of the sidecar that an image may have",
        "an application beside an ordinary sidecar",
        "a job beside an ordinary sidecar",
    ],
)
def test_what_somebody_may_want_to_know_is_a_warning(shape: Shape, warning: str) -> None:
    assert [text for text in shape.inject().warnings if warning in text]
