"""
`xds dump`: the resources that an Envoy gets, or has.

They are computed from documents or from the cluster, asked of a running server, or read from an Envoy; `--diff`
compares one of the former with the latter. Nothing is shown before everything is known, and nothing secret at all.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from xds.bootstrap import parse_authority, parse_labels, parse_node_id
from xds.cli.comparison import compare, count_verdicts, render_comparison
from xds.cli.credentials import CREDENTIALS, credential_options, read_credentials
from xds.cli.logs import configure_logging
from xds.cli.options import CLUSTER, FACTS, render_epilog, world_options
from xds.cli.output import style_diagnostic
from xds.cli.places import PATH
from xds.cli.progress import working
from xds.cli.resources import ALL, Filter, render_resources, show_compiled, show_held
from xds.errors import SettingsError, clean_text, quote_value
from xds.flags import parse_seconds
from xds.inspection.envoy_admin import ask_envoy, parse_place, read_config_dump
from xds.names import NodeId
from xds.resources import ResourceType
from xds.settings import load_operator_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from xds.cli.expected import Who
    from xds.cli.resources import Shown
    from xds.inspection.config_dump import ConfigDump, HeldResource
    from xds.settings import Settings

_SERVER_ONLY = ("node_cluster", *CREDENTIALS)
_COMPILED_ONLY = ("policy", "no_resolve", "no_files", *FACTS, *CLUSTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What was asked for."""

    paths: tuple[Path, ...]
    server: str | None
    admin: str | None
    config_dump: str | None
    policy: str | None
    node: str | None
    node_cluster: str
    labels: tuple[str, ...]
    service_account: str
    timeout: str
    no_resolve: bool
    no_files: bool
    diff: bool
    output: str
    wanted: Filter
    settings: Settings
    flags: Mapping[str, object]

    @property
    def seconds(self) -> float:
        """How long somebody may take to answer. Raises click.BadParameter."""
        try:
            return parse_seconds(self.timeout)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--timeout") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """One side: what an Envoy should have."""

    shown: tuple[Shown, ...]
    is_complete: bool
    """Whether there is nothing to complain about."""
    is_delta: bool = True
    """Whether versions are those of single resources."""


@click.command(
    name="dump",
    epilog=render_epilog(
        "xds dump deploy/policies --policy short",
        "xds dump --server 127.0.0.1:18000 --node shop-0.payments --type listener -o yaml",
        "xds dump --kubernetes --node web-0.shop",
        "xds dump --admin 127.0.0.1:15000 --name 'proxy/*'",
        "xds dump --kubernetes --diff --admin 127.0.0.1:15000",
        codes="0 fine, 1 if a document has an error, something is missing, an Envoy refused something, or --diff "
        "finds a difference, 2 for wrong usage, 3 if somebody can't be asked; with 2 and 3 there is nothing "
        "on stdout, whatever -o says.",
    ),
)
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=PATH)
@click.option("--server", metavar="HOST:PORT", help="Ask this server, which may be any that serves ADS.")
@click.option("--admin", metavar="HOST:PORT|SOCKET", help="Ask the Envoy whose admin interface this is.")
@click.option(
    "--config-dump", metavar="FILE", help="Read what an Envoy answered to /config_dump?include_eds; - is stdin."
)
@click.option("--diff", is_flag=True, help="Compare what an Envoy should have with what it has, of --admin or a file.")
@click.option("--node", metavar="POD.NAMESPACE", help="Whose resources; an Envoy that is compared says it itself.")
@click.option("--node-cluster", default="xds-dump", metavar="NAME", help="Its node.cluster, if --server goes by that.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of that pod; repeatable.")
@click.option("--service-account", default="", metavar="NAME", help="Its service account.")
@click.option("--policy", metavar="[NAMESPACE/]NAME", help="Show this policy, whoever it is for.")
@click.option(
    "--type",
    "kind",
    type=click.Choice([*(kind.name.lower() for kind in ResourceType), ALL]),
    default=ALL,
    help="Show one type only.",
)
@click.option("--name", metavar="PATTERN", help="Show what is called so only; * stands for anything.")
@click.option("-o", "--output", type=click.Choice(["table", "yaml", "json"]), default="table", help="Form.")
@click.option("--timeout", default="5s", show_default=True, metavar="DURATION", help="How long to wait for an answer.")
@click.option("--no-resolve", is_flag=True, help="Look up no names; the loop guard then covers literal addresses only.")
@click.option("--no-files", is_flag=True, help="Leave out the files that policies name: they are on another machine.")
@credential_options
@world_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    server: str | None,
    admin: str | None,
    config_dump: str | None,
    diff: bool,
    node: str | None,
    node_cluster: str,
    labels: tuple[str, ...],
    service_account: str,
    policy: str | None,
    kind: str,
    name: str | None,
    output: str,
    timeout: str,
    no_resolve: bool,
    no_files: bool,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """
    Show the resources that an Envoy gets, or has.

    They come from the documents in PATH or in the cluster, compiled as `xds serve` would; from a running server; or
    from an Envoy. Credentials are redacted.
    """
    settings = load_operator_settings(flags)
    options = _Options(
        paths=paths,
        server=server,
        admin=admin,
        config_dump=config_dump,
        policy=policy,
        node=node,
        node_cluster=node_cluster,
        labels=labels,
        service_account=service_account,
        timeout=timeout,
        no_resolve=no_resolve,
        no_files=no_files,
        diff=diff,
        output=output,
        wanted=Filter(kind=kind, name=name),
        settings=settings,
        flags=flags,
    )
    _check_sources(options)
    _refuse_options_without_effect(ctx, options)
    configure_logging(settings)
    dump = _read_envoy(options)
    ctx.exit(_show_comparison(options, dump) if diff and dump is not None else _show(options, dump))


def _check_sources(options: _Options) -> None:
    """Raise click.UsageError unless there is one source, or with --diff one of each kind."""
    held = [item for item in (options.admin, options.config_dump) if item is not None]
    is_expected = bool(options.paths) or options.server is not None
    if len(held) > 1:
        raise click.UsageError("give either --admin or --config-dump: an Envoy is asked, or was")
    if options.paths and options.server is not None:
        raise click.UsageError("give either PATH or --server HOST:PORT; try: xds dump PATH")
    if options.diff and not held:
        raise click.UsageError("--diff needs what an Envoy has: add --admin HOST:PORT, or --config-dump FILE")
    if options.diff and not is_expected and not options.settings.kubernetes:
        raise click.UsageError("--diff needs what the Envoy should have: add PATH, --kubernetes or --server HOST:PORT")
    if held and not options.diff and is_expected:
        raise click.UsageError("one thing is shown; to compare what should be with what an Envoy has, add --diff")
    if not held and not is_expected and not options.settings.kubernetes:
        raise click.UsageError(
            "give PATH, --kubernetes, --server HOST:PORT, --admin HOST:PORT or --config-dump FILE; try: xds dump PATH"
        )


def _refuse_options_without_effect(ctx: click.Context, options: _Options) -> None:
    """Raise click.UsageError for an option that this dump would ignore. Environment variables are for all verbs."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    is_held_only = not options.diff and bool(given & {"admin", "config_dump"})
    pod = ("labels", "service_account")
    is_cluster = not options.paths and options.server is None
    cases = [
        (is_held_only, ("node", *pod, *_SERVER_ONLY, *_COMPILED_ONLY), "an Envoy tells what it has"),
        ("server" in given, _COMPILED_ONLY, "it is the server that compiles"),
        ("server" not in given, _SERVER_ONLY, "it is for --server"),
        (not given & {"server", "admin"}, ("timeout",), "it is for --server and --admin"),
        (bool(options.paths), CLUSTER, "with PATH, no cluster is asked"),
        ("node" not in given, pod, "it goes with --node POD.NAMESPACE"),
        (is_cluster, pod, "the cluster knows that pod"),
        ("policy" in given, ("node",), "--policy shows one policy, whoever it is for"),
    ]
    for applies, fields, reason in cases:
        useless = [name for name in fields if applies and name in given]
        if useless:
            flag = next(item.opts[0] for item in ctx.command.params if item.name == useless[0])
            raise click.UsageError(f"{flag} is of no use here: {reason}; leave it out")


def _read_envoy(options: _Options) -> ConfigDump | None:
    if options.config_dump is not None:
        return read_config_dump(options.config_dump)
    if options.admin is None:
        return None
    place = parse_place(options.admin)
    with working("asking the Envoy"):
        return ask_envoy(place, within=options.seconds)


def _show(options: _Options, dump: ConfigDump | None) -> int:
    """Print one side; return the exit code."""
    if dump is None:
        expected = _expect(options, None)
        shown, is_fine = expected.shown, expected.is_complete
    else:
        shown = show_held(dump.resources, options.wanted)
        refused = [item.held for item in shown if item.held is not None and item.held.refusal is not None]
        _report_refusals(refused)
        is_fine = not refused
    name = options.wanted.name
    if not shown and name is not None:
        click.echo(f"nothing here is called {quote_value(name)}; see all names without --name", err=True)
    click.echo(render_resources(shown, options.output))
    return 0 if is_fine and (shown or name is None) else 1


def _show_comparison(options: _Options, dump: ConfigDump) -> int:
    """Print the comparison; return the exit code."""
    expected = _expect(options, dump)
    versions_tell = expected.is_delta is dump.is_delta
    compared = compare(expected.shown, show_held(dump.resources, options.wanted), versions_tell=versions_tell)
    if not versions_tell:
        click.echo(
            "one side asks for the state of the world and the other for changes, so that their versions have nothing "
            "to do with each other: whether credentials are the same, which are not shown, can't be told",
            err=True,
        )
    click.echo(render_comparison(compared, options.output))
    click.echo(count_verdicts(compared), err=True)
    return 0 if expected.is_complete and not any(item.is_finding for item in compared) else 1


def _expect(options: _Options, dump: ConfigDump | None) -> _Expected:
    """Find out what the Envoy should have. One that is compared knows itself who it is."""
    who = None if options.policy is not None else _identify(options, dump)
    return _ask_server(options, who) if options.server is not None else _compile(options, who)


def _identify(options: _Options, dump: ConfigDump | None) -> Who | None:
    from xds.cli.expected import Who  # noqa: PLC0415  # to compile takes long to import, and a dump may be only read

    is_free = options.server is not None
    if options.node is not None:
        labels = tuple(sorted(parse_labels(options.labels).items()))
        return Who(node_id=_parse_node(options.node, is_free), labels=labels, service_account=options.service_account)
    if dump is None:
        return None
    if not dump.node_id:
        raise click.UsageError("the Envoy does not say who it is; add --node POD.NAMESPACE")
    return Who(node_id=_parse_node(dump.node_id, is_free), labels=dump.labels, service_account=dump.service_account)


def _parse_node(text: str, is_free: bool) -> NodeId:
    """Read a node id. What a server demands of it, the server says."""
    if not is_free:
        return parse_node_id(text)
    if not text.strip() or not text.isprintable() or "@" in text:
        raise SettingsError(f"--node {quote_value(text)} is no id of a node; give what that Envoy's bootstrap says")
    return NodeId(text)


def _compile(options: _Options, who: Who | None) -> _Expected:
    from xds.cli.expected import Choice, compile_expected  # noqa: PLC0415  # as above
    from xds.cli.world import choose_place  # noqa: PLC0415  # as above

    place = choose_place(
        options.paths, options.settings, resolves=not options.no_resolve, reads_files=not options.no_files
    )
    expected = asyncio.run(compile_expected(place, Choice(who=who, policy=options.policy)))
    if expected.remark:
        click.echo(clean_text(expected.remark), err=True)
    for finding in expected.findings:
        click.echo(style_diagnostic(finding), err=True)
    return _Expected(
        shown=show_compiled(expected.resources, options.wanted),
        is_complete=not any(finding.is_error for finding in expected.findings),
    )


def _ask_server(options: _Options, who: Who | None) -> _Expected:
    from xds.client import Identity, fetch_resources  # noqa: PLC0415  # gRPC, for those who ask a server
    from xds.compile import matcher_messages  # noqa: F401, PLC0415  # registers those that `render` unpacks, too

    server = str(options.server)
    if who is None:
        raise click.UsageError("a server is asked for a pod; add --node POD.NAMESPACE")
    credentials = read_credentials(options.flags, parse_authority(server))
    identity = Identity(
        node_id=who.node_id, labels=who.labels, service_account=who.service_account, cluster=options.node_cluster
    )
    seconds = options.seconds
    with working("asking the server"):
        fetched = asyncio.run(fetch_resources(server, identity, within=seconds, credentials=credentials))
    if fetched.missing:
        names = clean_text(", ".join(fetched.missing))
        click.echo(
            f"{server} did not send within {seconds:g} s what these resources refer to: {names}; "
            "an Envoy would wait for it. See its log, or give it longer: --timeout",
            err=True,
        )
    return _Expected(
        shown=show_compiled(fetched.resources, options.wanted),
        is_complete=not fetched.missing,
        is_delta=fetched.is_delta,
    )


def _report_refusals(refused: Iterable[HeldResource]) -> None:
    for held in refused:
        if held.refusal is not None:
            version = f" in version {held.refusal.version}" if held.refusal.version else ""
            text = f"refused by this Envoy: {held.kind} {held.name}{version}: {held.refusal.text}"
            click.echo(clean_text(text), err=True)
