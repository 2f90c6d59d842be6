"""
Finds what `xds explain` is asked about: the policy that is in force for a pod, or one by name, with its resources.

Nothing here walks them. Invariant: a subject's resources are those that `xds serve` would send.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import click

from xds.cli.progress import working
from xds.cli.world import open_world
from xds.compile import compile_snapshot
from xds.compile.refuse import REFUSE_ALL
from xds.errors import EgressXdsError, quote_value
from xds.explain.explanation import Subject
from xds.policy.model import HeldPolicy, Mode, Policy, Workload
from xds.policy.selection import select_policy

if TYPE_CHECKING:
    from xds.cli.world import OpenWorld, Place
    from xds.diagnostics import Diagnostic
    from xds.facts import Facts
    from xds.judge import Judgement
    from xds.names import NodeId

_PATIENCE = 10.0
"""Seconds for which an Envoy may answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whose connection it is: a pod's (what the cluster knows of it counts, where it is asked), or any of a policy."""

    node_id: NodeId | None = None
    labels: tuple[tuple[str, str], ...] = ()
    service_account: str = ""
    policy: str = ""
    """Name, or namespace and name."""

    @property
    def words(self) -> str:
        """Who that is, for people."""
        return f"a pod of {self.policy}" if self.node_id is None else self.node_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    What was found.

    `subject` is None where nobody knows what such a pod has: its document can't be used. `is_in_force` says that a
    policy is for the pod; `remark` says what is not as usual.
    """

    subject: Subject | None
    findings: tuple[Diagnostic, ...]
    is_in_force: bool = True
    remark: str = ""


class NoSuchPodError(EgressXdsError):
    """The pod is not there: the cluster does not know it, or the Envoy that was asked is another one's."""


def find_held(admin: str | None, config_dump: str | None, pod: str | None = None) -> tuple[str, Found]:
    """
    Return who an Envoy says it is, and what it says that it holds: the one whose admin interface is at `admin`.

    Raises NoSuchPodError if it is not the Envoy of `pod`, what `ask_envoy` and `read_config_dump` raise, and
    UnknownConfigurationError if a resource can't be read.
    """
    from xds.explain.held import read_held  # noqa: PLC0415  # few ask an Envoy
    from xds.inspection.config_dump import State  # noqa: PLC0415  # as above
    from xds.inspection.envoy_admin import ask_envoy, parse_place, read_config_dump  # noqa: PLC0415  # as above

    if config_dump is not None:
        dump = read_config_dump(config_dump)
    else:
        with working("asking the Envoy"):
            dump = ask_envoy(parse_place(admin or ""), within=_PATIENCE)
    if pod is not None and dump.node_id != pod:
        said = f"is {dump.node_id}" if dump.node_id else "does not say who it is"
        raise NoSuchPodError(f"this Envoy {said}, and not {pod}; ask that pod's, or leave out the pod")
    active = [item for item in dump.resources if item.state is State.ACTIVE]
    snapshot = read_held((item.type_url, item.name, item.content) for item in active)
    return dump.node_id or "the Envoy", Found(subject=Subject(snapshot=snapshot), findings=())


async def find_subject(place: Place, asked: Asked) -> Found:
    """
    Compile one policy only, as the others may be large.

    Raises click.UsageError if there is no such policy, NoSuchPodError if there is no such pod, and else what
    `open_world` raises.
    """
    async with open_world(place) as world:
        judgement, facts = await world.judge(builds=False)
        workload = None if asked.node_id is None else _find_workload(world, asked, asked.node_id)
        texts = {document.source: document.text for document in world.read.documents}
    chosen = _find_policy(judgement, asked.policy) if workload is None else _select(judgement, workload)
    findings = judgement.diagnostics
    match chosen:
        case Policy() as policy:
            text = texts.get(policy.where.source, "")
            remark = "" if workload is None else _remark_on_mode(policy, workload)
            return Found(subject=_compile(policy, facts, text), findings=findings, remark=remark)
        case HeldPolicy(where=where):
            remark = f"the document at {where} can't be used, and this pod may be its: it is told nothing new"
            return Found(subject=None, findings=findings, is_in_force=False, remark=remark)
        case None:
            subject = _compile(REFUSE_ALL, facts)
            remark = "no policy selects this pod: it is refused everything but what is always direct"
            return Found(subject=subject, findings=findings, is_in_force=False, remark=remark)
        case other:
            assert_never(other)


def _find_workload(world: OpenWorld, asked: Asked, node_id: NodeId) -> Workload:
    pod, _, namespace = node_id.rpartition(".")
    if not world.place.is_cluster:
        return Workload(pod=pod, namespace=namespace, labels=asked.labels, service_account=asked.service_account)
    known = world.pods.get(node_id)
    if known is None:
        raise NoSuchPodError(f"the cluster has no running pod {node_id}; see: kubectl get pods --namespace {namespace}")
    return known.workload


def _remark_on_mode(policy: Policy, workload: Workload) -> str:
    """Say what a pod whose connections are not captured has instead."""
    if workload.mode is not Mode.EXPLICIT:
        return ""
    if policy.explicit_port is None:
        return (
            f"this pod is in explicit mode, and the policy {policy.name} has no port for that: nothing is served to it"
        )
    return "this pod is in explicit mode: nothing is captured, and `--explicit` tells what its sidecar does when asked"


def _select(judgement: Judgement, workload: Workload) -> Policy | HeldPolicy | None:
    return select_policy(judgement.world.candidates, workload)


def _find_policy(judgement: Judgement, name: str) -> Policy | HeldPolicy:
    known = judgement.world.candidates
    for policy in known:
        full = policy.name if policy.namespace is None else f"{policy.namespace}/{policy.name}"
        if name in {full, policy.name}:
            return policy
    raise click.UsageError(
        f"there is no policy {quote_value(name)}; there are: {', '.join(item.name for item in known) or 'none'}"
    )


def _compile(policy: Policy, facts: Facts, text: str = "") -> Subject:
    with working("compiling the policy"):
        snapshot = compile_snapshot(policy, facts).snapshot
    assert snapshot is not None, "a policy without errors does not compile"
    return Subject(snapshot=snapshot, policy=policy, facts=facts, text=text)
