"""
What an installation says of its sidecars: images, where the control plane is, and how much a sidecar may use.

Invariant: settings that exist can be injected: every value was checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from xds.bootstrap import parse_authority
from xds.capture import ENVOY_UID, Family
from xds.errors import SettingsError, quote_value
from xds.injection.annotations import check_forbidden
from xds.injection.quantities import MEBIBYTE, parse_cpu, parse_memory

DEFAULT_ENVOY_IMAGE = "envoyproxy/envoy:distroless-v1.40.0"
AUDIENCE = "egress-xds"
"""Whom the token of a sidecar is for, unless told otherwise."""

MIN_MEMORY_LIMIT = 80 * MEBIBYTE
"""Bytes: of which four fifths are the least heap that an Envoy is started with."""

_MAX_CA = 64 * 1024
"""Bytes. All annotations of an object together may take 256 KiB."""
_MAX_UID = 2**31 - 1


class PullPolicy(Enum):
    """When the kubelet pulls an image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSettings:
    """One installation. An unusable value is a SettingsError."""

    image: str
    """The control plane's: it writes the bootstrap and what applications trust."""
    init_image: str
    """With the programs that capture needs."""
    envoy_image: str = DEFAULT_ENVOY_IMAGE
    server: str
    """HOST:PORT of the control plane, as pods reach it."""
    server_name: str = ""
    """What its certificate is for; empty: HOST."""
    server_ca: str = field(default="", repr=False)
    """
    PEM; who signs for it. Pods read it from an annotation, so that no namespace needs a ConfigMap.

    Empty: nobody said, so that no pod can have a sidecar, but pods that need none can be made.
    """
    audience: str = AUDIENCE
    uid: int = ENVOY_UID
    """The sidecar's user, unless a pod says another or is beside a mesh."""
    pull_policy: PullPolicy | None = None
    """None: the cluster's default for the tag."""
    has_native_sidecars: bool = True
    """Whether the cluster keeps init containers with `restartPolicy: Always` running (Kubernetes 1.29)."""
    families: tuple[Family, ...] = tuple(Family)
    """What is captured unless a pod says otherwise."""
    cpu: str = "100m"
    cpu_limit: str | None = "2"
    """None: no limit, which namespaces with a quota of it refuse."""
    memory: str = "128Mi"
    memory_limit: str = "500Mi"
    forbidden: frozenset[str] = frozenset()
    """Names, without their prefix, of annotations that pods may not have; `inject`: no pod can opt out."""

    def __post_init__(self) -> None:
        for name in ("image", "init_image", "envoy_image", "audience"):
            text: str = getattr(self, name)
            if not text or not text.isprintable() or " " in text:
                raise SettingsError(f"{name} of the sidecar is {quote_value(text)}; give it, in one word")
        parse_authority(self.server)
        if self.server_ca:
            check_authority(self.server_ca)
        if not 1 <= self.uid <= _MAX_UID:
            raise SettingsError(f"the sidecar can't run as user {self.uid}; give a number from 1 to {_MAX_UID}")
        check_forbidden(self.forbidden)
        if not self.families:
            raise SettingsError("no address family is captured; give one at least")
        if problems := check_resources(self.cpu, self.cpu_limit, self.memory, self.memory_limit):
            raise SettingsError("; ".join(problems))

    @property
    def name_of_server(self) -> str:
        """What the control plane's certificate is for."""
        return self.server_name or parse_authority(self.server).host


def check_authority(pem: str) -> None:
    """Refuse what can't be the authority that pods are given. Raises SettingsError, which never shows it."""
    if "PRIVATE KEY" in pem:
        raise SettingsError(
            "the authority of the control plane holds a private key, which pods would show to everybody"
        )
    if "-----BEGIN CERTIFICATE-----" not in pem:
        raise SettingsError("the authority of the control plane is no certificate in PEM; give ca.crt of its Secret")
    if len(pem.encode()) > _MAX_CA:
        raise SettingsError(f"the authority of the control plane is larger than {_MAX_CA >> 10} KiB; give fewer")


def check_resources(cpu: str, cpu_limit: str | None, memory: str, memory_limit: str) -> list[str]:
    """Return what is wrong with what a sidecar may use."""
    problems = []
    for name, text, parse in (
        ("requests.cpu", cpu, parse_cpu),
        ("limits.cpu", cpu_limit, parse_cpu),
        ("requests.memory", memory, parse_memory),
        ("limits.memory", memory_limit, parse_memory),
    ):
        try:
            if text is not None:
                parse(text)
        except ValueError as error:
            problems.append(f"{name} of the sidecar: {quote_value(text or '')} {error}")
    if problems:
        return problems
    if cpu_limit is not None and parse_cpu(cpu) > parse_cpu(cpu_limit):
        problems.append(
            f"the sidecar requests {cpu} of a processor, more than its limit of {cpu_limit}; raise the limit"
        )
    if parse_memory(memory) > parse_memory(memory_limit):
        problems.append(
            f"the sidecar requests {memory} of memory, more than its limit of {memory_limit}; raise the limit"
        )
    if parse_memory(memory_limit) < MIN_MEMORY_LIMIT:
        problems.append(
            f"no Envoy starts with {memory_limit} of memory; give it {MIN_MEMORY_LIMIT // MEBIBYTE}Mi or more"
        )
    return problems
