"""
A pod as the API server or a manifest has it, looked at: containers, their users, variables and volumes.

What is read is as far as injection needs it; what else there is stays as it is. Nothing here changes a pod. Invariant:
a part of the wrong type is an InjectionError that names it, for a manifest need not have been seen by an API server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.errors import InjectionError, quote_value

if TYPE_CHECKING:
    from collections.abc import Iterable

Object = Mapping[str, object]
"""A JSON object."""

_INIT, _REGULAR = "initContainers", "containers"

MAX_CONTAINERS = 200
MAX_VOLUMES = 1_000
MAX_VARIABLES = 5_000
"""Of all containers together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """What injection looks at. `metadata` and `spec` are the pod's own."""

    metadata: Object
    spec: Object
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    init_containers: tuple[Object, ...]
    containers: tuple[Object, ...]
    volumes: tuple[Object, ...]

    @property
    def every_container(self) -> tuple[Object, ...]:
        """Those of init first."""
        return self.init_containers + self.containers

    def find(self, name: str) -> Object | None:
        """Return the container of this name, of init or not."""
        return next((item for item in self.every_container if item.get("name") == name), None)

    def has_volume(self, name: str) -> bool:
        """Whether there is a volume of this name."""
        return any(item.get("name") == name for item in self.volumes)


def view_pod(pod: Object) -> PodView:
    """Look at `pod`. Raises InjectionError where it is no pod, or a larger one than anybody needs."""
    metadata, spec = read_object(pod, "metadata"), read_object(pod, "spec")
    view = PodView(
        metadata=metadata,
        spec=spec,
        annotations=_texts(metadata, "annotations"),
        labels=_texts(metadata, "labels"),
        init_containers=_named(spec, _INIT),
        containers=_named(spec, _REGULAR),
        volumes=_named(spec, "volumes"),
    )
    if problems := list(_find_excess(view)) or list(_find_repeated(view)):
        raise InjectionError(problems)
    return view


def read_object(holder: Object, key: str) -> Object:
    """Return the object at `key`, empty if there is none. Raises InjectionError."""
    value = holder.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InjectionError([f"{key} of the pod is no object; write a pod that the API server accepts"])
    return value


def read_objects(holder: Object, key: str) -> tuple[Object, ...]:
    """Return the objects at `key`, none if there are none. Raises InjectionError."""
    value = holder.get(key)
    if value is None:
        return ()
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(item, Mapping) for item in value)
    ):
        raise InjectionError([f"{key} of the pod is no list of objects; write a pod that the API server accepts"])
    return tuple(value)


def name_of(item: Object) -> str:
    """Return the name of a container, a volume or a variable."""
    return str(item.get("name", ""))


def user_of(container: Object, spec: Object) -> int | None:
    """Return the user that a container runs as by its own security context, else by the pod's; None: its image's."""
    for holder in (container, spec):
        uid = read_object(holder, "securityContext").get("runAsUser")
        if isinstance(uid, int) and not isinstance(uid, bool):
            return uid
    return None


def is_native_sidecar(container: Object) -> bool:
    """Whether an init container stays beside the application (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def ports_of(container: Object) -> tuple[int, ...]:
    """Return the ports that a container says it listens on."""
    numbers = (port.get("containerPort") for port in read_objects(container, "ports"))
    return tuple(number for number in numbers if isinstance(number, int))


def _named(spec: Object, key: str) -> tuple[Object, ...]:
    items = read_objects(spec, key)
    if not all(isinstance(item.get("name"), str) for item in items):
        raise InjectionError([f"{key} of the pod has an entry without a name; write a pod that the API server accepts"])
    return items


def _find_excess(pod: PodView) -> Iterable[str]:
    variables = sum(len(read_objects(container, "env")) for container in pod.every_container)
    for what, number, most in (
        ("containers", len(pod.every_container), MAX_CONTAINERS),
        ("volumes", len(pod.volumes), MAX_VOLUMES),
        ("variables", variables, MAX_VARIABLES),
    ):
        if number > most:
            yield f"the pod has {number:,} {what}, but at most {most:,} are looked through; make several pods of it"


def _find_repeated(pod: PodView) -> Iterable[str]:
    """Find names that no API server takes twice; a variable may be there twice, and the last is in force."""
    for what, items in (("containers", pod.every_container), ("volumes", pod.volumes)):
        for name, number in Counter(map(name_of, items)).items():
            if number > 1:
                yield f"{number} {what} of the pod are called {quote_value(name)}; rename all but one"


def _texts(metadata: Object, key: str) -> Mapping[str, str]:
    texts: dict[str, str] = {}
    for name, value in read_object(metadata, key).items():
        if not isinstance(value, str):
            raise InjectionError(
                [f'{key} of the pod: {quote_value(name)} is no text; quote it: "{str(value).lower()}"']
            )
        texts[name] = value
    return texts
