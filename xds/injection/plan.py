"""
What becomes of a pod: decided of its wishes, its mesh, the policy and the installation, before anything is written.

Invariant: a plan that exists can be carried out; whatever could prevent that is an InjectionError with all problems.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from xds.capture import ENVOY_UID, build_capture, find_foreign_networks
from xds.errors import InjectionError, SettingsError, quote_value
from xds.injection.annotations import FORBIDDEN_REMEDY, MODE, NO_LIMIT, PREFIX
from xds.injection.environment import CannotDeliverError, Variables, render_env_mode, render_explicit_mode
from xds.injection.meshes import is_of_namespace
from xds.injection.pod import name_of, user_of
from xds.injection.quantities import parse_cpu
from xds.injection.settings import check_resources
from xds.policy.model import DnsMode, HeldPolicy, Mode, Policy
from xds.policy.pem import MAX_AUTHORITIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.capture import Family
    from xds.injection.annotations import Wishes
    from xds.injection.meshes import Mesh
    from xds.injection.pod import PodView
    from xds.injection.settings import SidecarSettings
    from xds.policy.model import Network

_BESIDE_A_MESH = 1338
"""The sidecar's user there: Istio exempts 1337 from its capture, and its policy is to see our connections."""

_ENFORCE = "pod-security.kubernetes.io/enforce"


class Unknown(Enum):
    """The one value that says that nobody looked which policy is in force."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is around a pod. `networks` are the cluster's own; `policy` None: none is in force for the pod."""

    namespace: str
    namespace_labels: Mapping[str, str]
    namespace_annotations: Mapping[str, str]
    policy: Policy | HeldPolicy | Unknown | None
    networks: tuple[Network, ...] = ()
    policies: tuple[str, ...] = ()
    """Names of those that may be for pods of the namespace, for messages; empty: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What Envoy requests and may use, as Kubernetes writes it; no limit of processor time: None."""

    cpu: str
    cpu_limit: str | None
    memory: str
    memory_limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is added to a pod."""

    mode: Mode
    mesh: Mesh | None
    uid: int
    is_native: bool
    variables: Variables | None
    """Of proxies; None: captured pods need none."""
    trusted_ca: str | None
    """PEM; None: applications trust what they trust."""
    families: tuple[Family, ...]
    captures_dns: bool
    resources: Resources
    wishes: Wishes
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Findings:
    """What is wrong, and what somebody may want to know; filled while a plan is made."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_plan(pod: PodView, wishes: Wishes, mesh: Mesh | None, around: Surroundings, sidecar: SidecarSettings) -> Plan:
    """Decide. Raises InjectionError with everything that the pod can't have."""
    found = _Findings()
    mode = _decide_mode(wishes, mesh, around, found, may_choose="mode" not in sidecar.forbidden)
    if "mode" in sidecar.forbidden and pod.annotations.get(MODE, mode.value).strip() != mode.value:
        found.problems.append(
            f"the annotation {MODE} is forbidden for pods here, and not {mode.value}; {FORBIDDEN_REMEDY}"
        )
    plan = Plan(
        mode=mode,
        mesh=mesh,
        uid=_choose_uid(wishes, mesh, sidecar, found),
        is_native=_is_native(wishes, sidecar, found),
        variables=_make_variables(mode, around, found),
        trusted_ca=_choose_authority(wishes, around.policy, found),
        families=wishes.families or sidecar.families,
        captures_dns=mode is Mode.TRANSPARENT and _captures_dns(wishes, around.policy, found),
        resources=_choose_resources(wishes, sidecar, found),
        wishes=wishes,
    )
    if mode is Mode.TRANSPARENT:
        _check_capture(plan, around, found)
    if mode is not Mode.ENV and not sidecar.server_ca:
        found.problems.append(
            "nobody said who signs for the control plane, which a sidecar must know; add --server-ca FILE"
        )
    _warn(plan, pod, around, found)
    if found.problems:
        raise InjectionError(found.problems)
    return replace(plan, warnings=tuple(found.warnings))


def _decide_mode(
    wishes: Wishes, mesh: Mesh | None, around: Surroundings, found: _Findings, *, may_choose: bool
) -> Mode:
    """Take what the pod says, else its namespace, else the policy; what a mesh captures we don't."""
    chosen = wishes.mode or (around.policy.mode if isinstance(around.policy, Policy) else Mode.TRANSPARENT)
    if mesh is None or chosen is not Mode.TRANSPARENT:
        return chosen
    if wishes.mode is None:
        _tell_of_mesh(mesh, around, found, may_choose=may_choose)
        return Mode.EXPLICIT
    found.problems.append(
        f"{wishes.name_of('mode')} is transparent, but {mesh.value} captures the pod: two captures would send each "
        "other's connections in circles; write explicit, or take the pod out of the mesh"
    )
    return chosen


def _tell_of_mesh(mesh: Mesh, around: Surroundings, found: _Findings, *, may_choose: bool) -> None:
    """Say that nothing is captured, and by whose word; refuse the pod's own where it may not choose its mode."""
    if is_of_namespace(around.namespace_labels, around.namespace_annotations):
        mark = "what its namespace says"
    else:
        mark = "a label, an annotation or a container of its own, of which its namespace says nothing"
        if not may_choose:
            found.problems.append(
                f"the pod looks like one that {mesh.value} captures, by {mark}: egress-xds would capture nothing, and "
                f"the annotation {MODE} is forbidden for pods here; remove the mark, or let the namespace say it"
            )
    found.warnings.append(
        f"the mode is explicit, because the pod looks like one that {mesh.value} captures, by {mark}: egress-xds "
        "captures nothing, and what reads no variables goes past the policy"
    )


def _choose_uid(wishes: Wishes, mesh: Mesh | None, sidecar: SidecarSettings, found: _Findings) -> int:
    if wishes.run_as_user is None:
        return _BESIDE_A_MESH if mesh is not None and sidecar.uid in {ENVOY_UID, *mesh.uids} else sidecar.uid
    if mesh is not None and wishes.run_as_user in mesh.uids:
        found.problems.append(
            f"{wishes.name_of('run-as-user')} is {wishes.run_as_user}, the user of {mesh.value}, which would not see "
            "the sidecar's connections; choose another"
        )
    return wishes.run_as_user


def _is_native(wishes: Wishes, sidecar: SidecarSettings, found: _Findings) -> bool:
    if wishes.native_sidecar and not sidecar.has_native_sidecars:
        found.problems.append(
            f"{wishes.name_of('native-sidecar')} asks for what this cluster does not have; remove it, or upgrade the "
            "cluster to 1.29"
        )
    return sidecar.has_native_sidecars if wishes.native_sidecar is None else wishes.native_sidecar


def _choose_resources(wishes: Wishes, sidecar: SidecarSettings, found: _Findings) -> Resources:
    cpu, cpu_limit = wishes.cpu or sidecar.cpu, wishes.cpu_limit or sidecar.cpu_limit
    if cpu_limit == NO_LIMIT:
        cpu_limit = None
    if cpu_limit is not None and wishes.cpu_limit is None and parse_cpu(cpu) > parse_cpu(cpu_limit):
        # The limit was written for the request that it stands beside; who requests more, and no limit, gets as much.
        cpu_limit = cpu
    memory, memory_limit = wishes.memory or sidecar.memory, wishes.memory_limit or sidecar.memory_limit
    found.problems.extend(check_resources(cpu, cpu_limit, memory, memory_limit))
    return Resources(cpu=cpu, cpu_limit=cpu_limit, memory=memory, memory_limit=memory_limit)


def _make_variables(mode: Mode, around: Surroundings, found: _Findings) -> Variables | None:
    if mode is Mode.TRANSPARENT:
        return None
    if not isinstance(around.policy, Policy):
        found.problems.append(f"the mode {mode.value} is made of the policy of the pod, but {_missing(around.policy)}")
        return None
    render = render_explicit_mode if mode is Mode.EXPLICIT else render_env_mode
    try:
        variables = render(around.policy, around.networks)
    except CannotDeliverError as error:
        found.problems.append(f"the mode {mode.value} can't be had: {error}")
        return None
    found.warnings.extend(variables.losses)
    return variables


def _choose_authority(wishes: Wishes, policy: Policy | HeldPolicy | Unknown | None, found: _Findings) -> str | None:
    if not wishes.trusted_ca:
        return None
    if not isinstance(policy, Policy):
        found.problems.append(f"{wishes.name_of('trusted-ca')} is true, but {_missing(policy)}")
        return None
    if policy.trusted_ca is None:
        found.warnings.append(
            f"{wishes.name_of('trusted-ca')} is true, but the policy {policy.name} has no trustedCA: nothing is added"
        )
    elif len(policy.trusted_ca) > MAX_AUTHORITIES:
        found.problems.append(
            f"trustedCA of the policy {policy.name} is larger than {MAX_AUTHORITIES >> 10} KiB, which no variable "
            "carries into a pod; leave out authorities that are not the company's own"
        )
    else:
        found.problems.extend(_check_authority(policy.trusted_ca, policy.name))
    return policy.trusted_ca


def _check_authority(pem: str, policy: str) -> Iterable[str]:
    """Find what would make the pod's own step fail, where nobody looks."""
    from xds.trust import parse_authorities  # noqa: PLC0415  # cryptography is slow, and seldom wanted

    try:
        parse_authorities(pem, f"trustedCA of the policy {policy}")
    except SettingsError as error:
        yield str(error)


def _missing(policy: HeldPolicy | Unknown | None) -> str:
    match policy:
        case None:
            return "no policy is in force for it; write one that selects it"
        case HeldPolicy():
            return f"the document of {policy.name} can't be used; see what is wrong with it: xds validate"
        case Unknown.UNKNOWN:
            return "no policy was given; give its file or directory, or --kubernetes for those of the cluster"


def _captures_dns(wishes: Wishes, policy: Policy | HeldPolicy | Unknown | None, found: _Findings) -> bool:
    if not isinstance(policy, Policy):
        return bool(wishes.dns)
    does_answer = policy.dns_mode is DnsMode.CAPTURE
    if wishes.dns and not does_answer:
        found.problems.append(
            f"{wishes.name_of('dns')} is true, but nobody would answer: the policy {policy.name} has `dns.mode: off`; "
            "write `dns: {mode: capture}` there, or remove the annotation"
        )
    return does_answer if wishes.dns is None else wishes.dns


def _check_capture(plan: Plan, around: Surroundings, found: _Findings) -> None:
    capture = build_capture(exclude_cidrs=map(str, plan.wishes.exclude_networks))
    found.problems.extend(
        f"{plan.wishes.name_of('exclude-cidrs')} names {network}, of a family that is not captured; leave it out, or "
        f"see the annotation {PREFIX}family"
        for network in find_foreign_networks(capture, plan.families)
    )
    level = around.namespace_labels.get(_ENFORCE)
    if level in {"baseline", "restricted"}:
        found.warnings.append(
            f"the namespace {around.namespace} enforces the Pod Security Standard {level}, which allows no NET_ADMIN, "
            f'so that the pod may be refused; the annotation {PREFIX}mode: "explicit" needs none'
        )


def _warn(plan: Plan, pod: PodView, around: Surroundings, found: _Findings) -> None:
    idle = plan.wishes.without_effect(plan.mode)
    found.warnings.extend(f"{plan.wishes.name_of(name)} has no effect in the mode {plan.mode.value}" for name in idle)
    found.warnings.extend(_find_unmet_preference(plan.wishes, around))
    if plan.mode is Mode.TRANSPARENT and around.policy is None:
        found.warnings.append("no policy is in force for the pod: it reaches the cluster, and nothing else")
    if plan.mode is Mode.TRANSPARENT and isinstance(around.policy, HeldPolicy):
        found.warnings.append(f"the pod does not start before it has a policy, but {_missing(around.policy)}")
    if plan.mode is not Mode.ENV:
        found.warnings.extend(_unknown_users(pod, plan))
        if not plan.is_native:
            found.warnings.extend(_shortcomings(pod))


def _unknown_users(pod: PodView, plan: Plan) -> Iterable[str]:
    """Say for whom nobody can tell that it is not the sidecar's user, which was not chosen to be no image's."""
    unknown = [name_of(container) for container in pod.every_container if user_of(container, pod.spec) is None]
    if plan.wishes.run_as_user is not None and unknown:
        yield (
            f"{plan.wishes.name_of('run-as-user')} is {plan.uid}, and which user runs {', '.join(unknown)} is for the "
            "image to say: if it is that one, its connections go past the policy; give containers a runAsUser"
        )


def _find_unmet_preference(wishes: Wishes, around: Surroundings) -> Iterable[str]:
    policy, wanted = around.policy, wishes.policy
    if not wanted or policy is UNKNOWN or (policy is not None and policy.name == wanted):
        return
    from difflib import get_close_matches  # noqa: PLC0415  # seldom wanted

    in_force = "none" if policy is None else quote_value(policy.name)
    close = [] if wanted in around.policies else get_close_matches(wanted, around.policies, n=1)
    hint = f"did you mean {close[0]}?" if close else "a preference selects no pod, and decides between equals only"
    yield f"{wishes.name_of('policy')} prefers {quote_value(wanted)}, but the policy in force is {in_force}; {hint}"


def _shortcomings(pod: PodView) -> Iterable[str]:
    """Say what a sidecar that is an ordinary container can't do."""
    others = [name_of(container) for container in pod.init_containers]
    if others:
        yield (
            f"the sidecar starts after init containers: {', '.join(others)} go past the policy; native sidecars do not "
            "have this limit"
        )
    if pod.spec.get("restartPolicy", "Always") != "Always":
        yield "the sidecar does not end when the application does, and neither does the pod; native sidecars do"
    else:
        yield (
            "the sidecar starts and is stopped together with the application, whose first and last connections may "
            "fail; native sidecars are there before and after"
        )
