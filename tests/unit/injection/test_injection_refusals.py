"""What a pod asks for and can't get: it is refused, with everything that is wrong and what to do, never let through."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.policies import rule
from tests.unit.injection.pod_shapes import (
    COMPANY,
    CORPORATE,
    ENV,
    EXPLICIT,
    HELD,
    ISTIO,
    SIDECAR,
    WITH_NAMES,
    WITHOUT_NATIVE,
    Shape,
    around,
    pod,
    recorded,
)
from xds.errors import InjectionError, SettingsError
from xds.injection.inject import Unknown, inject
from xds.injection.settings import SidecarSettings
from xds.policy.model import BasicLogin, Deny, Mode

ASKS_TRANSPARENT = {"egress-xds/mode": "transparent"}
ASKS_EXPLICIT = {"egress-xds/mode": "explicit"}
TRUSTING = {"egress-xds/trusted-ca": "true"}
MOUNTS = ("the container app mounts egress-", "a volume of the sidecar's; remove the mount")
WITH_LOGIN = replace(ENV, proxies=(replace(ENV.proxies[0], login=BasicLogin(file="/etc/login")),))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Shape("", recorded("run-as-user")), ("the container app runs as user 1337", "run-as-user")),
        (Shape("", pod(container="securityContext: {runAsUser: 1337}")), ("the container app runs as user 1337",)),
        (
            Shape("", pod("initContainers: [{name: i, image: i:1, securityContext: {runAsUser: 1337}}]")),
            ("the container i runs as user 1337",),
        ),
        (
            Shape("", pod(container="securityContext: {runAsUser: 1338}"), around=around(EXPLICIT, ISTIO)),
            ("runs as user 1338",),
        ),
        (Shape("", pod("initContainers: [{name: egress-capture, image: c:1}]")), ("called egress-capture", "rename")),
        (
            Shape("", pod("initContainers: [{name: egress-envoy, image: e:1, restartPolicy: Always}]")),
            ("called egress-envoy", "rename it", 'opt out by the annotation egress-xds/inject: "false"'),
        ),
        (
            Shape(
                "",
                pod(
                    "initContainers: [{name: istio-proxy, image: i:1, securityContext: {runAsUser: 1338}}]",
                    labels={"sidecar.istio.io/inject": "true"},
                ),
                around=around(EXPLICIT),
            ),
            ("the container istio-proxy runs as user 1338",),
        ),
        (Shape("", pod(container="volumeMounts: [{name: egress-identity, mountPath: /t}]")), MOUNTS),
        (Shape("", pod(container="volumeMounts: [{name: egress-run, mountPath: /t, readOnly: true}]")), MOUNTS),
        (
            Shape("", pod("initContainers: [{name: i, volumeMounts: [{name: egress-bootstrap, mountPath: /t}]}]")),
            ("the container i mounts egress-bootstrap",),
        ),
        (
            Shape("", pod(container="volumeMounts: [{name: egress-trust, mountPath: /etc/egress-xds/trust}]")),
            MOUNTS,
        ),
        (
            Shape(
                "",
                pod(
                    annotations=TRUSTING,
                    container="volumeMounts: [{name: egress-trust, mountPath: /etc/egress-xds/trust}]",
                ),
                around=around(replace(CORPORATE, trusted_ca=COMPANY)),
            ),
            MOUNTS,
        ),
        (Shape("", pod("volumes: [{name: egress-run, emptyDir: {}}]")), ("volume of the pod is called egress-run",)),
        (Shape("", pod(container="ports: [{containerPort: 15001}]")), ("has port 15001",)),
        (Shape("", pod(container="ports: [{containerPort: 15024}]")), ("has port 15024",)),
        (Shape("", pod(container="ports: [{containerPort: 15002}]"), around=around(EXPLICIT)), ("has port 15002",)),
        (
            Shape("", pod(annotations=ASKS_TRANSPARENT), around=around(CORPORATE, ISTIO)),
            ("the annotation egress-xds/mode of the pod is transparent", "Istio's sidecar captures", "write explicit"),
        ),
        (
            Shape("", pod(), around=around(CORPORATE, ISTIO, ASKS_TRANSPARENT)),
            ("the annotation egress-xds/mode of its namespace is transparent",),
        ),
        (
            Shape("", pod(), around=around(CORPORATE, ISTIO)),
            ("has no port for explicit mode", "add `explicit: {port: 15002}` to it"),
        ),
        (Shape("", pod(annotations=ASKS_EXPLICIT), around=around(None)), ("no policy is in force",)),
        (Shape("", pod(annotations=ASKS_EXPLICIT), around=around(HELD)), ("broken can't be used", "xds validate")),
        (
            Shape("", pod(annotations={"egress-xds/mode": "env"}), around=around(Unknown.UNKNOWN)),
            ("no policy was given", "--kubernetes"),
        ),
        (Shape("", pod(), around=around(WITH_LOGIN)), ("the mode env can't be had", "login")),
        (
            Shape("", pod(), around=around(replace(ENV, rules=(rule(Deny(), "ads.example"),)))),
            ("the mode env can't be had",),
        ),
        (
            Shape(
                "", pod(annotations={"egress-xds/run-as-user": "1337", **ASKS_EXPLICIT}), around=around(EXPLICIT, ISTIO)
            ),
            ("is 1337, the user of Istio's sidecar",),
        ),
        (
            Shape("", pod(annotations={"egress-xds/native-sidecar": "true"}), sidecar=WITHOUT_NATIVE),
            ("native-sidecar of the pod asks for what this cluster does not have",),
        ),
        (Shape("", pod(annotations={"egress-xds/dns": "true"})), ("egress-xds/dns of the pod is true", "dns.mode")),
        (
            Shape("", pod(annotations={"egress-xds/exclude-cidrs": "fd00::/8", "egress-xds/family": "ipv4"})),
            ("names fd00::/8, of a family that is not captured",),
        ),
        (Shape("", pod(annotations={"egress-xds/sidecar-memory": "1Gi"})), ("more than its limit of 500Mi",)),
        (
            Shape(
                "", pod(annotations={"egress-xds/sidecar-memory-limit": "64Mi", "egress-xds/sidecar-memory": "32Mi"})
            ),
            ("no Envoy starts with 64Mi",),
        ),
        (Shape("", pod(annotations=TRUSTING), around=around(None)), ("trusted-ca of the pod is true", "no policy")),
        (
            Shape("", pod(annotations=TRUSTING), around=around(replace(CORPORATE, trusted_ca=COMPANY * 2000))),
            ("larger than 96 KiB",),
        ),
        (
            Shape(
                "",
                pod(
                    "volumes: [{name: mine, emptyDir: {}}]",
                    annotations=TRUSTING,
                    container="volumeMounts: [{name: mine, mountPath: /etc/egress-xds/trust}]",
                ),
                around=around(replace(CORPORATE, trusted_ca=COMPANY)),
            ),
            ("mounts mine at /etc/egress-xds/trust",),
        ),
    ],
    ids=[
        "the application is the sidecar's user by what the pod says",
        "the application is the sidecar's user",
        "an init container is the sidecar's user",
        "the application is the sidecar's user beside a mesh",
        "a container is called as one of ours",
        "a sidecar of its own making",
        "a container that is called as one of a mesh is the sidecar's user",
        "the application mounts the sidecar's token",
        "the application mounts the admin interface",
        "an init container mounts the bootstrap",
        "the application mounts what is trusted where nothing is",
        "the application could write what is trusted",
        "a volume is called as one of ours",
        "the application has the port that captures",
        "the application has the port of probes",
        "the application has the explicit port",
        "the pod asks for capture beside a mesh",
        "the namespace asks for capture beside a mesh",
        "the policy has no port for a pod beside a mesh",
        "no policy has a port",
        "the policy that would have a port can't be used",
        "nobody gave a policy to make variables of",
        "variables can't say a login",
        "variables can't deny",
        "the sidecar would be a user that the mesh does not see",
        "native sidecars where there are none",
        "names are captured and nobody answers",
        "a network of the other family",
        "more memory than the limit",
        "too little memory for an Envoy",
        "the authority of no policy",
        "an authority too large for a variable",
        "the place of the authority is taken",
    ],
)
def test_the_pod_is_refused_with_the_reason_and_what_to_do(shape: Shape, words: tuple[str, ...]) -> None:
    with pytest.raises(InjectionError) as refusal:
        shape.inject()

    (problem,) = refusal.value.problems
    assert [word for word in words if word not in problem] == []


@pytest.mark.parametrize(
    "path",
    ["/etc/egress-xds/trust/", "//etc/egress-xds/./trust", "/etc/egress-xds", "/etc", "/etc/egress-xds/trust/more"],
    ids=["a slash more", "not as short as it could be", "the parent", "its parent", "below"],
)
def test_the_place_of_the_authority_is_taken_however_it_is_written(path: str) -> None:
    taken = pod("volumes: [{name: mine, emptyDir: {}}]", annotations=TRUSTING)
    taken["spec"]["containers"][0]["volumeMounts"] = [{"name": "mine", "mountPath": path}]

    with pytest.raises(InjectionError, match=r"mounts mine at .* mount it elsewhere"):
        inject(taken, around(replace(CORPORATE, trusted_ca=COMPANY)), SIDECAR)


def test_a_pod_is_not_made_of_a_sidecar_alone() -> None:
    alone = pod("volumes: [{name: egress-identity, emptyDir: {}}]\ninitContainers: [{name: egress-capture}]")
    alone["spec"]["containers"][0]["name"] = "egress-envoy"

    with pytest.raises(InjectionError, match="no container but those"):
        inject(alone, around(), SIDECAR)


def test_all_problems_are_told_at_once() -> None:
    wrong = pod(annotations={"egress-xds/native-sidecar": "true", "egress-xds/dns": "true", **TRUSTING})

    with pytest.raises(InjectionError) as refusal:
        inject(wrong, around(replace(CORPORATE, trusted_ca=COMPANY * 2000)), WITHOUT_NATIVE)

    assert len(refusal.value.problems) == 3


@pytest.mark.parametrize("mode", [Mode.EXPLICIT, Mode.ENV], ids=lambda mode: mode.value)
def test_a_pod_that_was_injected_for_one_mode_does_not_become_another(mode: Mode) -> None:
    captured = json.loads(json.dumps(Shape("", pod()).inject().pod))
    captured["metadata"]["annotations"]["egress-xds/mode"] = mode.value

    with pytest.raises(InjectionError, match="made for the mode transparent already"):
        inject(captured, around(EXPLICIT), SIDECAR)


def test_a_mesh_that_comes_to_a_captured_pod_later_is_found() -> None:
    captured = json.loads(json.dumps(Shape("", pod()).inject().pod))
    captured["spec"]["containers"].append({"name": "istio-proxy", "image": "i:1"})

    with pytest.raises(InjectionError, match="Istio's sidecar captures the pod"):
        inject(captured, around(), SIDECAR)


def test_a_container_that_came_later_as_the_sidecars_user_is_found() -> None:
    captured = json.loads(json.dumps(Shape("", pod(annotations={"egress-xds/run-as-user": "4711"})).inject().pod))
    captured["spec"]["containers"].append({"name": "late", "image": "l:1", "securityContext": {"runAsUser": 4711}})

    with pytest.raises(InjectionError, match="the container late runs as user 4711"):
        inject(captured, around(), SIDECAR)


def test_a_dns_that_the_pod_does_not_want_is_not_captured() -> None:
    plain = Shape("", pod(), around=around(WITH_NAMES)).inject().pod
    without = Shape("", pod(annotations={"egress-xds/dns": "false"}), around=around(WITH_NAMES)).inject().pod

    assert "--dns" in json.dumps(plain)
    assert "--dns" not in json.dumps(without)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"containers": [{"name": "a"}], "volumes": [{"name": "v"}] * 2}, "2 volumes of the pod are called 'v'"),
        ({"initContainers": [{"name": "a"}], "containers": [{"name": "a"}]}, "2 containers of the pod are called 'a'"),
        ({"containers": [{"name": f"c{number}"} for number in range(201)]}, "has 201 containers, but at most 200"),
        (
            {"containers": [{"name": "a"}], "volumes": [{"name": f"v{number}"} for number in range(1001)]},
            "has 1,001 volumes, but at most 1,000",
        ),
        (
            {"containers": [{"name": name, "env": [{"name": "V"}] * 2501} for name in "ab"]},
            "has 5,002 variables, but at most 5,000",
        ),
    ],
    ids=["a volume twice", "a container twice", "too many containers", "too many volumes", "too many variables"],
)
def test_a_pod_that_would_cost_others_their_turn_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(InjectionError, match=words):
        inject({"metadata": {"name": "p"}, "spec": spec}, around(), SIDECAR)


@pytest.mark.parametrize(
    "broken",
    [
        {"metadata": [], "spec": {}},
        {"metadata": {"annotations": {"egress-xds/inject": False}}, "spec": {}},
        {"spec": {"containers": "app"}},
        {"spec": {"containers": [{"image": "nameless"}]}},
        {"spec": {"containers": [{"name": "a", "env": {"A": "b"}}]}},
        {"spec": {"containers": [{"name": "a"}], "securityContext": 7}},
    ],
    ids=["metadata", "an annotation that is no text", "containers", "a container", "variables", "a context"],
)
def test_what_no_api_server_has_seen_may_be_broken_and_is_named(broken: dict[str, Any]) -> None:
    with pytest.raises(InjectionError, match="of the pod"):
        inject(broken, around(EXPLICIT), SIDECAR)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": ""}, "image of the sidecar"),
        ({"envoy_image": "two words"}, "envoy_image of the sidecar"),
        ({"server": "nowhere"}, "HOST:PORT"),
        ({"server_ca": "text"}, "no certificate in PEM"),
        ({"server_ca": "-----BEGIN CERTIFICATE----- -----BEGIN PRIVATE KEY-----"}, "holds a private key"),
        ({"server_ca": "-----BEGIN CERTIFICATE-----" + "A" * 70_000}, "larger than 64 KiB"),
        ({"uid": 0}, "as user 0"),
        ({"families": ()}, "no address family"),
        ({"cpu": "3"}, "more than its limit of 2"),
        ({"cpu": "much"}, "requests.cpu"),
        ({"memory_limit": "64Mi", "memory": "8Mi"}, "80Mi"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_settings_that_can_not_be_injected_are_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        replace(SIDECAR, **change)


def test_the_name_of_the_server_is_its_host_unless_it_is_said() -> None:
    assert SIDECAR.name_of_server == "egress-xds.egress-system.svc"
    assert replace(SIDECAR, server_name="other").name_of_server == "other"
    assert isinstance(SIDECAR, SidecarSettings)
    assert "BEGIN" not in repr(SIDECAR)
