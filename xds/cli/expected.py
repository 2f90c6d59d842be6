"""
What an Envoy should have, computed as a server would that starts now: from paths, or from the cluster.

Whose it is is a pod, or a policy whoever it is for. Invariant: the resources are the very bytes that `xds serve` sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from xds.cache import drop_captured
from xds.cli.progress import working
from xds.cli.world import open_world
from xds.compile import compile_snapshot
from xds.compile.refuse import REFUSE_ALL
from xds.policy.model import HeldPolicy, Mode, Policy, Workload
from xds.policy.selection import select_policy
from xds.resources import ResourceType

if TYPE_CHECKING:
    from xds.cli.world import OpenWorld, Place
    from xds.diagnostics import Diagnostic
    from xds.facts import Facts
    from xds.judge import Judgement
    from xds.names import NodeId
    from xds.resources import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """A pod, as it describes itself."""

    node_id: NodeId
    labels: tuple[tuple[str, str], ...] = ()
    service_account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Whose resources are wanted; with neither, those of the only policy that there is."""

    who: Who | None = None
    """The cluster, where it is asked, knows labels and service account better."""
    policy: str | None = None
    """Name, or namespace and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What was computed, and what there is to say of it."""

    resources: tuple[Resource, ...]
    findings: tuple[Diagnostic, ...]
    remark: str = ""
    """Which policy it was, or why there is none."""


async def compile_expected(place: Place, choice: Choice) -> Expected:
    """
    Compile one policy only, as the others may be large.

    Raises click.UsageError if there is no such policy or pod, and else what `open_world` raises.
    """
    async with open_world(place) as world:
        judgement, facts = await world.judge(builds=False)
        workload = None if choice.who is None else _find_workload(world, choice.who)
    policy, remark = _choose(judgement, choice, workload)
    mode = Mode.TRANSPARENT if workload is None else workload.mode
    resources = () if policy is None else _compile(policy, facts, mode)
    return Expected(resources=resources, findings=judgement.diagnostics, remark=remark)


def _choose(judgement: Judgement, choice: Choice, workload: Workload | None) -> tuple[Policy | None, str]:
    """Return the policy, and what there is to say of it; None: the pod is told nothing."""
    if choice.policy is not None:
        return _find_policy(judgement, choice.policy), ""
    return (_find_only(judgement), "") if workload is None else _select_for(judgement, workload)


def _find_workload(world: OpenWorld, who: Who) -> Workload:
    if world.place.is_cluster:
        known = world.pods.get(who.node_id)
        if known is None:
            _, _, namespace = who.node_id.rpartition(".")
            raise click.UsageError(
                f"the cluster has no running pod {who.node_id}; see: kubectl get pods --namespace {namespace}"
            )
        return known.workload
    pod, _, namespace = who.node_id.rpartition(".")
    return Workload(pod=pod, namespace=namespace, labels=who.labels, service_account=who.service_account)


def _find_only(judgement: Judgement) -> Policy:
    if len(judgement.served) != 1:
        raise click.UsageError(f"there are {len(judgement.served)} good policies; choose: {_offer(judgement)}")
    (served,) = judgement.served.values()
    return served.policy


def _select_for(judgement: Judgement, workload: Workload) -> tuple[Policy | None, str]:
    match select_policy(judgement.world.candidates, workload):
        case Policy(namespace=namespace, name=name) as policy:
            return policy, f"policy in force: {_full_name(namespace, name)}"
        case HeldPolicy(where=where):
            return None, f"the document at {where} can't be used, and this pod may be its: it is told nothing"
        case None:
            remark = "no policy selects this pod: it is refused everything but what is always direct"
            return REFUSE_ALL, remark


def _find_policy(judgement: Judgement, policy: str) -> Policy:
    for (namespace, name), served in judgement.served.items():
        if policy in {_full_name(namespace, name), name}:
            return served.policy
    raise click.UsageError(f"there is no good policy {policy}; choose: {_offer(judgement)}")


def _offer(judgement: Judgement) -> str:
    names = [f"--policy {_full_name(*key)}" for key in judgement.served]
    return ", ".join([*names, "--node POD.NAMESPACE"])


def _full_name(namespace: str | None, name: str) -> str:
    return name if namespace is None else f"{namespace}/{name}"


def _compile(policy: Policy, facts: Facts, mode: Mode) -> tuple[Resource, ...]:
    with working("compiling the policy"):
        snapshot = compile_snapshot(policy, facts).snapshot
    assert snapshot is not None, "a policy without errors does not compile"
    if mode is Mode.EXPLICIT:
        snapshot = drop_captured(snapshot)
    return tuple(resource for kind in ResourceType for resource in snapshot.of(kind).values())
