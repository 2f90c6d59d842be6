"""
A pod's spec as a kubelet reads it: every field is understood, known to make no difference, or refused.

`read_pod` refuses what `pod_runner` can't do, so that no test passes because a field was overlooked. Pure: nothing is
started here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Object = Mapping[str, Any]

RUNTIME_CAPABILITIES = frozenset(
    {
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
        *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    }
)
"""What containerd and CRI-O leave to a container that asks for nothing."""

_FIELD_PATH = re.compile(r"metadata\.(?P<of>labels|annotations)\['(?P<key>[^']+)'\]")
_REFERENCE = re.compile(r"\$\$|\$\((?P<name>[A-Za-z_.][A-Za-z0-9_.-]*)\)")
_IRRELEVANT_TO_PODS = {
    *("schedulerName", "priority", "priorityClassName", "preemptionPolicy", "tolerations", "nodeSelector", "nodeName"),
    *("affinity", "topologySpreadConstraints", "imagePullSecrets", "enableServiceLinks", "serviceAccount"),
    # Names are in /etc/hosts here, and every container has the host's resolver.
    "dnsPolicy",
    # The token is a volume by the time that a pod is stored.
    "automountServiceAccountToken",
}
_IRRELEVANT_TO_CONTAINERS = {"imagePullPolicy", "terminationMessagePath", "terminationMessagePolicy", "ports"}


class PodSpecError(AssertionError):
    """The spec is wrong, or says something that the runner can't do."""


class _Fields:
    """The fields of one mapping, each taken once; what is left at the end is refused."""

    def __init__(self, where: str, fields: object) -> None:
        if not isinstance(fields, Mapping):
            raise PodSpecError(f"{where}: not a mapping: {fields!r}")
        self.where, self._left = where, dict(fields)

    def take(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 -- as JSON has it
        return self._left.pop(name, default)

    def end(self, irrelevant: set[str] | frozenset[str] = frozenset()) -> None:
        if unknown := [name for name in self._left if name not in irrelevant]:
            raise PodSpecError(f"{self.where}: the runner does not know {', '.join(unknown)}")


@dataclass(frozen=True)
class Security:
    """Who a container runs as, and what it may."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...]
    capabilities: frozenset[str]
    may_gain_privileges: bool
    has_read_only_root: bool
    must_not_be_root: bool


@dataclass(frozen=True)
class Probe:
    """A question of the kubelet's; one of `http`, `tcp` and `command` is set."""

    http: tuple[str, int] | None
    tcp: int | None
    command: tuple[str, ...]
    patience: float
    """Seconds until a container that does not answer has failed."""


@dataclass(frozen=True)
class Mount:
    """Where a volume is seen."""

    volume: str
    path: str
    is_read_only: bool


@dataclass(frozen=True)
class Container:
    """One container; `is_sidecar` is an init container that stays."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    environment: tuple[Object, ...]
    mounts: tuple[Mount, ...]
    security: Security
    working_directory: str
    is_sidecar: bool
    startup: Probe | None
    readiness: Probe | None
    liveness: Probe | None
    before_stop: Probe | None
    limits: Object


@dataclass(frozen=True)
class Pod:
    """A pod that can be run."""

    metadata: Object
    account: str
    init: tuple[Container, ...]
    containers: tuple[Container, ...]
    volumes: Mapping[str, tuple[Object, ...]]
    """Name → what is projected into it; nothing for an empty directory."""
    fs_group: int | None
    restart_policy: str
    grace: float
    """Seconds."""

    @property
    def name(self) -> str:
        return str(self.metadata["name"])

    @property
    def namespace(self) -> str:
        return str(self.metadata["namespace"])

    def field(self, path: str, *, address: str = "") -> str:
        """Return what a `fieldPath` of the downward API means."""
        if found := _FIELD_PATH.fullmatch(path):
            return str(self.metadata.get(found["of"], {}).get(found["key"], ""))
        values = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": str(self.metadata.get("uid", "")),
            "spec.serviceAccountName": self.account,
            "spec.nodeName": "node",
            "status.podIP": address,
            "status.podIPs": address,
        }
        if path not in values:
            raise PodSpecError(f"fieldPath {path}: the runner does not know it")
        return values[path]


def read_pod(pod: Object) -> Pod:
    """Read a pod as it is stored. Raises PodSpecError."""
    spec = _Fields(f"pod {pod['metadata']['name']}", pod["spec"])
    common = _Fields("securityContext of the pod", spec.take("securityContext", {}))
    init = tuple(_read_container(item, common, is_init=True) for item in spec.take("initContainers", ()))
    containers = tuple(_read_container(item, common, is_init=False) for item in spec.take("containers"))
    found = Pod(
        metadata=pod["metadata"],
        account=spec.take("serviceAccountName", "default"),
        init=init,
        containers=containers,
        volumes={item["name"]: _read_volume(item) for item in spec.take("volumes", ())},
        fs_group=common.take("fsGroup"),
        restart_policy=spec.take("restartPolicy", "Always"),
        grace=float(spec.take("terminationGracePeriodSeconds", 30)),
    )
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.take(name):
            raise PodSpecError(f"{name}: the runner gives each pod namespaces of its own")
    common.end({*_INHERITED, "seccompProfile", "fsGroupChangePolicy"})
    spec.end(_IRRELEVANT_TO_PODS)
    _check_names(found)
    return found


def _check_names(pod: Pod) -> None:
    every = [*pod.init, *pod.containers]
    names = [item.name for item in every]
    if len({*names}) < len(names):
        raise PodSpecError(f"two containers have one name: {names}")
    for item in every:
        for mount in item.mounts:
            if mount.volume not in pod.volumes:
                raise PodSpecError(f"{item.name}: there is no volume {mount.volume}")


_INHERITED = {"runAsUser", "runAsGroup", "runAsNonRoot", "supplementalGroups"}


def _read_container(item: Object, common: _Fields, *, is_init: bool) -> Container:
    fields = _Fields(f"container {item['name']}", item)
    restart = fields.take("restartPolicy")
    if restart not in {None, "Always"} or (restart and not is_init):
        raise PodSpecError(f"{fields.where}: restartPolicy {restart}")
    resources = _Fields(f"{fields.where}: resources", fields.take("resources", {}))
    resources.take("requests")
    found = Container(
        name=fields.take("name"),
        image=fields.take("image"),
        command=tuple(fields.take("command", ())),
        args=tuple(fields.take("args", ())),
        environment=tuple(fields.take("env", ())),
        mounts=tuple(_read_mount(fields.where, mount) for mount in fields.take("volumeMounts", ())),
        security=_read_security(fields, common),
        working_directory=fields.take("workingDir", "/"),
        is_sidecar=restart == "Always",
        startup=_read_probe(fields, "startupProbe"),
        readiness=_read_probe(fields, "readinessProbe"),
        liveness=_read_probe(fields, "livenessProbe"),
        before_stop=_read_lifecycle(fields),
        limits=resources.take("limits", {}),
    )
    resources.end()
    if is_init and not found.is_sidecar and (found.startup or found.readiness or found.liveness or found.before_stop):
        raise PodSpecError(f"{fields.where}: an init container that ends has neither probes nor a lifecycle")
    fields.end(_IRRELEVANT_TO_CONTAINERS)
    return found


def _read_mount(where: str, mount: Object) -> Mount:
    fields = _Fields(f"{where}: volumeMounts", mount)
    found = Mount(fields.take("name"), fields.take("mountPath"), bool(fields.take("readOnly")))
    fields.end()
    return found


def _read_security(container: _Fields, common: _Fields) -> Security:
    own = _Fields(f"{container.where}: securityContext", container.take("securityContext", {}))
    shared = common._left
    capabilities = _Fields(f"{own.where}: capabilities", own.take("capabilities", {}))
    add, drop = frozenset(capabilities.take("add", ())), frozenset(capabilities.take("drop", ()))
    capabilities.end()
    if own.take("privileged"):
        raise PodSpecError(f"{own.where}: privileged")
    found = Security(
        uid=own.take("runAsUser", shared.get("runAsUser")),
        gid=own.take("runAsGroup", shared.get("runAsGroup")),
        groups=tuple(shared.get("supplementalGroups", ())) + tuple({shared.get("fsGroup")} - {None}),
        capabilities=(frozenset() if "ALL" in drop else RUNTIME_CAPABILITIES - drop) | add,
        may_gain_privileges=own.take("allowPrivilegeEscalation") is not False,
        has_read_only_root=bool(own.take("readOnlyRootFilesystem")),
        must_not_be_root=bool(own.take("runAsNonRoot", shared.get("runAsNonRoot"))),
    )
    own.end({"seccompProfile"})
    return found


def _read_probe(container: _Fields, name: str) -> Probe | None:
    given = container.take(name)
    if given is None:
        return None
    fields = _Fields(f"{container.where}: {name}", given)
    period, failures = float(fields.take("periodSeconds", 10)), int(fields.take("failureThreshold", 3))
    patience = float(fields.take("initialDelaySeconds", 0)) + period * failures
    found = _read_handler(fields, patience)
    fields.end({"timeoutSeconds", "successThreshold"})
    return found


def _read_lifecycle(container: _Fields) -> Probe | None:
    lifecycle = _Fields(f"{container.where}: lifecycle", container.take("lifecycle", {}))
    given = lifecycle.take("preStop")
    lifecycle.end()
    if given is None:
        return None
    fields = _Fields(f"{lifecycle.where}: preStop", given)
    found = _read_handler(fields, 10.0)
    fields.end()
    return found


def _read_handler(fields: _Fields, patience: float) -> Probe:
    http, tcp, command = fields.take("httpGet"), fields.take("tcpSocket"), fields.take("exec")
    if http is not None:
        asked = _Fields(f"{fields.where}: httpGet", http)
        place = asked.take("path", "/"), _number(asked, asked.take("port"))
        if asked.take("scheme", "HTTP") != "HTTP":
            raise PodSpecError(f"{asked.where}: only plain HTTP is asked")
        asked.end()
        return Probe(place, None, (), patience)
    if tcp is not None:
        return Probe(None, _number(fields, tcp["port"]), (), patience)
    if command is None:
        raise PodSpecError(f"{fields.where}: neither httpGet nor tcpSocket nor exec")
    return Probe(None, None, tuple(command["command"]), patience)


def _number(fields: _Fields, port: object) -> int:
    if not isinstance(port, int):
        raise PodSpecError(f"{fields.where}: the port is named; write its number")
    return port


def _read_volume(volume: Object) -> tuple[Object, ...]:
    fields = _Fields(f"volume {volume['name']}", volume)
    fields.take("name")
    empty, projected = fields.take("emptyDir"), fields.take("projected")
    single = {name: source for name in ("configMap", "secret", "downwardAPI") if (source := fields.take(name))}
    fields.end()
    if empty is not None:
        _Fields(f"{fields.where}: emptyDir", empty).end({"medium", "sizeLimit"})
        return ()
    if projected is not None:
        inner = _Fields(f"{fields.where}: projected", projected)
        sources = tuple(inner.take("sources"))
        inner.end({"defaultMode"})
        return sources
    if not single:
        raise PodSpecError(f"{fields.where}: the runner does not know this kind of volume")
    # The name of the object is `name` in a projection and for a ConfigMap, and `secretName` for a Secret.
    renamed = {kind: {**of, "name": of.get("name", of.get("secretName"))} for kind, of in single.items()}
    return tuple({kind: of} for kind, of in renamed.items())


def expand(text: str, known: Mapping[str, str]) -> str:
    """Expand `$(VAR)` as Kubernetes does: `$$` is `$`, and what is not known stays."""

    def replace(found: re.Match[str]) -> str:
        name = found["name"]
        return "$" if name is None else known.get(name, found[0])

    return _REFERENCE.sub(replace, text)


def read_environment(
    pod: Pod, container: Container, *, address: str, look_up: Mapping[tuple[str, str, str], str] | None = None
) -> dict[str, str]:
    """Return the variables of a container, those behind others expanded; `look_up` has entries of ConfigMaps."""
    known: dict[str, str] = {}
    for entry in container.environment:
        fields = _Fields(f"{container.name}: env", entry)
        name, value, source = fields.take("name"), fields.take("value"), fields.take("valueFrom")
        fields.end()
        if source is None:
            known[name] = expand(value or "", known)
            continue
        inner = _Fields(f"{container.name}: env {name}", source)
        field, resource, key = inner.take("fieldRef"), inner.take("resourceFieldRef"), inner.take("configMapKeyRef")
        inner.end()
        if field is not None:
            known[name] = pod.field(field["fieldPath"], address=address)
        elif resource is not None:
            known[name] = str(container.limits[resource["resource"].removeprefix("limits.")])
        else:
            known[name] = (look_up or {})["ConfigMap", key["name"], key["key"]]
    return known


def command_line(
    container: Container, image: Sequence[str], default: Sequence[str], known: Mapping[str, str]
) -> list[str]:
    """Return what runs: `command` replaces the image's entrypoint and its arguments, `args` the arguments alone."""
    command = container.command or tuple(image)
    args = container.args or (() if container.command else tuple(default))
    words = [expand(word, known) for word in (*command, *args)]
    if not words:
        raise PodSpecError(f"container {container.name}: neither the image nor the spec says what runs")
    return words
