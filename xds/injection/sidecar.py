"""
Our parts of a pod: the containers that write what is trusted, write the bootstrap, are Envoy and capture, with volumes.

They do not depend on what the application is. A captured pod needs the Pod Security Standard `privileged`, for its
one step that captures has NET_ADMIN, which `baseline` allows nobody to add; all else, and the whole of a pod in the
modes explicit and env, keeps to `restricted`.

Invariant: only `egress-capture` is root or has a capability, and it has ended before the application starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.capture import Family, UdpRejection
from xds.injection import names
from xds.injection.annotations import SERVER_CA
from xds.injection.quantities import MEBIBYTE, parse_memory
from xds.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.injection.plan import Plan
    from xds.injection.pod import Object
    from xds.injection.settings import SidecarSettings

_BOOTSTRAP_DIRECTORY = "/etc/egress-xds/bootstrap"
_RUN_DIRECTORY = "/run/egress-xds"
_IDENTITY_DIRECTORY = "/var/run/secrets/egress-xds"

_TOKEN_SECONDS = 3600
"""How long a token is good; the kubelet renews it after four fifths of that."""

_WORKERS = 2
"""Envoy's threads; it would start one per processor of the node, each with memory of its own."""

_DRAIN_SECONDS = 30
_START_SECONDS = 600
"""For how long Envoy may wait for its first configuration before it is started again."""


def build_init_containers(plan: Plan, sidecar: SidecarSettings) -> tuple[list[Object], list[Object]]:
    """Return our init containers: those that go first, and those that go last."""
    first: list[Object] = [] if plan.trusted_ca is None else [_build_trust(plan, plan.trusted_ca, sidecar)]
    last: list[Object] = []
    if plan.mode is not Mode.ENV:
        first.append(_build_bootstrap(plan, sidecar))
        if plan.is_native:
            first.append({**_build_envoy(plan, sidecar), "restartPolicy": "Always"})
    if plan.mode is Mode.TRANSPARENT:
        # Without a native sidecar nothing serves init containers, so they must not be captured yet.
        (first if plan.is_native else last).append(_build_capture(plan, sidecar))
    return first, last


def build_containers(plan: Plan, sidecar: SidecarSettings) -> list[Object]:
    """Return our ordinary containers, which go first: the kubelet starts them in order."""
    return [] if plan.is_native or plan.mode is Mode.ENV else [_build_envoy(plan, sidecar)]


def build_volumes(plan: Plan, sidecar: SidecarSettings) -> list[Object]:
    """Return our volumes."""
    volumes: list[Object] = []
    if plan.mode is not Mode.ENV:
        volumes += [
            {"name": names.BOOTSTRAP_VOLUME, "emptyDir": _small()},
            {"name": names.RUN_VOLUME, "emptyDir": _small()},
            {"name": names.IDENTITY_VOLUME, "projected": {"sources": list(_build_identity(sidecar))}},
        ]
    if plan.trusted_ca is not None:
        volumes.append({"name": names.TRUST_VOLUME, "emptyDir": _small()})
    return volumes


def _build_identity(sidecar: SidecarSettings) -> Iterable[Object]:
    """Return a token of this pod for the control plane alone, and who signs for the control plane."""
    yield {"serviceAccountToken": {"path": "token", "audience": sidecar.audience, "expirationSeconds": _TOKEN_SECONDS}}
    field = {"fieldPath": f"metadata.annotations['{SERVER_CA}']"}
    yield {"downwardAPI": {"items": [{"path": "ca.crt", "fieldRef": field}]}}


def _build_trust(plan: Plan, authority: str, sidecar: SidecarSettings) -> Object:
    from xds.trust import VARIABLE  # noqa: PLC0415  # it reads certificates, for which few pods ask

    return {
        "name": names.TRUST,
        **_image(sidecar.image, sidecar),
        "command": ["xds"],
        "args": ["trust", f"--ca-from-env={VARIABLE}", f"--directory={names.TRUST_DIRECTORY}"],
        "env": [{"name": VARIABLE, "value": authority}],
        "resources": _step(),
        "securityContext": _harmless(plan.uid),
        "volumeMounts": [{"name": names.TRUST_VOLUME, "mountPath": names.TRUST_DIRECTORY}],
    }


def _build_bootstrap(plan: Plan, sidecar: SidecarSettings) -> Object:
    heap = parse_memory(plan.resources.memory_limit) * 4 // 5 // MEBIBYTE
    arguments = [
        "bootstrap",
        "--node=$(POD_NAME).$(POD_NAMESPACE)",
        f"--server={sidecar.server}",
        f"--server-name={sidecar.name_of_server}",
        f"--server-ca={_IDENTITY_DIRECTORY}/ca.crt",
        f"--token-file={_IDENTITY_DIRECTORY}/token",
        f"--admin={_RUN_DIRECTORY}/admin.sock",
        f"--max-heap={heap}Mi",
        f"--directory={_BOOTSTRAP_DIRECTORY}",
    ]
    if _is_probed(plan):
        arguments.append(f"--probe-port={names.PROBE_PORT}")
    return {
        "name": names.BOOTSTRAP,
        **_image(sidecar.image, sidecar),
        "command": ["xds"],
        "args": arguments,
        # A pod may have its name from `generateName`, which only the kubelet knows.
        "env": [_from_pod("POD_NAME", "metadata.name"), _from_pod("POD_NAMESPACE", "metadata.namespace")],
        "resources": _step(),
        "securityContext": _harmless(plan.uid),
        "volumeMounts": [{"name": names.BOOTSTRAP_VOLUME, "mountPath": _BOOTSTRAP_DIRECTORY}],
    }


def _build_envoy(plan: Plan, sidecar: SidecarSettings) -> dict[str, object]:
    limits = {"memory": plan.resources.memory_limit}
    if plan.resources.cpu_limit is not None:
        limits = {"cpu": plan.resources.cpu_limit, **limits}
    return {
        "name": names.ENVOY,
        **_image(sidecar.envoy_image, sidecar),
        "command": ["/usr/local/bin/envoy"],
        # Two words each: Envoy reads no `--name=value`.
        "args": [
            *("--config-path", f"{_BOOTSTRAP_DIRECTORY}/bootstrap.yaml"),
            "--disable-hot-restart",
            *("--concurrency", str(_WORKERS)),
            *("--drain-time-s", str(_DRAIN_SECONDS)),
            *("--component-log-level", "misc:error"),
        ],
        **({"startupProbe": _ask_ready()} if _is_probed(plan) else {}),
        "resources": {"requests": {"cpu": plan.resources.cpu, "memory": plan.resources.memory}, "limits": limits},
        "securityContext": _harmless(plan.uid),
        "volumeMounts": [
            {"name": names.BOOTSTRAP_VOLUME, "mountPath": _BOOTSTRAP_DIRECTORY, "readOnly": True},
            {"name": names.IDENTITY_VOLUME, "mountPath": _IDENTITY_DIRECTORY, "readOnly": True},
            {"name": names.RUN_VOLUME, "mountPath": _RUN_DIRECTORY},
        ],
    }


def _is_probed(plan: Plan) -> bool:
    """Whether the kubelet reaches the port: a mesh captures what comes in, too."""
    return plan.mesh is None


def _ask_ready() -> Object:
    """
    Return how the kubelet learns that the application may start, and asks no more.

    A pod that was ready stays so whoever keeps the port busy, which other pods reach.
    """
    ask = {"path": "/ready", "port": names.PROBE_PORT}
    return {"httpGet": ask, "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": _START_SECONDS}


def _build_capture(plan: Plan, sidecar: SidecarSettings) -> Object:
    return {
        "name": names.CAPTURE,
        **_image(sidecar.init_image, sidecar),
        "command": ["xds"],
        "args": ["capture", "--apply", "--wait" if plan.is_native else "--force", *_capture_options(plan)],
        "resources": _step(),
        "securityContext": {
            "runAsNonRoot": False,
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _capture_options(plan: Plan) -> Iterable[str]:
    wishes = plan.wishes
    yield f"--exempt-uid={plan.uid}"
    if plan.families != tuple(Family):
        yield from (f"--family={family.value}" for family in plan.families)
    yield from (f"--exclude-port={port}" for port in wishes.exclude_ports)
    yield from (f"--exclude-cidr={network}" for network in wishes.exclude_networks)
    yield from (f"--exclude-uid={uid}" for uid in wishes.exclude_uids)
    if wishes.reject_udp is not UdpRejection.QUIC:
        yield f"--reject-udp={wishes.reject_udp.value}"
    if plan.captures_dns:
        yield "--dns"


def _harmless(uid: int) -> Mapping[str, object]:
    """Say by the container what the standard `restricted` wants, whatever the pod says for all."""
    return {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": uid,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _step() -> Object:
    """Return what a step that ends may use. All of ours have limits: namespaces with quotas refuse what has none."""
    return {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}


def _small() -> Object:
    """Return a directory on no disk; it is no local storage, for which an autoscaler would not empty a node."""
    return {"medium": "Memory", "sizeLimit": "16Mi"}


def _image(image: str, sidecar: SidecarSettings) -> Mapping[str, object]:
    policy = {} if sidecar.pull_policy is None else {"imagePullPolicy": sidecar.pull_policy.value}
    return {"image": image, **policy}


def _from_pod(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
