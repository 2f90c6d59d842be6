"""`xds diff`: what other policies would change, for whom, and which open connections that would touch."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import click

from xds.cli.documents import Gathered, Standing, read_piped, read_policies
from xds.cli.edits import Edit, EditKind, apply_edits, rename
from xds.cli.options import render_epilog, world_options
from xds.cli.output import render_json
from xds.cli.places import PATH, check_policies
from xds.cli.progress import working
from xds.cli.world import choose_place, open_world
from xds.judge import Judge, SourceRead
from xds.policy.config_maps import object_of
from xds.settings import load_operator_settings

if TYPE_CHECKING:
    from xds.cli.world import OpenWorld
    from xds.facts import Facts
    from xds.judge import Judgement
    from xds.policy.parse import Document

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class _Versions:
    """What is there, and what would be."""

    before: SourceRead
    after: SourceRead
    edits: tuple[Edit, ...]
    gathered: Gathered
    """Where the new documents were read."""


@click.command(
    name="diff",
    epilog=render_epilog(
        "xds diff -f corp.yaml deploy/policies",
        "kubectl kustomize deploy | xds diff -f - --kubernetes",
        "xds diff main/policies branch/policies",
        codes="0 if nothing changes for any pod, 1 if something does or a new document has an error, 2 for wrong "
        "usage, 3 if the cluster can't be read.",
    ),
)
@click.argument("paths", metavar="[PATH…]", nargs=-1, type=PATH)
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    type=PATH,
    metavar="NEW",
    help="A document, a ConfigMap's manifest, a directory of them, or - for stdin, that would be applied; repeatable.",
)
@click.option(
    "--remove",
    "removals",
    multiple=True,
    metavar="NAME",
    help="A document that would be removed: its file name, or [NAMESPACE/]CONFIGMAP[/KEY]; repeatable.",
)
@click.option("--resources", is_flag=True, help="Show what changes within each resource, as YAML.")
@click.option(
    "--limit",
    default=10,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Lines of each list; JSON has all.",
)
@click.option("--no-resolve", is_flag=True, help="Look up no names of proxies.")
@click.option("--no-files", is_flag=True, help="Leave out the files that policies name: they are on another machine.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Form.")
@world_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    files: tuple[Path, ...],
    removals: tuple[str, ...],
    resources: bool,
    limit: int,
    no_resolve: bool,
    no_files: bool,
    output: str,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """
    Show what would change if the documents of -f were applied to those of PATH or of the cluster, or what differs
    between two PATHs.

    A document takes the place of the one of the same file name, or else of the one with the same policies; a ConfigMap
    of that of the same name. Nothing is written anywhere.
    """  # noqa: D205  # click makes one paragraph of it
    settings = load_operator_settings(flags)
    is_pair = not files and not removals
    if is_pair and (settings.kubernetes or len(paths) != len(("before", "after"))):
        raise click.UsageError("give -f NEW or --remove NAME and what they would change, or two PATHs to compare")
    place = choose_place(paths, settings, resolves=not no_resolve, reads_files=not no_files)
    for path in files:
        check_policies(path)
    piped = place.piped or read_piped(files)

    async def run() -> tuple[OpenWorld, _Versions, Judgement, Judgement]:
        async with open_world(place) as world:
            versions = _compare_paths(paths, piped) if is_pair else _edit(world, files, removals, piped)
            facts = await _collect(world, versions)
            with working("comparing"):
                before, after_judgement = await asyncio.to_thread(_judge, versions, facts)
            return replace(world, pods=dict(world.pods)), versions, before, after_judgement

    world, versions, before, after = asyncio.run(run())
    # What describes worlds knows Envoy's messages, which a mistake in the usage need not wait for.
    from xds.cli.diff_report import Report, describe  # noqa: PLC0415  # as said
    from xds.cli.diff_text import render  # noqa: PLC0415  # as said

    with working("comparing decisions"):
        report = Report.build(world, versions.edits, before, after, versions.gathered)
    if output == "json":
        click.echo(render_json(describe(report, shows_resources=resources)))
    else:
        for line in render(report, limit=limit, shows_resources=resources):
            click.echo(line)
    ctx.exit(1 if report.change or report.errors else 0)


def _edit(world: OpenWorld, files: tuple[Path, ...], removals: tuple[str, ...], piped: SourceRead | None) -> _Versions:
    """Return what is there, and what would be. Raises SourceError."""
    standing = Standing(home=world.home) if world.home else Standing()
    gathered = read_policies(files, standing, piped=piped) if files else Gathered(SourceRead(()))
    now = time.strftime(_FORMAT, time.gmtime())
    after, edits = apply_edits(world.read, gathered.read.documents, removals, home=world.home, now=now)
    after = replace(after, unreadable=(*after.unreadable, *gathered.read.unreadable))
    return _Versions(world.read, after, edits, gathered)


def _compare_paths(paths: tuple[Path, ...], piped: SourceRead | None) -> _Versions:
    """Take two paths for versions of the same place: a file replaces that of the same name. Raises SourceError."""
    gathered = [read_policies((path,), piped=piped) for path in paths]
    before, after = (item.read for item in gathered)
    if len(before.documents) == len(after.documents) == 1:
        (old,), (new,) = before.documents, after.documents
        is_other = old.text != new.text
        return _Versions(before, after, (Edit(EditKind.REPLACED, new.source, old),) * is_other, gathered[1])
    known = {_name(document): document for document in before.documents}
    edits = []
    for document in after.documents:
        old_one = known.pop(_name(document), None)
        if old_one is None or old_one.text != document.text:
            kind = EditKind.ADDED if old_one is None else EditKind.REPLACED
            edits.append(Edit(kind, document.source, old_one))
    edits += [Edit(EditKind.REMOVED, document.source, document) for document in known.values()]
    return _Versions(before, after, tuple(edits), gathered[1])


def _name(document: Document) -> str:
    """Return what tells a document from others of its path: its file's name, or the ConfigMap and key."""
    return PurePath(document.source).name if object_of(document.source) is None else document.source


async def _collect(world: OpenWorld, versions: _Versions) -> Facts:
    """Collect the facts that both versions need at one moment, or what moved meanwhile would show as a change."""
    known = set(versions.after.documents)
    old = [replace(item, source=f"{item.source}.before") for item in versions.before.documents if item not in known]
    _, facts = await world.judge(SourceRead((*versions.after.documents, *old)), builds=False)
    return facts


def _judge(versions: _Versions, facts: Facts) -> tuple[Judgement, Judgement]:
    """Judge both versions, the second as a server would that served the first: what was good stays in force."""
    judge = Judge()
    before = judge.judge(judge.parse(versions.before), facts)
    after = judge.judge(judge.parse(versions.after), facts)
    if all(state.is_good for state in after.documents):
        return before, after
    remembering = Judge()
    known = rename(versions.before, versions.edits)
    remembering.judge(remembering.parse(known), facts)
    return before, remembering.judge(remembering.parse(versions.after), facts)
