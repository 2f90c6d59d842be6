"""
`xds inject`: what the webhook makes of pods, made of manifests; and what Istio must know of the proxies.

The decision is that of `xds.injection`. Nothing is printed on stdout unless every pod got what it asks for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from xds.bootstrap import parse_labels
from xds.cli.documents import STDIN
from xds.cli.logs import configure_logging
from xds.cli.options import CLUSTER, render_epilog, settings_options
from xds.cli.output import style_diagnostic
from xds.cli.places import PATH, check_there
from xds.cli.pod_manifests import (
    FoundPod,
    change_pods,
    find_namespaces,
    find_unknown,
    read_manifests,
    render_manifests,
    write_manifest,
)
from xds.cli.world import choose_place, open_world
from xds.errors import InjectionError, SourceError, clean_text
from xds.flags import parse_namespace
from xds.injection.annotations import INJECT, PREFIX
from xds.injection.inject import UNKNOWN, Surroundings, inject
from xds.injection.pod import view_pod
from xds.injection.service_entry import render_service_entries
from xds.injection.settings import DEFAULT_ENVOY_IMAGE, SidecarSettings
from xds.policy.model import Policy, Workload
from xds.policy.selection import select_policy
from xds.settings import load_operator_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from xds.cli.pod_manifests import Manifest, NamespaceNote
    from xds.cli.world import Place
    from xds.injection.plan import Unknown
    from xds.kubernetes.objects import NamespaceObject
    from xds.policy.model import HeldPolicy, Network

_SERVER = "egress-xds.egress-system.svc:18000"
_NAMESPACE = "default"
_SYSTEM = "kube-system"
_POLICY = f"{PREFIX}policy"
_NO_POD = "there is no pod: its spec.containers is missing or empty; write what the API server accepts"


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """What is around the pods; `candidates` None: nobody gave policies."""

    candidates: tuple[Policy | HeldPolicy, ...] | None = None
    networks: tuple[Network, ...] = ()
    namespaces: Mapping[str, NamespaceObject] = field(default_factory=lambda: MappingProxyType({}))
    home: str = ""
    """The control plane's own namespace, if it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Around:
    """What was said of the pods' namespaces: by the cluster; by manifests, which beat it; by flags, which beat both."""

    world: _World
    written: Mapping[str, NamespaceNote]
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    takes_all: bool

    def reason_to_leave(self, found: FoundPod) -> str:
        """Return why the webhook is never asked about a pod, by its namespaceSelector; empty if it is."""
        namespace = found.namespace or self.namespace
        if namespace in {_SYSTEM, self.world.home}:
            return f"it is of {namespace}: what the control plane needs to start can't wait for the control plane"
        # Of a namespace that nobody knows, the label may be there; that the pod was given is a wish.
        is_known = namespace in self.world.namespaces or namespace in self.written
        if self.takes_all or self._labels(namespace).get(INJECT, "" if is_known else "true") == "true":
            return ""
        return f'its namespace {namespace} does not have the label {INJECT}: "true"; to inject it all the same: --all'

    def look(self, found: FoundPod) -> Surroundings:
        """Return what is around a pod. Raises InjectionError if it is none."""
        namespace = found.namespace or self.namespace
        labels, annotations = self._labels(namespace), self._annotations(namespace)
        return Surroundings(
            namespace=namespace,
            namespace_labels=labels,
            namespace_annotations=annotations,
            policy=self._find_policy(found, namespace, labels, annotations),
            networks=self.world.networks,
            policies=tuple(
                policy.name for policy in self.world.candidates or () if policy.namespace in {None, namespace}
            ),
        )

    def _labels(self, namespace: str) -> dict[str, str]:
        known, written = self.world.namespaces.get(namespace), self.written.get(namespace)
        return {**(dict(known.labels) if known else {}), **(written.labels if written else {}), **self.labels}

    def _annotations(self, namespace: str) -> dict[str, str]:
        known, written = self.world.namespaces.get(namespace), self.written.get(namespace)
        found = dict(known.annotations) if known else {}
        return {**found, **(written.annotations if written else {}), **self.annotations}

    def _find_policy(
        self, found: FoundPod, namespace: str, labels: Mapping[str, str], annotations: Mapping[str, str]
    ) -> Policy | HeldPolicy | Unknown | None:
        if self.world.candidates is None:
            return UNKNOWN
        pod = view_pod(found.pod)
        workload = Workload(
            pod=found.name,
            namespace=namespace,
            labels=tuple(sorted(pod.labels.items())),
            # What the API server fills in for a pod that does not say.
            service_account=str(pod.spec.get("serviceAccountName") or pod.spec.get("serviceAccount") or "default"),
            namespace_labels=tuple(sorted(labels.items())),
            policy=pod.annotations.get(_POLICY, annotations.get(_POLICY, "")),
        )
        return select_policy(self.world.candidates, workload)


@dataclass(slots=True)
class _Outcome:
    """What became of all pods so far."""

    talk: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    policies: dict[tuple[str, str], tuple[Policy, str]] = field(default_factory=dict)
    """Those in force, each with the namespace of a pod that has it."""
    pods: int = 0


@click.command(
    name="inject",
    epilog=render_epilog(
        "xds inject -f web.yaml --server-ca ca.crt policies | kubectl apply -f -",
        "kubectl -n shop get deployment web -o yaml | xds inject -f - --kubernetes --server-ca ca.crt",
        "xds inject --service-entry -f web.yaml policies",
        codes="0 if every pod got what it asks for or was left alone, 1 if one can't get it: then nothing is printed; "
        "2 for wrong usage or a file that can't be read, 3 if the cluster can't be asked. The authority is in the "
        "control plane's namespace: kubectl get secret egress-xds-tls -o jsonpath='{.data.ca\\.crt}' | base64 -d",
    ),
)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=PATH)
@click.option(
    "-f", "--filename", "files", multiple=True, type=PATH, metavar="FILE", help="Manifests; - is stdin. Repeatable."
)
@click.option("--server-ca", type=PATH, metavar="FILE", help="Who signs for the control plane (PEM).")
@click.option("--server", default=_SERVER, show_default=True, metavar="HOST:PORT", help="Where pods reach it.")
@click.option("--server-name", default="", metavar="NAME", help="The name in its certificate, if not that host.")
@click.option("--image", metavar="IMAGE", help="The control plane's image.  [default: egress-xds:VERSION]")
@click.option("--init-image", metavar="IMAGE", help="The one that captures.  [default: egress-xds-init:VERSION]")
@click.option("--envoy-image", default=DEFAULT_ENVOY_IMAGE, show_default=True, metavar="IMAGE", help="Envoy's.")
@click.option(
    "--native-sidecars/--no-native-sidecars",
    default=True,
    show_default=True,
    help="Whether the cluster has native sidecars, as from 1.29 on.",
)
@click.option(
    "--inject-forbid",
    "forbid",
    multiple=True,
    metavar="NAME",
    help="An annotation egress-xds/NAME that pods may not have; repeatable.",
)
@click.option(
    "--pod-namespace", default=_NAMESPACE, show_default=True, metavar="NAME", help="Where pods are that don't say it."
)
@click.option(
    "--namespace-label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label of the pods' namespaces, as istio-injection=enabled; repeatable.",
)
@click.option(
    "--namespace-annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="An annotation of them; as well."
)
@click.option("--all", "takes_all", is_flag=True, help=f"Also pods of namespaces without the label {INJECT}=true.")
@click.option(
    "--service-entry",
    is_flag=True,
    help="Print the ServiceEntry objects that Istio needs for the proxies of these pods, or of all policies.",
)
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="Form.")
@settings_options((*CLUSTER, "cluster_cidr"))
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    files: tuple[Path, ...],
    server_ca: Path | None,
    server: str,
    server_name: str,
    image: str | None,
    init_image: str | None,
    envoy_image: str,
    native_sidecars: bool,
    forbid: tuple[str, ...],
    pod_namespace: str,
    labels: tuple[str, ...],
    annotations: tuple[str, ...],
    takes_all: bool,
    service_entry: bool,
    output: str,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """
    Give the pods of manifests what delivers their policy to them, and print the manifests.

    Pods are looked for in Pod, Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob, and lists of them; all
    else is printed as it is. Their policies are those of every PATH, or with --kubernetes those of the cluster. Without
    either, pods can be captured all the same; what is made of a policy can't be had.

    Pods that the webhook is not asked about are left alone: those of kube-system, of the control plane's namespace, and
    of namespaces without the label, as the cluster or a Namespace among the manifests says it.
    """
    place = _choose(files, paths, flags, service_entry=service_entry)
    manifests = [manifest for file in files for manifest in read_manifests(file)]
    sidecar = SidecarSettings(
        image=image or f"egress-xds:{_find_version()}",
        init_image=init_image or f"egress-xds-init:{_find_version()}",
        envoy_image=envoy_image,
        server=server,
        server_name=server_name,
        server_ca="" if server_ca is None else _read_authority(server_ca),
        has_native_sidecars=native_sidecars,
        forbidden=frozenset(forbid),
    )
    home = _guess_home(server, flags)
    around = _Around(
        world=_World(home=home) if place is None else asyncio.run(_read_world(place, home)),
        written=find_namespaces(manifests),
        namespace=_parse_namespace(pod_namespace),
        labels=parse_labels(labels),
        annotations=_parse_annotations(annotations),
        takes_all=takes_all,
    )
    outcome = _Outcome()
    if service_entry:
        ctx.exit(_print_entries(manifests, around, outcome, output))
    changed = [_change(manifest, around, sidecar, outcome) for manifest in manifests]
    if not outcome.pods and not outcome.talk:
        outcome.talk.append("there is no pod in it, so that nothing was changed")
    ctx.exit(_print(changed, outcome, output))


def _choose(
    files: tuple[Path, ...],
    paths: tuple[Path, ...],
    flags: Mapping[str, str | tuple[str, ...] | None],
    *,
    service_entry: bool,
) -> Place | None:
    """Return where the policies are; None: nobody said. Raises click.UsageError and what is said of bad paths."""
    settings = load_operator_settings(flags)
    if not files and not service_entry:
        raise click.UsageError("give manifests: -f FILE, or -f - for what is piped in")
    if [*files, *paths].count(STDIN) > 1:
        raise click.UsageError("stdin can be read once only; give a file in place of one -")
    for path in paths:
        if path != STDIN:
            check_there(path)
    configure_logging(settings)
    if paths or settings.kubernetes:
        return choose_place(paths, settings, resolves=False, reads_files=False)
    if service_entry:
        raise click.UsageError("a ServiceEntry is made of a policy; give its PATH, or --kubernetes")
    return None


def _guess_home(server: str, flags: Mapping[str, str | tuple[str, ...] | None]) -> str:
    """Return the control plane's namespace: as a flag says, or of whose Service HOST is; empty: it is none of these."""
    if isinstance(given := flags.get("namespace"), str):
        return given
    name, _, _ = server.rpartition(":")
    labels = name.split(".")
    return labels[1] if len(labels) > 2 and labels[2] == "svc" else ""  # noqa: PLR2004  # SERVICE.NAMESPACE.svc


async def _read_world(place: Place, home: str) -> _World:
    async with open_world(place) as world:
        judgement, facts = await world.judge(builds=False)
        for finding in judgement.diagnostics:
            if finding.is_error:
                click.echo(style_diagnostic(finding), err=True)
        return _World(
            candidates=tuple(judgement.world.candidates),
            networks=facts.cluster_ranges,
            namespaces=world.namespaces,
            home=world.home or home,
        )


def _change(manifest: Manifest, around: _Around, sidecar: SidecarSettings, outcome: _Outcome) -> Manifest:
    def give(found: FoundPod) -> Mapping[str, object]:
        outcome.pods += 1
        try:
            _check_pod(found)
            if reason := around.reason_to_leave(found):
                outcome.talk.append(f"{found}: left alone: {reason}")
                return found.pod
            injection = inject(found.pod, around.look(found), sidecar)
        except InjectionError as error:
            outcome.problems += [f"{manifest.place}: {found}: {problem}" for problem in error.problems]
            return found.pod
        told = f"left alone: {injection.reason}" if injection.mode is None else injection.mode.value
        outcome.talk += [f"{found}: {told}", *(f"{found}: warning: {warning}" for warning in injection.warnings)]
        return injection.pod

    outcome.talk += [
        f"{kind.lower()}/{name}: left as it is: the kind {kind} is not known; the webhook gives its pods their sidecar "
        "as they are made"
        for kind, name in find_unknown(manifest.value)
    ]
    value = change_pods(manifest.value, give)
    return manifest if value == manifest.value else write_manifest(value)


def _check_pod(found: FoundPod) -> None:
    if not view_pod(found.pod).containers:
        raise InjectionError([_NO_POD])


def _print_entries(manifests: Iterable[Manifest], around: _Around, outcome: _Outcome, form: str) -> int:
    def note(found: FoundPod, manifest: Manifest) -> Mapping[str, object]:
        outcome.pods += 1
        try:
            surroundings = around.look(found)
        except InjectionError as error:
            outcome.problems += [f"{manifest.place}: {found}: {problem}" for problem in error.problems]
            return found.pod
        if isinstance(surroundings.policy, Policy):
            key = surroundings.policy.name, surroundings.namespace
            outcome.policies[key] = surroundings.policy, surroundings.namespace
        else:
            outcome.problems.append(
                f"{manifest.place}: {found}: no policy is in force for it; write one that selects it: xds explain"
            )
        return found.pod

    for manifest in manifests:
        change_pods(manifest.value, partial(note, manifest=manifest))
    if not outcome.pods and around.world.candidates is not None:
        for policy in around.world.candidates:
            if isinstance(policy, Policy) and policy.namespace in {None, around.namespace}:
                outcome.policies[policy.name, around.namespace] = policy, around.namespace
    entries = [entry for policy, place in outcome.policies.values() for entry in render_service_entries(policy, place)]
    # What two policies share is one entry, which has its name from what is in it.
    unique = {repr(entry): entry for entry in entries}
    if not unique:
        outcome.talk.append("Istio needs to know of no proxy")
    return _print([write_manifest(entry) for entry in unique.values()], outcome, form)


def _print(manifests: list[Manifest], outcome: _Outcome, form: str) -> int:
    for line in outcome.talk:
        click.echo(clean_text(line), err=True)
    for line in outcome.problems:
        click.echo(clean_text(f"xds: {line}"), err=True)
    if outcome.problems:
        return 1
    if manifests:
        click.echo(render_manifests(manifests, form))
    return 0


def _read_authority(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--server-ca {path} can't be read; give ca.crt of the control plane's Secret") from error


def _parse_namespace(text: str) -> str:
    try:
        return parse_namespace(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--pod-namespace") from error


def _parse_annotations(pairs: Iterable[str]) -> dict[str, str]:
    annotations: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--namespace-annotation")
        annotations[key] = value
    return annotations


def _find_version() -> str:
    try:
        return version("egress-xds")
    except PackageNotFoundError:
        return "latest"
