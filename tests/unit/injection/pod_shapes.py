"""Pods of every shape that injection meets, those that a real API server asked about among them, and what is around."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.policies import WHERE, endpoint, policy, proxy
from xds.injection.inject import Injection, Surroundings, Unknown, inject
from xds.injection.settings import SidecarSettings
from xds.policy.model import AlwaysDirect, DnsMode, HeldPolicy, Mode, Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

RECORDED = Path("tests/data/kubernetes-1.36")
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\n-----END CERTIFICATE-----\n"
COMPANY = """\
-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUNxDkVgiAQIAYWg61jCXHz3ehJkAwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJQ29ycCBSb290MCAXDTI2MTEyMjAxMDMwM1oYDzIxMjYxMDI5
MDEwMzAzWjAUMRIwEAYDVQQDDAlDb3JwIFJvb3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARnuQixwwkeTDcOt59qgSgLsPdYyJWIDbz0jRQH8NoMOSt+LZvz2fCc
Q5r5JnJl0/ltgVnIItl7JpzSriTYsxJSo1MwUTAdBgNVHQ4EFgQUaH4rJoO9fYl3
p67WZ6DgDty8604wHwYDVR0jBBgwFoAUaH4rJoO9fYl3p67WZ6DgDty8604wDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAnXNAiyZ1fPuaZBocnPLz
0ZXi7lTDfwGirKx6oLpj40YCIA75Q92zvJoDMGIpAf1LSAcmgeWGI66GO+kJLQwD
Vxnz
-----END CERTIFICATE-----
"""

SIDECAR = SidecarSettings(
    image="registry.corp.example/egress-xds:1.0",
    init_image="registry.corp.example/egress-xds-init:1.0",
    server="egress-xds.egress-system.svc:18000",
    server_ca=AUTHORITY,
)
WITHOUT_NATIVE = replace(SIDECAR, has_native_sidecars=False)

CORPORATE = policy(proxies=(proxy("corp", endpoint("proxy.corp.example", 3128)),), always_direct=AlwaysDirect())
EXPLICIT = replace(CORPORATE, mode=Mode.EXPLICIT, explicit_port=15002)
ENV = replace(CORPORATE, mode=Mode.ENV)
WITH_AUTHORITY = replace(CORPORATE, trusted_ca=COMPANY)
WITH_NAMES = replace(CORPORATE, dns_mode=DnsMode.CAPTURE, synthetic_ranges=(ip_network("198.18.0.0/15"),))
HELD = HeldPolicy(name="broken", where=WHERE)

ISTIO = {"istio-injection": "enabled"}


def pod(spec: str = "", *, annotations: Json | None = None, labels: Json | None = None, container: str = "") -> Json:
    """Return a pod with one application; `spec` and `container` are YAML that is laid over it."""
    app = {"name": "app", "image": "registry.example/app:1", **(yaml.safe_load(container) or {})}
    metadata = {"name": "web-0", "namespace": "shop", "labels": {"app": "web", **(labels or {})}}
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [app], **(yaml.safe_load(spec) or {})},
    }


def around(
    policy: Policy | HeldPolicy | Unknown | None = CORPORATE,
    labels: Json | None = None,
    annotations: Json | None = None,
) -> Surroundings:
    return Surroundings(
        namespace="shop",
        namespace_labels=labels or {},
        namespace_annotations=annotations or {},
        policy=policy,
        networks=(ip_network("10.96.0.0/12"),),
    )


def recorded(name: str) -> Json:
    """Return the pod of a recorded AdmissionReview."""
    found: Json = json.loads((RECORDED / f"admission-pod-{name}.json").read_text())["body"]["request"]["object"]
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """A pod that gets something, and of which mode it is then."""

    name: str
    pod: Json
    mode: Mode = Mode.TRANSPARENT
    around: Surroundings = field(default_factory=around)
    sidecar: SidecarSettings = SIDECAR

    def inject(self) -> Injection:
        return inject(copy.deepcopy(self.pod), self.around, self.sidecar)


def container_of(pod: Mapping[str, object], name: str) -> Json:
    """Return the container of this name."""
    spec: Any = pod["spec"]
    every = [*(spec.get("initContainers") or ()), *spec["containers"]]
    found: Json = next(item for item in every if item["name"] == name)
    return found


def names_of(pod: Mapping[str, object], key: str) -> list[str]:
    spec: Any = pod["spec"]
    return [item["name"] for item in spec.get(key) or ()]


_INIT = "initContainers: [{name: migrate, image: registry.example/migrate:1}]"
_ISTIO_PROXY = (
    "initContainers: [{name: istio-init, image: i:1}, {name: istio-proxy, image: i:1, restartPolicy: Always}]"
)
_TRUSTING = {"egress-xds/trusted-ca": "true"}

SHAPES = [
    *(
        Shape(f"recorded: {name}", recorded(name))
        for name in (
            "plain",
            "dns-none",
            "dry-run",
            "env-proxy",
            "generate-name",
            "init-containers",
            "native-sidecar",
            "no-service-account-token",
        )
    ),
    Shape(
        "recorded: run-as-user, with another user for the sidecar",
        recorded("run-as-user") | {"metadata": {"name": "s", "annotations": {"egress-xds/run-as-user": "4711"}}},
    ),
    Shape(
        "nothing but a container", {"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    ),
    Shape("null where a list could be", pod("{initContainers: null, volumes: null}")),
    Shape("root is forbidden for the whole pod", pod("securityContext: {runAsNonRoot: true, runAsUser: 10001}")),
    Shape("a group for volumes", pod("securityContext: {fsGroup: 2000, seccompProfile: {type: RuntimeDefault}}")),
    Shape("processes that see one another", pod("shareProcessNamespace: true")),
    Shape("processes of the node", pod("hostPID: true")),
    Shape("no token of its own", pod("automountServiceAccountToken: false")),
    Shape("secrets for pulling", pod("imagePullSecrets: [{name: registry}]")),
    Shape("a job", pod("restartPolicy: Never")),
    Shape(
        "spread over zones",
        pod(
            "topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone,"
            " whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]"
        ),
    ),
    Shape("linux, and says so", pod("os: {name: linux}")),
    Shape("an init container", pod(_INIT)),
    Shape("a native sidecar of another", pod("initContainers: [{name: logs, image: l:1, restartPolicy: Always}]")),
    Shape("a privileged container", pod(container="securityContext: {privileged: true}")),
    Shape(
        "volumes and probes",
        pod("volumes: [{name: data, emptyDir: {}}]", container="volumeMounts: [{name: data, mountPath: /data}]"),
    ),
    Shape("made to look injected", pod(annotations={"egress-xds/injected": "true", "egress-xds/server-ca": "forged"})),
    Shape(
        "every annotation",
        pod(
            annotations={
                "egress-xds/inject": "true",
                "egress-xds/mode": "transparent",
                "egress-xds/policy": "corporate",
                "egress-xds/exclude-ports": "5432, 9092",
                "egress-xds/exclude-cidrs": "192.0.2.0/24",
                "egress-xds/exclude-uids": "0,999",
                "egress-xds/dns": "false",
                "egress-xds/reject-udp": "all",
                "egress-xds/family": "ipv4",
                "egress-xds/trusted-ca": "true",
                "egress-xds/native-sidecar": "true",
                "egress-xds/sidecar-cpu": "3",
                "egress-xds/sidecar-memory": "256Mi",
                "egress-xds/sidecar-memory-limit": "1Gi",
                "egress-xds/run-as-user": "2000",
            }
        ),
        around=around(WITH_AUTHORITY),
    ),
    Shape("names are captured because the policy answers for them", pod(), around=around(WITH_NAMES)),
    Shape("no policy is in force", pod(), around=around(None)),
    Shape("the policy can't be used", pod(), around=around(HELD)),
    Shape("nobody looked for a policy", pod(), around=around(Unknown.UNKNOWN)),
    Shape("without native sidecars", pod(_INIT), sidecar=WITHOUT_NATIVE),
    Shape(
        "without native sidecars, by its own wish",
        pod("restartPolicy: OnFailure", annotations={"egress-xds/native-sidecar": "false"}),
    ),
    Shape("the company's authority", pod(_INIT, annotations=_TRUSTING), around=around(WITH_AUTHORITY)),
    Shape(
        "the company's authority, beside options of Java",
        pod(annotations=_TRUSTING, container="env: [{name: JAVA_TOOL_OPTIONS, value: -Xmx1g}]"),
        around=around(WITH_AUTHORITY),
    ),
    Shape("explicit by the policy", pod(_INIT), Mode.EXPLICIT, around(EXPLICIT)),
    Shape("explicit by the pod", pod(annotations={"egress-xds/mode": "explicit"}), Mode.EXPLICIT, around(EXPLICIT)),
    Shape(
        "explicit by the namespace", pod(), Mode.EXPLICIT, around(EXPLICIT, annotations={"egress-xds/mode": "explicit"})
    ),
    Shape("explicit without native sidecars", pod(_INIT), Mode.EXPLICIT, around(EXPLICIT), WITHOUT_NATIVE),
    Shape("explicit, with a proxy of its own", recorded("env-proxy"), Mode.EXPLICIT, around(EXPLICIT)),
    Shape("beside Istio, which is yet to come", pod(), Mode.EXPLICIT, around(EXPLICIT, ISTIO)),
    Shape("beside Istio, which was first", pod(_ISTIO_PROXY), Mode.EXPLICIT, around(EXPLICIT)),
    Shape(
        "beside Istio's ambient mesh",
        pod(),
        Mode.EXPLICIT,
        around(EXPLICIT, {"istio.io/dataplane-mode": "ambient"}),
    ),
    Shape("beside Linkerd", pod(annotations={"linkerd.io/inject": "enabled"}), Mode.EXPLICIT, around(EXPLICIT)),
    Shape("env by the policy", pod(_INIT), Mode.ENV, around(ENV)),
    Shape(
        "env by the pod, with the company's authority",
        pod(_INIT, annotations={"egress-xds/mode": "env", **_TRUSTING}),
        Mode.ENV,
        around(WITH_AUTHORITY),
    ),
    Shape("env beside Istio", pod(_ISTIO_PROXY, annotations={"egress-xds/mode": "env"}), Mode.ENV),
]
