"""
`inject`: a pod and what is around it → the pod with its sidecar, its capture and its variables.

What is there already is completed, not repeated, so that another webhook may add a container in between. Nothing here
has an effect: it may be called for a dry run. Invariants: `inject` of what `inject` returned returns the same; and
whether a pod has a sidecar is told by its containers and volumes, never by an annotation, which anybody may write.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from xds.errors import InjectionError
from xds.injection import meshes, names
from xds.injection.annotations import INJECTED, MODE, RUN_AS_USER, SERVER_CA, is_opted_out, read_wishes
from xds.injection.plan import UNKNOWN, Surroundings, Unknown, make_plan
from xds.injection.pod import PodView, name_of, ports_of, read_object, read_objects, user_of, view_pod
from xds.injection.sidecar import build_containers, build_init_containers, build_volumes
from xds.injection.variables import add_proxies, add_trust, warn_of_proxies
from xds.names import DNS_PORT, OUTBOUND_PORT
from xds.policy.model import Mode, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xds.injection.plan import Plan
    from xds.injection.pod import Object
    from xds.injection.settings import SidecarSettings
    from xds.injection.variables import Told

__all__ = ["UNKNOWN", "Injection", "Surroundings", "Unknown", "inject"]

_MIRROR = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What became of a pod: `mode` None and a `reason` if it was left alone, as it was."""

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
    if reason := _reason_to_leave(view):
        return Injection(pod=pod, mode=None, reason=reason)
    wishes = read_wishes(view.annotations, around.namespace_annotations)
    mesh = meshes.find_mesh(view, around.namespace_labels, around.namespace_annotations)
    plan = make_plan(view, wishes, mesh, around, sidecar)
    is_there = _has_our_parts(view, plan.mode)
    if problems := list(_find_clashes(view, plan, around, is_there=is_there)):
        raise InjectionError(problems)
    return _carry_out(pod, view, plan, sidecar, is_there=is_there)


def _reason_to_leave(pod: PodView) -> str:
    """Return why a pod gets nothing; empty if it gets something."""
    if is_opted_out(pod.annotations):
        return "it opted out"
    if _MIRROR in pod.annotations:
        return "it stands for a static pod, which the kubelet runs from a file of its node"
    if read_object(pod.spec, "os").get("name") == "windows" or _asks_for_windows(pod):
        return "it runs on Windows, where there is no capture and no Envoy"
    if pod.spec.get("hostNetwork") is True:
        return "it uses the network of its node (hostNetwork), whose connections are not the pod's own"
    if pod.find(names.ENVOY) is not None and not pod.has_volume(names.IDENTITY_VOLUME):
        return f"it has a sidecar of its own making (the container {names.ENVOY})"
    return ""


def _asks_for_windows(pod: PodView) -> bool:
    return read_object(pod.spec, "nodeSelector").get("kubernetes.io/os") == "windows"


def _has_sidecar(pod: PodView) -> bool:
    """Whether the pod was injected before. A mere annotation is no sign of it."""
    return pod.find(names.ENVOY) is not None and pod.has_volume(names.IDENTITY_VOLUME)


def _has_trust(pod: PodView) -> bool:
    return pod.find(names.TRUST) is not None and pod.has_volume(names.TRUST_VOLUME)


def _has_our_parts(pod: PodView, mode: Mode) -> bool:
    """Whether there is nothing to add but variables. Without a sidecar there is no part that may not be repeated."""
    return _has_sidecar(pod) or (mode is Mode.ENV and pod.annotations.get(MODE) == mode.value and _has_trust(pod))


def _find_clashes(pod: PodView, plan: Plan, around: Surroundings, *, is_there: bool) -> Iterable[str]:
    """Find what can't stand beside our parts."""
    if is_there:
        yield from _find_contradictions(pod, plan)
    else:
        yield from _find_namesakes(pod)
    if plan.mode is not Mode.ENV:
        yield from _find_equal_users(pod, _uid_of(pod, plan))
        yield from _find_taken_ports(pod, plan, around)
    if plan.trusted_ca is not None:
        yield from _find_taken_paths(pod)


def _find_contradictions(pod: PodView, plan: Plan) -> Iterable[str]:
    """Refuse another mode than the pod was injected for: what captures it would have to be taken out."""
    is_captured = pod.find(names.CAPTURE) is not None
    was = Mode.TRANSPARENT if is_captured else Mode.EXPLICIT if _has_sidecar(pod) else Mode.ENV
    if was is not plan.mode:
        yield (
            f"the pod was made for the mode {was.value} already, and is to have {plan.mode.value} now; say so in the "
            f"annotation {MODE}, of the pod before it was injected"
        )


def _find_namesakes(pod: PodView) -> Iterable[str]:
    for container in pod.every_container:
        if name_of(container) in names.CONTAINERS:
            yield f"a container of the pod is called {name_of(container)}, as one of the sidecar's is; rename it"
    for volume in pod.volumes:
        if name_of(volume) in names.VOLUMES:
            yield f"a volume of the pod is called {name_of(volume)}, as one of the sidecar's is; rename it"


def _find_equal_users(pod: PodView, uid: int) -> Iterable[str]:
    for container in _others(pod):
        if user_of(container, pod.spec) == uid:
            yield (
                f"the container {name_of(container)} runs as user {uid}, as the sidecar does: its connections would go "
                f"past the policy; let it run as another, or the sidecar, by the annotation {RUN_AS_USER}"
            )


def _find_taken_ports(pod: PodView, plan: Plan, around: Surroundings) -> Iterable[str]:
    ours = {OUTBOUND_PORT, DNS_PORT} if plan.mode is Mode.TRANSPARENT else set()
    if isinstance(around.policy, Policy) and around.policy.explicit_port is not None:
        ours.add(around.policy.explicit_port)
    if plan.mesh is None:
        ours.add(names.PROBE_PORT)
    for container in _others(pod):
        if name_of(container) not in meshes.CONTAINERS:
            for port in sorted(ours.intersection(ports_of(container))):
                yield f"the container {name_of(container)} has port {port}, where the sidecar listens; choose another"


def _find_taken_paths(pod: PodView) -> Iterable[str]:
    for container in _applications(pod):
        for mount in read_objects(container, "volumeMounts"):
            if mount.get("mountPath") == names.TRUST_DIRECTORY and name_of(mount) != names.TRUST_VOLUME:
                yield (
                    f"the container {name_of(container)} mounts {name_of(mount)} at {names.TRUST_DIRECTORY}, where the "
                    "company's authority goes; mount it elsewhere"
                )


def _uid_of(pod: PodView, plan: Plan) -> int:
    """Return the sidecar's user: the one that it has, if it is there."""
    envoy = pod.find(names.ENVOY)
    there = None if envoy is None else user_of(envoy, pod.spec)
    return plan.uid if there is None else there


def _others(pod: PodView) -> Iterable[Object]:
    return (container for container in pod.every_container if name_of(container) not in names.CONTAINERS)


def _applications(pod: PodView) -> Iterable[Object]:
    return (container for container in _others(pod) if name_of(container) not in meshes.CONTAINERS)


def _carry_out(pod: Object, view: PodView, plan: Plan, sidecar: SidecarSettings, *, is_there: bool) -> Injection:
    has_trust = _has_trust(view) if is_there else plan.trusted_ca is not None
    init, init_warnings = _tell(view.init_containers, plan, has_trust=has_trust, is_init=True)
    containers, warnings = _tell(view.containers, plan, has_trust=has_trust, is_init=False)
    volumes = list(view.volumes)
    if not is_there:
        first, last = build_init_containers(plan, sidecar)
        init = [*first, *init, *last]
        containers = [*build_containers(plan, sidecar), *containers]
        volumes += build_volumes(plan, sidecar)
    ours = {**_list("initContainers", init), "containers": containers, **_list("volumes", volumes)}
    spec = {**{key: value for key, value in view.spec.items() if key not in ours}, **ours}
    metadata = {**view.metadata, "annotations": _annotate(view, plan, sidecar)}
    return Injection(
        pod={**pod, "metadata": metadata, "spec": spec},
        mode=plan.mode,
        warnings=(*plan.warnings, *init_warnings, *warnings),
    )


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
        is_ours = name_of(container) in names.CONTAINERS or name_of(container) in meshes.CONTAINERS
        changed = container
        for change in () if is_ours else _changes(plan, has_trust=has_trust, is_init=is_init):
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
