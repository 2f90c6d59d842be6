"""Drawn pods: what is injected is valid, complete at once, and described by its patch; else the pod is refused."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.json_patch import apply_patch
from tests.support.pod_rules import find_violations
from tests.unit.injection.pod_shapes import (
    CORPORATE,
    ENV,
    EXPLICIT,
    SIDECAR,
    WITH_AUTHORITY,
    WITH_NAMES,
    WITHOUT_NATIVE,
    around,
)
from xds.errors import InjectionError
from xds.injection.inject import inject
from xds.injection.patch import render_patch
from xds.policy.model import Mode

if TYPE_CHECKING:
    from xds.injection.inject import Injection, Surroundings
    from xds.injection.settings import SidecarSettings

NAMES = ["app", "helper", "istio-proxy", "egress-envoy", "egress-capture", "migrate", "linkerd-proxy"]
VOLUMES = ["data", "egress-run", "egress-identity", "cache"]
VARIABLES = ["HTTP_PROXY", "https_proxy", "NO_PROXY", "JAVA_TOOL_OPTIONS", "SSL_CERT_FILE", "OTHER"]
VALUES = {
    "inject": ["true", "false"],
    "mode": ["transparent", "explicit", "env"],
    "exclude-ports": ["22", "22,443", ""],
    "dns": ["true", "false"],
    "trusted-ca": ["true", "false"],
    "native-sidecar": ["true", "false"],
    "run-as-user": ["1337", "1338", "2000"],
    "injected": ["true"],
    "server-ca": ["forged"],
    "sidecar-cpu": ["1", "5"],
}

contexts = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {}, optional={"runAsUser": st.sampled_from([0, 1000, 1337, 1338]), "privileged": st.booleans()}
    ),
)
variables = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(VARIABLES), "value": st.sampled_from(["", "http://p:1", "-Xmx1g"])}),
    max_size=3,
    unique_by=lambda item: item["name"],
)
containers = st.fixed_dictionaries(
    {"name": st.sampled_from(NAMES), "image": st.just("i:1")},
    optional={"env": variables, "securityContext": contexts, "ports": st.just([{"containerPort": 8080}])},
)
sidecars = st.builds(
    lambda container, restarts: {**container, **restarts},
    containers,
    st.sampled_from([{}, {"restartPolicy": "Always"}]),
)


def named(item: dict[str, Any]) -> str:
    found: str = item["name"]
    return found


specs = st.fixed_dictionaries(
    {"containers": st.lists(containers, min_size=1, max_size=3, unique_by=named)},
    optional={
        "initContainers": st.lists(sidecars, max_size=3, unique_by=named),
        "volumes": st.lists(
            st.sampled_from(VOLUMES).map(lambda name: {"name": name, "emptyDir": {}}), max_size=2, unique_by=named
        ),
        "hostNetwork": st.booleans(),
        "restartPolicy": st.sampled_from(["Always", "Never", "OnFailure"]),
        "securityContext": st.sampled_from([{}, {"runAsUser": 1337}, {"runAsNonRoot": True}, {"fsGroup": 1}]),
    },
)
asked = st.fixed_dictionaries(
    {}, optional={f"egress-xds/{name}": st.sampled_from(values) for name, values in VALUES.items()}
)
pods = st.builds(
    lambda spec, found: {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "annotations": found},
        "spec": spec,
    },
    specs,
    asked,
)
surroundings = st.builds(
    around,
    st.sampled_from([CORPORATE, EXPLICIT, ENV, WITH_AUTHORITY, WITH_NAMES, None]),
    st.sampled_from([{}, {"istio-injection": "enabled"}, {"istio.io/dataplane-mode": "ambient"}]),
)


def inject_or_refuse(pod: dict[str, Any], world: Surroundings, sidecar: SidecarSettings) -> Injection | None:
    """Return what became of a pod; None if it was refused."""
    try:
        return inject(pod, world, sidecar)
    except InjectionError:
        return None


@settings(max_examples=400)
@given(pods, surroundings, st.sampled_from([SIDECAR, WITHOUT_NATIVE]))
def test_an_injected_pod_is_valid_and_injecting_it_again_changes_nothing(
    pod: dict[str, Any], world: Surroundings, sidecar: SidecarSettings
) -> None:
    names = [item["name"] for key in ("initContainers", "containers") for item in pod["spec"].get(key) or ()]
    assume(len(set(names)) == len(names))
    handed_in = copy.deepcopy(pod)
    once = inject_or_refuse(pod, world, sidecar)
    assert pod == handed_in
    if once is None:
        return
    after = json.loads(json.dumps(once.pod))

    assert apply_patch(pod, render_patch(pod, once.pod)) == after
    assert find_violations(after) == find_violations(pod)
    if once.mode is None:
        del handed_in["metadata"]["annotations"], after["metadata"]["annotations"]
        assert after == handed_in
    else:
        assert inject(once.pod, world, sidecar).pod == once.pod
    if once.mode in {Mode.TRANSPARENT, Mode.EXPLICIT}:
        assert "egress-envoy" in {
            item["name"] for item in [*after["spec"]["initContainers"], *after["spec"]["containers"]]
        }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text("ab/~", max_size=2),
    lambda inner: (
        st.lists(inner | st.fixed_dictionaries({"name": st.sampled_from("xyz"), "v": inner}), max_size=4)
        | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.text("ab/~", max_size=2), json_values, max_size=3)


@given(objects, objects)
def test_a_patch_applied_to_what_was_before_gives_what_is_after(before: dict[str, Any], after: dict[str, Any]) -> None:
    patched = apply_patch(before, render_patch(before, after))

    assert json.dumps(patched, sort_keys=True) == json.dumps(after, sort_keys=True)
