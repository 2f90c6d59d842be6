"""`xds dump`: the resources that an Envoy gets, computed from documents or asked of a running server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from xds import compile as _compile  # noqa: F401 - registers the matcher messages that `render` unpacks
from xds.bootstrap import parse_authority, parse_labels, parse_node_id
from xds.cli.credentials import CREDENTIALS, credential_options, read_credentials
from xds.cli.logs import configure_logging
from xds.cli.options import settings_options
from xds.cli.output import count_of, render_json, render_table, render_yaml, style_diagnostic
from xds.cli.places import PATH, check_policies, check_resolv_conf
from xds.client import Identity, fetch_resources
from xds.flags import parse_seconds
from xds.judge import Judge
from xds.policy.model import HeldPolicy, Policy, Workload
from xds.policy.selection import select_policy
from xds.render import render_resource
from xds.resources import ResourceType
from xds.settings import load_settings
from xds.sources.directory import read_documents
from xds.sources.facts import NetworkFacts
from xds.sources.files import read_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from xds.client import Credentials
    from xds.judge import Judgement
    from xds.resources import Resource
    from xds.settings import Settings
    from xds.snapshot import Snapshot

_FACTS = ("listen", "always_direct", "cluster_cidr", "api_server", "ip_families", "resolv_conf", "resolve_timeout")
"""Settings of `serve` that change what is compiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """Whose resources are wanted: a pod's, or those of a policy."""

    identity: Identity | None
    policy: str | None

    @property
    def workload(self) -> Workload | None:
        if self.identity is None:
            return None
        pod, _, namespace = self.identity.node_id.rpartition(".")
        return Workload(
            pod=pod,
            namespace=namespace,
            labels=self.identity.labels,
            service_account=self.identity.service_account,
        )


@click.command(
    name="dump",
    epilog="Examples: xds dump deploy/policies --policy short.  "
    "xds dump --server 127.0.0.1:18000 --node shop-0.payments --type listener -o yaml.  "
    "Exit code: 0 fine, 1 if a document of DIR has an error, 2 wrong usage, 3 if the server can't be asked; with 2 "
    "and 3 there is nothing on stdout, whatever -o says.",
)
@click.argument("policies", metavar="[DIR]", required=False, type=PATH)
@click.option("--server", metavar="HOST:PORT", help="Ask this server instead of reading DIR.")
@click.option("--node", metavar="POD.NAMESPACE", help="Whose resources; needed with --server.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of that pod; repeatable.")
@click.option("--service-account", default="", metavar="NAME", help="Its service account.")
@click.option("--policy", metavar="[NAMESPACE/]NAME", help="Show this policy of DIR, whoever it is for.")
@click.option(
    "--type",
    "kind",
    type=click.Choice([*(kind.name.lower() for kind in ResourceType), "all"]),
    default="all",
    help="Show one type only.",
)
@click.option("-o", "--output", type=click.Choice(["table", "yaml", "json"]), default="table", help="Form.")
@click.option("--timeout", default="5s", show_default=True, metavar="DURATION", help="How long to wait for --server.")
@click.option("--no-resolve", is_flag=True, help="Look up no names; the loop guard then covers literal addresses only.")
@click.option("--no-files", is_flag=True, help="Leave out the files that policies name: they are on another machine.")
@credential_options
@settings_options(_FACTS)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    policies: Path | None,
    server: str | None,
    node: str | None,
    labels: tuple[str, ...],
    service_account: str,
    policy: str | None,
    kind: str,
    output: str,
    timeout: str,
    no_resolve: bool,
    no_files: bool,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """
    Show the resources that an Envoy gets.

    They come from the documents in DIR, compiled as `xds serve` would here, or from a running server.
    Credentials are redacted.
    """
    if (policies is None) is (server is None):
        raise click.UsageError("give either DIR or --server HOST:PORT; try: xds dump DIR")
    _refuse_options_without_effect(ctx)
    settings = load_settings(flags)
    configure_logging(settings)
    identity = _read_identity(node, labels, service_account)
    choice = _Choice(identity=identity, policy=policy)
    if policies is not None:
        check_policies(policies)
        check_resolv_conf(settings)
        judgement = asyncio.run(_judge(policies, settings, resolves=not no_resolve, reads=not no_files))
        resources, has_findings = _select(judgement, choice), _report(judgement)
    else:
        resources, has_findings = (
            _fetch(str(server), choice, timeout, read_credentials(flags, parse_authority(str(server)))),
            False,
        )
    click.echo(render_resources([item for item in resources if kind in {item.kind.name.lower(), "all"}], output))
    ctx.exit(1 if has_findings else 0)


def render_resources(resources: Iterable[Resource], output: str) -> str:
    """Return resources in one of the forms of `--output`."""
    if output == "table":
        header = ("TYPE", "NAME", "VERSION", "BYTES", "SUMMARY")
        return render_table(header, [_summarise(resource) for resource in resources])
    described = [
        {
            "type": resource.kind.name.lower(),
            "name": resource.name,
            "version": resource.version,
            "resource": render_resource(resource),
        }
        for resource in resources
    ]
    return render_json(described) if output == "json" else render_yaml(described)


def _refuse_options_without_effect(ctx: click.Context) -> None:
    """Raise click.UsageError for an option that this dump would ignore. Environment variables are for all verbs."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    cases = [
        ("server" in given, ("policies", "policy", "no_resolve", *_FACTS), "it is the server that compiles"),
        ("server" not in given, ("timeout", *CREDENTIALS), "it is for --server"),
        ("node" not in given, ("labels", "service_account"), "it goes with --node POD.NAMESPACE"),
        ("policy" in given, ("node",), "--policy shows one policy, whoever it is for"),
    ]
    for applies, fields, reason in cases:
        useless = [name for name in fields if applies and name in given]
        if useless:
            flag = next(item.opts[0] for item in ctx.command.params if item.name == useless[0])
            raise click.UsageError(f"{flag} is of no use here: {reason}; leave it out")


def _read_identity(node: str | None, labels: Iterable[str], service_account: str) -> Identity | None:
    if node is None:
        return None
    sorted_labels = tuple(sorted(parse_labels(labels).items()))
    return Identity(node_id=parse_node_id(node), labels=sorted_labels, service_account=service_account)


def _fetch(server: str, choice: _Choice, timeout: str, credentials: Credentials) -> tuple[Resource, ...]:
    if choice.identity is None:
        raise click.UsageError("a server is asked for a pod; add --node POD.NAMESPACE")
    parse_authority(server)
    try:
        seconds = parse_seconds(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from error
    return asyncio.run(fetch_resources(server, choice.identity, within=seconds, credentials=credentials))


async def _judge(policies: Path, settings: Settings, *, resolves: bool, reads: bool) -> Judgement:
    """Do what `serve` does at its start."""
    judge = Judge()
    results = judge.parse(read_documents(policies))
    facts = await NetworkFacts(settings).collect(judge.hosts(results) if resolves else frozenset())
    files = read_files(judge.files(results)) if reads else {}
    return judge.judge(results, replace(facts, files=files, reads_files=reads, now=time.time()))


def _report(judgement: Judgement) -> bool:
    """Print the findings; return whether one is an error."""
    for finding in judgement.diagnostics:
        click.echo(style_diagnostic(finding), err=True)
    return any(finding.is_error for finding in judgement.diagnostics)


def _select(judgement: Judgement, choice: _Choice) -> tuple[Resource, ...]:
    if choice.policy is not None:
        return _flatten(_snapshot_of(judgement, choice.policy))
    if choice.workload is not None:
        return _select_for(judgement, choice.workload)
    if len(judgement.served) != 1:
        raise click.UsageError(f"DIR holds {len(judgement.served)} good policies; choose: {_offer(judgement)}")
    (served,) = judgement.served.values()
    return _flatten(served.snapshot)


def _select_for(judgement: Judgement, workload: Workload) -> tuple[Resource, ...]:
    match select_policy(judgement.world.candidates, workload):
        case Policy(namespace=namespace, name=name):
            click.echo(f"policy in force: {_full_name(namespace, name)}", err=True)
            return _flatten(judgement.served[namespace, name].snapshot)
        case HeldPolicy(where=where):
            click.echo(f"the document at {where} can't be used, and this pod may be its: it is told nothing", err=True)
            return ()
        case None:
            click.echo("no policy selects this pod: it is refused everything but what is always direct", err=True)
            return _flatten(judgement.world.refuse_all)


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


def _summarise(resource: Resource) -> tuple[str, str, str, str, str]:
    kind = resource.kind.name.lower()
    # The size of a secret tells how long it is.
    size = "-" if resource.kind is ResourceType.SECRET else str(len(resource.body))
    return (kind, resource.name, resource.version, size, _describe(render_resource(resource)))


def _describe(rendered: Mapping[str, object]) -> str:
    """Say in a few words what is in a resource."""
    match rendered:
        case {"filter_chains": list(chains)}:
            return f"chains: {', '.join(str(chain.get('name')) for chain in chains)}"
        case {"virtual_hosts": list(hosts)}:
            return f"{count_of(sum(len(host['domains']) for host in hosts), 'domain')}"
        case {"load_assignment": {"endpoints": list(endpoints)}} | {"endpoints": list(endpoints)}:
            return f"endpoints: {', '.join(_find_addresses(endpoints))}"
        case {"listener_filters": [{"typed_config": {"server_config": {"inline_dns_table": dict(table)}}}]}:
            answered = [item for item in table.get("virtual_domains", []) if "address_list" in item["endpoint"]]
            return f"answers for {count_of(len(answered), 'name')}"
        case {"type": str(discovery)}:
            return discovery.lower().replace("_", " ")
        case _:
            return ""


def _find_addresses(rendered: object) -> Iterable[str]:
    match rendered:
        case {"address": str(address), "port_value": int(port)}:
            yield f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        case {"server_listener_name": str(listener)}:
            yield f"the listener {listener}"
        case dict():
            for value in rendered.values():
                yield from _find_addresses(value)
        case list():
            for item in rendered:
                yield from _find_addresses(item)
        case _:
            pass
