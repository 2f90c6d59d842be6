"""
`inject`: a pod and what is around it → the pod with its sidecar, its capture and its variables.

What is called as ours is taken out and made anew, so that another webhook may change the pod in between, and so that a
name alone is no way past the policy. What the API server filled in for ours goes with it; it does so again once it has
applied the patch. Nothing here has an effect: it may be called for a dry run. Invariants: `inject` of what `inject`
returned returns the same; an injected pod has our parts as they are made here, before those of the application.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from xds.errors import InjectionError
from xds.injection import meshes, names
from xds.injection.annotations import INJECT, INJECTED, MODE, SERVER_CA, is_opted_out, read_wishes
from xds.injection.clashes import find_clashes
from xds.injection.plan import UNKNOWN, Surroundings, Unknown, make_plan
from xds.injection.pod import PodView, name_of, read_object, view_pod
from xds.injection.sidecar import build_containers, build_init_containers, build_volumes
from xds.injection.variables import add_proxies, add_trust, warn_of_proxies
from xds.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xds.injection.plan import Plan
    from xds.injection.pod import Object
    from xds.injection.settings import SidecarSettings
    from xds.injection.variables import Told

__all__ = ["OPTED_OUT", "UNKNOWN", "Injection", "Surroundings", "Unknown", "inject"]

OPTED_OUT = "it opted out"
"""The reason why a pod is left alone that asked for it."""
OPT_OUT = (INJECT, "false")
"""The label of pods that the webhook is never asked about."""

_MIRROR = "kubernetes.io/config.mirror"
_LISTS = frozenset({"initContainers", "containers", "volumes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What became of a pod: `mode` None and a `reason` if it was left alone."""

    pod: Object
    mode: Mode | None
    reason: str = ""
    warnings: tuple[str, ...] = ()


def inject(pod: Object, around: Surroundings, sidecar: SidecarSettings) -> Injection:
    """
    Return `pod` with what delivers its policy. `pod` itself is not changed.

    Raises InjectionError, with all problems, if the pod asks for what it can't get; it must then not be let through.
    """
    view = view_pod(pod)
    if reason := _reason_to_leave(view, may_opt_out="inject" not in sidecar.forbidden):
        return Injection(pod=_without_mark(pod, view), mode=None, reason=reason)
    if OPT_OUT in view.labels.items() and "inject" in sidecar.forbidden:
        raise InjectionError([f'the label {INJECT}: "false" of the pod is forbidden here; remove it'])
    others = _take_ours_out(view) if _has_our_parts(view) else view
    wishes = read_wishes(view.annotations, around.namespace_annotations, sidecar.forbidden)
    mesh = meshes.find_mesh(others, around.namespace_labels, around.namespace_annotations)
    plan = make_plan(others, wishes, mesh, around, sidecar)
    if problems := [*_find_contradictions(view, others, plan), *find_clashes(others, plan, around)]:
        raise InjectionError(problems)
    return _carry_out(pod, view, others, plan, sidecar)


def _reason_to_leave(pod: PodView, *, may_opt_out: bool) -> str:
    """Return why a pod gets nothing; empty if it gets something."""
    if may_opt_out and (is_opted_out(pod.annotations) or OPT_OUT in pod.labels.items()):
        return OPTED_OUT
    if _MIRROR in pod.annotations:
        return "it stands for a static pod, which the kubelet runs from a file of its node"
    if read_object(pod.spec, "os").get("name") == "windows" or _asks_for_windows(pod):
        return "it runs on Windows, where there is no capture and no Envoy"
    if pod.spec.get("hostNetwork") is True:
        return "it uses the network of its node (hostNetwork), whose connections are not the pod's own"
    return ""


def _asks_for_windows(pod: PodView) -> bool:
    return read_object(pod.spec, "nodeSelector").get("kubernetes.io/os") == "windows"


def _without_mark(pod: Object, view: PodView) -> Object:
    """Return a pod that is left alone: status must not wait for a sidecar that it says to have and has not."""
    if INJECTED not in view.annotations or _MIRROR in view.annotations or view.find(names.ENVOY) is not None:
        return pod
    annotations = {key: value for key, value in view.annotations.items() if key != INJECTED}
    return {**pod, "metadata": {**view.metadata, "annotations": annotations}}


def _has_sidecar(pod: PodView) -> bool:
    """Whether the pod looks as if it was injected before. A mere annotation is no sign of it."""
    return pod.find(names.ENVOY) is not None and pod.has_volume(names.IDENTITY_VOLUME)


def _has_our_parts(pod: PodView) -> bool:
    """Whether what has our names is taken for ours, to be made anew; else the pod is refused for it."""
    has_trust = pod.find(names.TRUST) is not None and pod.has_volume(names.TRUST_VOLUME)
    return _has_sidecar(pod) or (pod.annotations.get(MODE) == Mode.ENV.value and has_trust)


def _take_ours_out(pod: PodView) -> PodView:
    """Return the pod without whatever has our names, whoever wrote it: what is ours is made anew."""
    return replace(
        pod,
        init_containers=tuple(item for item in pod.init_containers if name_of(item) not in names.CONTAINERS),
        containers=tuple(item for item in pod.containers if name_of(item) not in names.CONTAINERS),
        volumes=tuple(item for item in pod.volumes if name_of(item) not in names.VOLUMES),
    )


def _find_contradictions(pod: PodView, others: PodView, plan: Plan) -> Iterable[str]:
    """Refuse another mode than the pod was injected for, and a pod that is nothing but a sidecar."""
    if others is pod:
        return
    is_captured = pod.find(names.CAPTURE) is not None
    was = Mode.TRANSPARENT if is_captured else Mode.EXPLICIT if _has_sidecar(pod) else Mode.ENV
    if was is not plan.mode:
        yield (
            f"the pod was made for the mode {was.value} already, and is to have {plan.mode.value} now; say so in the "
            f"annotation {MODE}, of the pod before it was injected"
        )
    if not others.containers:
        yield "the pod has no container but those that are called as the sidecar's; give it one of its own"


def _carry_out(pod: Object, view: PodView, others: PodView, plan: Plan, sidecar: SidecarSettings) -> Injection:
    has_trust = plan.trusted_ca is not None
    init, init_warnings = _tell(others.init_containers, plan, has_trust=has_trust, is_init=True)
    containers, warnings = _tell(others.containers, plan, has_trust=has_trust, is_init=False)
    first, last = build_init_containers(plan, sidecar)
    ours = {
        **_list("initContainers", [*_put_first(first, init, view.init_containers), *last]),
        "containers": _put_first(build_containers(plan, sidecar), containers, view.containers),
        **_list("volumes", [*others.volumes, *build_volumes(plan, sidecar)]),
    }
    spec = {**{key: value for key, value in view.spec.items() if key not in _LISTS}, **ours}
    metadata = {**view.metadata, "annotations": _annotate(view, plan, sidecar)}
    return Injection(
        pod={**pod, "metadata": metadata, "spec": spec},
        mode=plan.mode,
        warnings=(*plan.warnings, *init_warnings, *warnings),
    )


def _put_first(ours: list[Object], others: list[Object], found: tuple[Object, ...]) -> list[Object]:
    """Return ours before the others, but behind those of a mesh that were before ours when the pod was `found`."""
    order = [name_of(item) for item in found]
    place = next((index for index, name in enumerate(order) if name in names.CONTAINERS), 0)
    ahead = {name for name in order[:place] if name in meshes.CONTAINERS}
    before = [item for item in others if name_of(item) in ahead]
    return [*before, *ours, *(item for item in others if name_of(item) not in ahead)]


def _list(key: str, items: list[Object]) -> dict[str, list[Object]]:
    return {key: items} if items else {}


def _annotate(pod: PodView, plan: Plan, sidecar: SidecarSettings) -> dict[str, str]:
    annotations = {key: value for key, value in pod.annotations.items() if key not in {INJECTED, SERVER_CA}}
    annotations[MODE] = plan.mode.value
    if plan.mode is not Mode.ENV:
        annotations |= {INJECTED: "true", SERVER_CA: sidecar.server_ca}
    return annotations


def _tell(
    containers: Iterable[Object], plan: Plan, *, has_trust: bool, is_init: bool
) -> tuple[list[Object], list[str]]:
    """Return the containers with the variables that each needs, and what there is to say of it."""
    told: list[Object] = []
    warnings: list[str] = []
    for container in containers:
        changed = container
        for change in (
            () if name_of(container) in meshes.CONTAINERS else _changes(plan, has_trust=has_trust, is_init=is_init)
        ):
            outcome = change(changed)
            changed = outcome.container
            warnings += outcome.warnings
        told.append(changed)
    return told, warnings


def _changes(plan: Plan, *, has_trust: bool, is_init: bool) -> Iterable[Callable[[Object], Told]]:
    if has_trust:
        yield add_trust
    if plan.variables is None:
        yield warn_of_proxies
    elif plan.mode is Mode.ENV or plan.is_native or not is_init:
        # Without a native sidecar, nothing listens for init containers yet.
        yield partial(add_proxies, variables=plan.variables)
