"""What Envoy may use, as the pod, its namespace and the installation say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.injection.pod_shapes import SIDECAR, around, container_of, pod
from xds.admission.sidecars import read_defaults
from xds.errors import InjectionError
from xds.injection.inject import inject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.unit.injection.pod_shapes import Json


def processors(annotations: dict[str, str], of_namespace: dict[str, str] | None = None) -> tuple[str, str | None]:
    """Return what is requested, and the limit."""
    named = [
        {f"egress-xds/{name}": value for name, value in found.items()} for found in (annotations, of_namespace or {})
    ]
    injected = inject(pod(annotations=named[0]), around(annotations=named[1]), SIDECAR).pod
    requests: Json = container_of(injected, "egress-envoy")["resources"]["requests"]
    return requests["cpu"], limits(injected).get("cpu")


def limits(injected: Mapping[str, object]) -> Json:
    found: Json = container_of(injected, "egress-envoy")["resources"]["limits"]
    return found


@pytest.mark.parametrize(
    ("of_pod", "of_namespace", "expected"),
    [
        ({}, {}, ("100m", "2")),
        ({"sidecar-cpu-limit": "500m"}, {}, ("100m", "500m")),
        ({"sidecar-cpu-limit": "none"}, {}, ("100m", None)),
        ({}, {"sidecar-cpu-limit": "none"}, ("100m", None)),
        ({"sidecar-cpu-limit": "1"}, {"sidecar-cpu-limit": "none"}, ("100m", "1")),
        ({"sidecar-cpu": "3"}, {}, ("3", "3")),
        ({"sidecar-cpu": "3", "sidecar-cpu-limit": "4"}, {}, ("3", "4")),
        ({"sidecar-cpu": "3", "sidecar-cpu-limit": "none"}, {}, ("3", None)),
    ],
    ids=[
        "the installation's",
        "the pod's limit",
        "no limit",
        "no limit for a namespace",
        "the pod beats its namespace",
        "who requests more gets as much",
        "more of both",
        "a request without a limit",
    ],
)
def test_the_limit_of_processor_time_is_what_the_annotation_says(
    of_pod: dict[str, str], of_namespace: dict[str, str], expected: tuple[str, str | None]
) -> None:
    assert processors(of_pod, of_namespace) == expected


def test_the_installation_may_have_no_limit_for_all() -> None:
    defaults = read_defaults((("sidecar-cpu-limit", "none"),))

    assert "cpu" not in limits(inject(pod(), around(annotations=dict(defaults)), SIDECAR).pod)


def test_a_limit_below_the_request_is_refused_with_the_remedy() -> None:
    with pytest.raises(InjectionError, match="more than its limit of 50m; raise the limit"):
        processors({"sidecar-cpu-limit": "50m"})
