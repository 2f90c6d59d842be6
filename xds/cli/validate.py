"""`xds validate`: check documents as the server would read and compile them; without a network, or in a cluster."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.cli.documents import Gathered, Standing, read_policies
from xds.cli.logs import configure_logging
from xds.cli.options import CLUSTER, render_epilog, settings_options
from xds.cli.output import count_of, describe_diagnostic, render_json, style_diagnostic, style_severity
from xds.cli.places import PATH
from xds.diagnostics import Diagnostic, Where
from xds.errors import SourceError, clean_text, quote_value
from xds.facts import Facts
from xds.flags import parse_namespace
from xds.judge import UNREADABLE, Judge
from xds.policy.config_maps import LABEL
from xds.policy.secrets import read_secret_path
from xds.settings import load_operator_settings
from xds.sources.files import read_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.cli.documents import Located
    from xds.judge import Judgement

_MOST_NAMES = 10
_GUTTER = 6
"""Columns for line numbers."""


@click.command(
    name="validate",
    epilog=render_epilog(
        "xds validate deploy/policies",
        "xds validate --kubernetes",
        "kubectl kustomize deploy | xds validate -",
        "xds validate -o sarif policies > xds.sarif",
        codes="0 if the documents are good (warnings are, unless --strict is given), 1 with findings, 2 for wrong "
        "usage or a PATH that can't be read, 3 if the cluster can't. With -o json or sarif stdout is JSON for "
        "0 and 1, with json for such a PATH, too; about wrong usage there is only a message on stderr. About "
        "a code: xds explain EX101.",
    ),
)
@click.argument("paths", metavar="[PATH…]", nargs=-1, type=PATH)
@click.option(
    "-o", "--output", type=click.Choice(["table", "json", "sarif"]), default="table", help="Form of the findings."
)
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@click.option(
    "--no-files",
    is_flag=True,
    help="Leave out files and Secrets that policies name: they are elsewhere, or not to be read by you.",
)
@click.option(
    "--as-configmaps",
    metavar="NAMESPACE",
    help="Judge documents as if they stood in ConfigMaps of this namespace, unless they are and say another.",
)
@settings_options(CLUSTER)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    output: str,
    strict: bool,
    no_files: bool,
    as_configmaps: str | None,
    **flags: str | None,
) -> None:
    """
    Check the policy documents in every PATH: directories, single files, or - for what is piped in.

    All paths together are checked as one set, so a name that two of them use is found. The documents are compiled
    too, as `xds serve` would, with the logins and certificates in the files that they name. Manifests of ConfigMaps
    are read as in a cluster; --namespace says which of them concern all of it. With --kubernetes, and no PATH, it is
    the policies of the cluster that are checked, and the Secrets that they name.
    """
    if flags["kubernetes"] or not paths:
        report = _check_cluster(flags, paths, reads_files=not no_files, as_configmaps=as_configmaps)
    else:
        try:
            report = _check_paths(paths, flags, reads_files=not no_files, as_configmaps=as_configmaps)
        except SourceError as error:
            if output == "json":
                click.echo(render_json(_describe_refusal(error, paths)))
            raise
    _print(report, output)
    failed = report.errors or (strict and report.warnings)
    if left_out := report.gathered.left_out:
        click.echo(_say_left_out(left_out), err=True)
    click.echo(report.summary(), err=True)
    ctx.exit(1 if failed else 0)


def _say_left_out(names: Sequence[str]) -> str:
    shown = ", ".join(map(quote_value, names[:_MOST_NAMES])) + (", …" if len(names) > _MOST_NAMES else "")
    return f"{count_of(len(names), 'ConfigMap')} without the label {LABEL}=true left out: {shown}"


@dataclass(frozen=True, slots=True)
class _Report:
    """What was judged, and where it was read."""

    judgement: Judgement
    gathered: Gathered

    @property
    def findings(self) -> tuple[Diagnostic, ...]:
        """All that was found, by document."""
        return (*self.gathered.findings, *self.judgement.diagnostics)

    @property
    def errors(self) -> int:
        """How many findings keep a document out."""
        return sum(finding.is_error for finding in self.findings)

    @property
    def warnings(self) -> int:
        """How many do not."""
        return len(self.findings) - self.errors

    def located(self) -> list[Located]:
        """Return the findings by file and line."""
        return [self.gathered.locate(finding) for finding in self.findings]

    def summary(self) -> str:
        """Return the last line: how much was judged, and the next command."""
        found = f"{count_of(self.errors, 'error')}, {count_of(self.warnings, 'warning')}"
        documents = count_of(len(self.judgement.documents), "document")
        text = f"{documents}: {count_of(len(self.judgement.served), 'good policy')}, {found}"
        if not self.findings:
            return text
        code = min(self.findings, key=lambda finding: not finding.is_error).code
        return f"{text}. More about a code: xds explain {code}"

    def describe(self) -> dict[str, object]:
        """Return all of it for machines."""
        return {
            "documents": len(self.judgement.documents),
            "policies": len(self.judgement.served),
            "errors": self.errors,
            "warnings": self.warnings,
            "diagnostics": [
                {**describe_diagnostic(item.finding), "document": item.document, "file": item.file}
                for item in self.located()
            ],
        }


def _check_paths(
    paths: Sequence[Path], flags: dict[str, str | None], *, reads_files: bool, as_configmaps: str | None
) -> _Report:
    """Judge what is in files and on stdin. Raises SourceError."""
    for name in ("kubeconfig", "context"):
        if flags[name]:
            raise click.UsageError(f"--{name} means nothing without --kubernetes; add it and leave the paths out")
    configure_logging(load_operator_settings({}))
    for flag, namespace in (("--namespace", flags["namespace"]), ("--as-configmaps", as_configmaps)):
        _check_namespace(flag, namespace or "")
    home = flags["namespace"] or Standing().home
    gathered = read_policies(paths, Standing(home=home, namespace=as_configmaps))
    judge = Judge(builds=False)
    results = judge.parse(gathered.read)
    named = judge.files(results) if reads_files else frozenset()
    files = read_files(path for path in named if read_secret_path(path) is None)
    facts = Facts(files=files, reads_files=reads_files, reads_secrets=False, now=time.time())
    return _Report(judge.judge(results, facts), gathered)


def _check_namespace(flag: str, text: str) -> None:
    try:
        parse_namespace(text)
    except ValueError as error:
        raise click.UsageError(f"{flag} {quote_value(text)}: {error}") from error


def _check_cluster(
    flags: dict[str, str | None], paths: Sequence[Path], *, reads_files: bool, as_configmaps: str | None
) -> _Report:
    """Judge what is in a cluster. Raises SettingsError and UnreachableError."""
    settings = load_operator_settings(flags)
    if paths or not settings.kubernetes:
        raise click.UsageError("give PATHs (- is stdin), or --kubernetes for the policies of the cluster")
    if as_configmaps is not None:
        raise click.UsageError("--as-configmaps is for documents in PATHs; leave it out, or --kubernetes")
    import asyncio  # noqa: PLC0415  # only a cluster is waited for

    from xds.cli.world import Place, open_world  # noqa: PLC0415  # as above

    async def judge() -> _Report:
        async with open_world(Place(settings=settings, resolves=False, reads_files=reads_files)) as world:
            judgement, _ = await world.judge(builds=False)
            return _Report(judgement, Gathered(world.read))

    return asyncio.run(judge())


def _print(report: _Report, output: str) -> None:
    """Write the findings to stdout."""
    if output == "json":
        click.echo(render_json(report.describe()))
    elif output == "sarif":
        from xds.cli.sarif import render_sarif  # noqa: PLC0415  # seldom wanted

        click.echo(render_json(render_sarif(report.located(), version=_find_version(), directory=Path.cwd())))
    elif _is_terminal():
        _print_groups(report.located())
    else:
        for item in report.located():
            click.echo(style_diagnostic(item.finding))


def _find_version() -> str:
    """Return the version of this program; empty where it runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # as above, and slow

    try:
        return version("egress-xds")
    except PackageNotFoundError:
        return ""


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _print_groups(located: Iterable[Located]) -> None:
    """Write the findings for people, under the names of their files; programs get a line for each instead."""
    for source, items in groupby(located, key=lambda item: item.finding.where.source):
        click.echo(click.style(clean_text(source), underline=True, bold=True))
        for item in items:
            click.echo(_render_for_people(item.finding))
        click.echo()


def _render_for_people(finding: Diagnostic) -> str:
    line = "" if finding.where.line is None else str(finding.where.line)
    key = f"  {click.style(clean_text(finding.where.key), bold=True)}" if finding.where.key else ""
    hint = click.style(f"→ {clean_text(finding.hint)}", dim=True)
    indent = " " * (_GUTTER + 2)
    return f"{line:>{_GUTTER}}  {style_severity(finding)}{key}\n{indent}{clean_text(finding.message)}\n{indent}{hint}"


def _describe_refusal(error: SourceError, paths: Iterable[Path]) -> dict[str, object]:
    """Say that nothing could be read, in the form of the findings. A message is its cause, `;` and its remedy."""
    message, _, hint = str(error).partition("; ")
    source = next((str(path) for path in paths if message.startswith(str(path))), "")
    finding = {
        **describe_diagnostic(Diagnostic(UNREADABLE, Where(source), message, hint)),
        "document": source,
        "file": source or None,
    }
    return {"documents": 0, "policies": 0, "errors": 1, "warnings": 0, "diagnostics": [finding]}
