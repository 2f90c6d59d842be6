"""What an installation forbids to pods: it is refused on pods, and holds on their namespaces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.injection.pod_shapes import CORPORATE, EXPLICIT, ISTIO, SIDECAR, around, container_of, pod
from xds.errors import InjectionError, SettingsError
from xds.injection.annotations import ANNOTATIONS
from xds.injection.inject import inject
from xds.policy.model import Mode

FORBIDDABLE = frozenset(annotation.name for annotation in ANNOTATIONS if not annotation.is_written)
STRICT = replace(SIDECAR, forbidden=FORBIDDABLE)
WITH_PORT = replace(CORPORATE, explicit_port=15002)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (pod(annotations={"egress-xds/inject": "false"}), "egress-xds/inject is forbidden for pods here"),
        (pod(labels={"egress-xds/inject": "false"}), "label egress-xds/inject: .false. of the pod is forbidden"),
        (pod(annotations={"egress-xds/mode": "explicit"}), "egress-xds/mode is forbidden .* not transparent"),
        (pod(annotations={"egress-xds/mode": "nonsense"}), "egress-xds/mode is forbidden .* not transparent"),
        (pod(annotations={"egress-xds/reject-udp": "none"}), "egress-xds/reject-udp is forbidden"),
        (pod(annotations={"egress-xds/exclude-ports": "443"}), "egress-xds/exclude-ports is forbidden"),
        (pod(labels={"sidecar.istio.io/inject": "true"}), "looks like one that Istio's sidecar captures"),
        (pod("initContainers: [{name: linkerd-init, image: l:1}]"), "looks like one that Linkerd captures"),
    ],
    ids=[
        "it opts out",
        "it opts out by its label",
        "it wants another mode",
        "it wants a mode that is none",
        "it lets more by",
        "it excludes a port",
        "it is made to look like one of a mesh by a label",
        "it is made to look like one of a mesh by a container",
    ],
)
def test_a_pod_that_says_what_is_forbidden_is_refused(shape: dict[str, Any], words: str) -> None:
    with pytest.raises(InjectionError, match=words):
        inject(shape, around(WITH_PORT), STRICT)


@pytest.mark.parametrize("name", sorted(FORBIDDABLE - {"mode"}))
def test_what_is_forbidden_is_so_whatever_it_says(name: str) -> None:
    with pytest.raises(InjectionError, match=f"egress-xds/{name} is forbidden for pods here; remove it"):
        inject(pod(annotations={f"egress-xds/{name}": "true"}), around(), replace(SIDECAR, forbidden=frozenset({name})))


def test_what_is_forbidden_to_pods_holds_on_their_namespace() -> None:
    said = {"egress-xds/exclude-ports": "22", "egress-xds/mode": "transparent"}

    captured = inject(pod(), around(EXPLICIT, annotations=said), STRICT)

    assert captured.mode is Mode.TRANSPARENT
    assert "--exclude-port=22" in container_of(captured.pod, "egress-capture")["args"]


@pytest.mark.parametrize("labels", [{}, ISTIO], ids=["captured", "beside a mesh of its namespace"])
def test_what_injection_writes_itself_is_not_forbidden_when_it_is_asked_again(labels: dict[str, str]) -> None:
    once = inject(pod(), around(WITH_PORT, labels), STRICT).pod

    assert inject(once, around(WITH_PORT, labels), STRICT).pod == once


def test_a_pod_that_can_not_be_captured_is_left_alone_even_where_nobody_may_opt_out() -> None:
    told = inject(pod("hostNetwork: true", annotations={"egress-xds/inject": "false"}), around(), STRICT)

    assert "hostNetwork" in told.reason


@pytest.mark.parametrize("name", ["egress-xds/mode", "injected", "unknown"])
def test_only_what_a_pod_may_say_otherwise_can_be_forbidden(name: str) -> None:
    with pytest.raises(SettingsError, match="can't be forbidden"):
        replace(SIDECAR, forbidden=frozenset({name}))
