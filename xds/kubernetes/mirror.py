"""
What of the cluster matters here, kept up to date: pods, namespaces, policies, and where the cluster's networks are.

One reflector per kind of object. Pods go to the registry of workloads as they change; policies and networks are asked
for, and whoever asks is woken when they changed. Nothing here judges a policy. Invariants: before everything was read
once there is nothing to ask for; a pod is told of only when its namespace is known, since both decide about its policy.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from xds.kubernetes.documents import build_documents
from xds.kubernetes.networks import ClusterNetworks, build_networks
from xds.kubernetes.objects import (
    POLICY_LABEL,
    ConfigMapObject,
    NamespaceObject,
    PodObject,
    reduce_config_map,
    reduce_namespace,
    reduce_node,
    reduce_pod,
    reduce_service,
    reduce_service_cidr,
)
from xds.kubernetes.reflector import Collection, Patience, Reflector
from xds.kubernetes.signal import Signal
from xds.names import NodeId
from xds.policy.model import Workload
from xds.workloads import Pod

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from xds.kubernetes.connection import ApiServer
    from xds.kubernetes.reflector import ObjectKey
    from xds.policy.parse import Document
    from xds.workloads import Workloads


_PODS, _POLICIES = Patience(page=100), Patience(page=20)
"""Objects of a page, which is in memory as a whole: a pod may have a megabyte of annotations, a ConfigMap of data."""


class Mirror:
    """The cluster as far as it was told. Create it inside a running loop."""

    def __init__(
        self,
        api: ApiServer,
        workloads: Workloads,
        *,
        home: str,
        discovers_networks: bool = True,
        is_home_only: bool = False,
    ) -> None:
        """`home` is the control plane's own namespace; with `is_home_only`, policies of others are left out."""
        self._is_home_only = is_home_only
        self._home = home
        self._workloads = workloads
        self.changed = Signal()
        """Set whenever `documents` or `networks` may return something else; for one waiter."""
        pods, namespaces = Collection("/api/v1/pods"), Collection("/api/v1/namespaces")
        policies = Collection("/api/v1/configmaps", label_selector=POLICY_LABEL)
        self.pods: Reflector[PodObject] = Reflector(api, pods, reduce_pod, self._note_pods, patience=_PODS)
        self.namespaces: Reflector[NamespaceObject] = Reflector(
            api, namespaces, reduce_namespace, self._note_namespaces
        )
        self.policies: Reflector[ConfigMapObject] = Reflector(
            api, policies, reduce_config_map, self._note, patience=_POLICIES
        )
        self._namespace_came = asyncio.Event()
        self._networks: ClusterNetworks | None = None
        services = Collection("/api/v1/services")
        service_cidrs = Collection("/apis/networking.k8s.io/v1/servicecidrs", is_optional=True)
        nodes = Collection("/api/v1/nodes", is_optional=True)
        self._services = Reflector(api, services, reduce_service, self._note_networks)
        self._service_cidrs = Reflector(api, service_cidrs, reduce_service_cidr, self._note_networks)
        self._nodes = Reflector(api, nodes, reduce_node, self._note_networks)
        self._of_networks: tuple[Reflector[Any], ...] = (
            (self._services, self._service_cidrs, self._nodes) if discovers_networks else ()
        )

    @property
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        """All that is watched, for those who report it."""
        return (self.pods, self.namespaces, self.policies, *self._of_networks)

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.reflectors:
                group.create_task(reflector.run())

    async def wait_until_synced(self) -> None:
        """Wait until everything was read once."""
        for reflector in self.reflectors:
            await reflector.synced.wait()

    def documents(self) -> tuple[Document, ...]:
        """Return the policy documents that there are."""
        return build_documents(self.policies.items, self._home, is_home_only=self._is_home_only)

    def networks(self) -> ClusterNetworks:
        """Return where the cluster is, as far as that is known."""
        if self._networks is None:
            self._networks = build_networks(
                service_cidrs=self._service_cidrs.items.values(),
                services=self._services.items.values(),
                nodes=self._nodes.items.values(),
            )
        return self._networks

    async def wait_for_namespace(self, name: str) -> None:
        """Wait until a namespace is known: one that was made a moment ago may not be, though pods are made in it."""
        while ("", name) not in self.namespaces.items:
            await self._namespace_came.wait()

    def expect(self, namespace: str, pod: Mapping[str, object]) -> Workload | None:
        """
        Return what a pod that is to be made will be known as, but for its name; None: its namespace is not known.

        Raises ValueError if it is no pod.
        """
        built = self._build_pod((namespace, ""), reduce_pod(pod))
        return None if built is None else built.workload

    def injected(self) -> Iterable[Workload]:
        """Yield the pods that have a sidecar, as far as that is known."""
        for key, pod in self.pods.items.items():
            known = self._workloads.get(_node_id(key)) if pod.is_injected else None
            if known is not None:
                yield known.workload

    def _note(self, _: Mapping[ObjectKey, object]) -> None:
        self.changed.set()

    def _note_networks(self, _: Mapping[ObjectKey, object]) -> None:
        self._networks = None
        self.changed.set()

    def _note_pods(self, changes: Mapping[ObjectKey, PodObject | None]) -> None:
        self._workloads.update({_node_id(key): self._build_pod(key, pod) for key, pod in changes.items()})

    def _note_namespaces(self, changes: Mapping[ObjectKey, NamespaceObject | None]) -> None:
        names = {name for _, name in changes}
        self._workloads.update(dict(self._pods_in(names)))
        self._namespace_came.set()
        self._namespace_came = asyncio.Event()

    def _pods_in(self, namespaces: set[str]) -> Iterable[tuple[NodeId, Pod | None]]:
        for key, pod in self.pods.items.items():
            if key[0] in namespaces:
                yield _node_id(key), self._build_pod(key, pod)

    def _build_pod(self, key: ObjectKey, pod: PodObject | None) -> Pod | None:
        namespace = self.namespaces.items.get(("", key[0]))
        if pod is None or namespace is None:
            return None
        workload = Workload(
            pod=key[1],
            namespace=key[0],
            labels=pod.labels,
            service_account=pod.service_account,
            namespace_labels=namespace.labels,
            policy=pod.policy or namespace.policy,
            mode=pod.mode,
        )
        return Pod(workload, pod.uid)


def _node_id(key: ObjectKey) -> NodeId:
    namespace, name = key
    return NodeId(f"{name}.{namespace}")
