"""
What an API server checks of a pod beyond its schema, and what the kubelet refuses later.

Written from Kubernetes' `pkg/apis/core/validation` (1.36), as far as injection can break a rule of it; the levels are
those of the Pod Security Standards. Every rule returns sentences; none for a pod that is fine.
"""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]  # it publishes no types

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEYED = re.compile(r"metadata\.(annotations|labels)\['[A-Za-z0-9._/-]+'\]")
_ENV_FIELDS = {"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"}
_ENV_FIELDS |= {"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
_FILE_FIELDS = {"metadata.name", "metadata.namespace", "metadata.uid", "metadata.annotations", "metadata.labels"}
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS = {"httpGet", "tcpSocket", "exec", "grpc"}
_QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MAX_ANNOTATIONS = 256 * 1024
_UNITS = {"m": Decimal("0.001"), "k": Decimal(1000), "M": Decimal(10**6), "G": Decimal(10**9)}
_UNITS |= {"Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "": Decimal(1)}


def check_schema(pod: Json) -> None:
    """Raise kubernetes_validate.ValidationError unless `pod` has the fields, and only those, that a pod has."""
    kubernetes_validate.validate(pod, "1.36", strict=True)


def find_violations(pod: Json) -> list[str]:
    """Return every rule beyond the schema that `pod` breaks."""
    spec = pod["spec"]
    volumes = [volume["name"] for volume in spec.get("volumes") or ()]
    found = [*_names("container", [item["name"] for item in every_container(pod)]), *_names("volume", volumes)]
    found += _metadata(pod)
    if not spec.get("containers"):
        found.append("a pod has one container at least")
    for volume in spec.get("volumes") or ():
        found += _volume(volume)
    for container in every_container(pod):
        where = f"container {container['name']}: "
        found += [where + problem for problem in _container(container, set(volumes), spec)]
    for container in spec.get("initContainers") or ():
        found += _init_container(container)
    if any("restartPolicy" in container for container in spec["containers"]):
        found.append("an ordinary container has a restartPolicy")
    return found


def every_container(pod: Json) -> list[Json]:
    """Return the containers of init, and the others."""
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


def _metadata(pod: Json) -> Iterator[str]:
    annotations = pod["metadata"].get("annotations") or {}
    for key, value in annotations.items():
        if not _QUALIFIED.fullmatch(key) or not isinstance(value, str):
            yield f"annotation {key} is not valid"
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > _MAX_ANNOTATIONS:
        yield "annotations are too large"


def _names(what: str, names: list[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what} {name} is there {count} times"
        if not _LABEL.fullmatch(name):
            yield f"{what} {name} is no DNS label"


def _volume(volume: Json) -> Iterator[str]:
    if len(volume) != 2:
        yield f"volume {volume['name']} has not exactly one source"
    paths = []
    for source in volume.get("projected", {}).get("sources", ()):
        token = source.get("serviceAccountToken")
        if token is not None:
            paths.append(token["path"])
            if not 600 <= token.get("expirationSeconds", 3600) <= 2**32:
                yield f"volume {volume['name']}: a token is for 10 minutes at least"
        for item in source.get("downwardAPI", {}).get("items", ()):
            paths.append(item["path"])
            field = item.get("fieldRef", {}).get("fieldPath")
            if field is not None and field not in _FILE_FIELDS and not _KEYED.fullmatch(field):
                yield f"volume {volume['name']}: {field} is no field for a file"
    if len(set(paths)) != len(paths) or any(path.startswith("/") or ".." in path for path in paths):
        yield f"volume {volume['name']}: paths are not unique, relative and without '..'"


def _container(container: Json, volumes: set[str], spec: Json) -> Iterator[str]:
    if not container.get("image", "").strip():
        yield "no image"
    yield from _mounts(container, volumes)
    for variable in container.get("env") or ():
        yield from _variable(variable)
    names = [port["name"] for port in container.get("ports") or () if "name" in port]
    if len(set(names)) != len(names):
        yield "names of ports are not unique"
    if not all(1 <= port["containerPort"] <= 65535 for port in container.get("ports") or ()):
        yield "a port is out of range"
    for kind in _PROBES:
        if kind in container:
            yield from _probe(kind, container[kind])
    yield from _resources(container.get("resources") or {})
    yield from _security(container, spec)


def _mounts(container: Json, volumes: set[str]) -> Iterator[str]:
    mounts = container.get("volumeMounts") or ()
    for mount in mounts:
        if mount["name"] not in volumes:
            yield f"mounts {mount['name']}, which is no volume"
        if not mount.get("mountPath") or ":" in mount["mountPath"]:
            yield f"mounts {mount['name']} nowhere"
    if len({mount["mountPath"] for mount in mounts}) != len(mounts):
        yield "two volumes are mounted at one path"


def _variable(variable: Json) -> Iterator[str]:
    name = variable["name"]
    if not name or "=" in name or not name.isprintable():
        yield f"{name!r} is no name of a variable"
    if variable.get("value") and variable.get("valueFrom"):
        yield f"{name} has a value and a source of one"
    field = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
    if field is not None and field not in _ENV_FIELDS and not _KEYED.fullmatch(field):
        yield f"{name}: {field} is no field for a variable"
    if len(f"{name}={variable.get('value', '')}".encode()) > 128 * 1024:
        yield f"{name} is longer than the kernel takes"


def _probe(kind: str, probe: Json) -> Iterator[str]:
    if len(_HANDLERS & set(probe)) != 1:
        yield f"{kind} asks in not exactly one way"
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        yield f"{kind} wants more than one success"
    if any(probe.get(key, 1) < 1 for key in ("periodSeconds", "timeoutSeconds", "failureThreshold")):
        yield f"{kind} has a number below 1"


def amount(text: str) -> Decimal:
    """Return a quantity as a number."""
    match = re.fullmatch(r"([0-9.]+)(m|k|M|G|Ki|Mi|Gi)?", str(text))
    assert match is not None, text
    return Decimal(match[1]) * _UNITS[match[2] or ""]


def _resources(resources: Json) -> Iterator[str]:
    limits = resources.get("limits") or {}
    for name, request in (resources.get("requests") or {}).items():
        if name in limits and amount(request) > amount(limits[name]):
            yield f"requests more {name} than its limit"


def _security(container: Json, spec: Json) -> Iterator[str]:
    context = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
    if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
        yield "is to be root and must not be (the kubelet starts no such container)"
    added = (context.get("capabilities") or {}).get("add") or ()
    if context.get("allowPrivilegeEscalation") is False and (context.get("privileged") or "SYS_ADMIN" in added):
        yield "may not get privileges that it has"


def _init_container(container: Json) -> Iterator[str]:
    where = f"init container {container['name']}: "
    is_sidecar = container.get("restartPolicy") == "Always"
    if "restartPolicy" in container and not is_sidecar:
        yield where + "restarts never or always"
    if not is_sidecar:
        yield from (f"{where}may not have {key}" for key in (*_PROBES, "lifecycle") if container.get(key))


def find_security_violations(pod: Json, containers: Iterable[str] | None = None) -> list[str]:
    """Return what the standard `restricted` does not allow, of the containers with these names or of all."""
    pod_context = pod["spec"].get("securityContext") or {}
    found = []
    for container in every_container(pod):
        if containers is None or container["name"] in containers:
            context = {**pod_context, **(container.get("securityContext") or {})}
            found += [f"{container['name']} {problem}" for problem in _unrestricted(context)]
    return found


def _unrestricted(context: Json) -> Iterator[str]:
    capabilities = context.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()) or set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield "has capabilities"
    if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
        yield "may get privileges"
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield "may be root"
    if (context.get("seccompProfile") or {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "has no seccomp profile"
