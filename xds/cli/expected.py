"""
What an Envoy should have, computed as a server would that starts now: from paths, or from the cluster.

Whose it is is a pod, or a policy whoever it is for. Invariant: the resources are the very bytes that `xds serve` sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from xds.cli.world import open_world
from xds.policy.model import HeldPolicy, Policy, Workload
from xds.policy.selection import select_policy
from xds.resources import ResourceType

if TYPE_CHECKING:
    from xds.cli.world import OpenWorld, Place
    from xds.diagnostics import Diagnostic
    from xds.judge import Judgement
    from xds.names import NodeId
    from xds.resources import Resource
    from xds.snapshot import Snapshot


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
    """Raise click.UsageError if there is no such policy or pod, and else what `open_world` raises."""
    async with open_world(place) as world:
        judgement, _ = await world.judge()
        workload = None if choice.who is None else _find_workload(world, choice.who)
    if choice.policy is not None:
        resources, remark = _flatten(_snapshot_of(judgement, choice.policy)), ""
    elif workload is not None:
        resources, remark = _select_for(judgement, workload)
    else:
        resources, remark = _flatten(_only_snapshot(judgement)), ""
    return Expected(resources=resources, findings=judgement.diagnostics, remark=remark)


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


def _only_snapshot(judgement: Judgement) -> Snapshot:
    if len(judgement.served) != 1:
        raise click.UsageError(f"there are {len(judgement.served)} good policies; choose: {_offer(judgement)}")
    (served,) = judgement.served.values()
    return served.snapshot


def _select_for(judgement: Judgement, workload: Workload) -> tuple[tuple[Resource, ...], str]:
    match select_policy(judgement.world.candidates, workload):
        case Policy(namespace=namespace, name=name):
            return _flatten(
                judgement.served[namespace, name].snapshot
            ), f"policy in force: {_full_name(namespace, name)}"
        case HeldPolicy(where=where):
            return (), f"the document at {where} can't be used, and this pod may be its: it is told nothing"
        case None:
            remark = "no policy selects this pod: it is refused everything but what is always direct"
            return _flatten(judgement.world.refuse_all), remark


def _snapshot_of(judgement: Judgement, policy: str) -> Snapshot:
    for (namespace, name), served in judgement.served.items():
        if policy in {_full_name(namespace, name), name}:
            return served.snapshot
    raise click.UsageError(f"there is no good policy {policy}; choose: {_offer(judgement)}")


def _offer(judgement: Judgement) -> str:
    names = [f"--policy {_full_name(*key)}" for key in judgement.served]
    return ", ".join([*names, "--node POD.NAMESPACE"])


def _full_name(namespace: str | None, name: str) -> str:
    return name if namespace is None else f"{namespace}/{name}"


def _flatten(snapshot: Snapshot) -> tuple[Resource, ...]:
    return tuple(resource for kind in ResourceType for resource in snapshot.of(kind).values())
