"""
What can't stand beside our parts in a pod: namesakes, users, ports, mounts.

Nothing here changes a pod. Invariant: no container but ours has a volume of ours, save what it is to trust, or is
declared to run as the sidecar's user; what it is called makes no difference.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from xds.injection import meshes, names
from xds.injection.annotations import INJECT, RUN_AS_USER
from xds.injection.pod import name_of, ports_of, read_objects, user_of
from xds.names import DNS_PORT, OUTBOUND_PORT
from xds.policy.model import Mode, Policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.injection.plan import Plan, Surroundings
    from xds.injection.pod import Object, PodView


def find_clashes(pod: PodView, plan: Plan, around: Surroundings) -> Iterable[str]:
    """Yield what is wrong with a pod from which our parts were taken out."""
    yield from _find_namesakes(pod)
    yield from _find_mounts(pod, plan)
    if plan.mode is not Mode.ENV:
        yield from _find_equal_users(pod, plan.uid)
        yield from _find_taken_ports(pod, plan, around)
    if plan.trusted_ca is not None:
        yield from _find_taken_paths(pod)


def _find_namesakes(pod: PodView) -> Iterable[str]:
    for container in pod.every_container:
        name = name_of(container)
        if name in names.CONTAINERS:
            instead = f', or opt out by the annotation {INJECT}: "false"' if name == names.ENVOY else ""
            yield f"a container of the pod is called {name}, as one of the sidecar's is; rename it{instead}"
    for volume in pod.volumes:
        if name_of(volume) in names.VOLUMES:
            yield f"a volume of the pod is called {name_of(volume)}, as one of the sidecar's is; rename it"


def _find_mounts(pod: PodView, plan: Plan) -> Iterable[str]:
    """Refuse the sidecar's token, its bootstrap and its admin interface to all others."""
    for container in pod.every_container:
        for mount in read_objects(container, "volumeMounts"):
            if name_of(mount) in names.VOLUMES and not _is_trust(mount, plan):
                yield (
                    f"the container {name_of(container)} mounts {name_of(mount)}, a volume of the sidecar's; remove "
                    "the mount"
                )


def _is_trust(mount: Object, plan: Plan) -> bool:
    """Whether that is the mount which every container gets."""
    is_ours = name_of(mount) == names.TRUST_VOLUME and plan.trusted_ca is not None
    return is_ours and mount.get("readOnly") is True and _path_of(mount) == names.TRUST_DIRECTORY


def _find_equal_users(pod: PodView, uid: int) -> Iterable[str]:
    for container in pod.every_container:
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
    for container in pod.every_container:
        if name_of(container) not in meshes.CONTAINERS:
            for port in sorted(ours.intersection(ports_of(container))):
                yield f"the container {name_of(container)} has port {port}, where the sidecar listens; choose another"


def _find_taken_paths(pod: PodView) -> Iterable[str]:
    for container in pod.every_container:
        if name_of(container) not in meshes.CONTAINERS:
            for mount in read_objects(container, "volumeMounts"):
                if name_of(mount) != names.TRUST_VOLUME and _overlap(_path_of(mount), names.TRUST_DIRECTORY):
                    yield (
                        f"the container {name_of(container)} mounts {name_of(mount)} at {_path_of(mount)}, but the "
                        f"company's authority goes to {names.TRUST_DIRECTORY}; mount it elsewhere"
                    )


def _path_of(mount: Object) -> str:
    path = str(mount.get("mountPath", ""))
    return posixpath.normpath(f"/{path.lstrip('/')}")


def _overlap(one: str, other: str) -> bool:
    """Whether one directory is the other, or is in it: what is mounted there may leave no room to mount in."""
    return posixpath.commonpath((one, other)) in {one, other}
