"""`xds validate`: check documents as the server would read and compile them, without a network."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from xds.cli.logs import configure_logging
from xds.cli.output import count_of, describe_diagnostic, render_json, style_diagnostic
from xds.cli.places import PATH, check_policies
from xds.diagnostics import Diagnostic, Where
from xds.errors import SourceError
from xds.facts import Facts
from xds.judge import UNREADABLE, Judge, SourceRead
from xds.settings import load_settings
from xds.sources.directory import read_documents
from xds.sources.files import read_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from xds.judge import Judgement


@click.command(
    name="validate",
    epilog="Exit code: 0 if the documents are good (warnings are), 1 with errors, 2 for wrong usage or a PATH that "
    "can't be read. With -o json stdout is JSON for 0 and 1, and for such a PATH, too; about wrong usage there is "
    "only a message on stderr. "
    "Example: xds validate deploy/policies. About a code: xds explain EX101.",
)
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Form of the findings.")
@click.option("--no-files", is_flag=True, help="Leave out the files that policies name: they are on another machine.")
@click.pass_context
def command(ctx: click.Context, /, *, paths: tuple[Path, ...], output: str, no_files: bool) -> None:
    """
    Check the policy documents in every PATH: directories, or single files.

    All paths together are checked as one set, so a name that two of them use is found. The documents are compiled
    too, as `xds serve` would, with the logins and certificates in the files that they name.
    """
    configure_logging(load_settings({}))
    try:
        read = read_all(paths)
    except SourceError as error:
        if output == "json":
            click.echo(render_json(_describe_refusal(error, paths)))
        raise
    judge = Judge()
    results = judge.parse(read)
    files = {} if no_files else read_files(judge.files(results))
    judgement = judge.judge(results, Facts(files=files, reads_files=not no_files, now=time.time()))
    errors = sum(finding.is_error for finding in judgement.diagnostics)
    if output == "json":
        click.echo(render_json(_describe(judgement, errors)))
    else:
        for finding in judgement.diagnostics:
            click.echo(style_diagnostic(finding))
    click.echo(_summarise(judgement, errors), err=True)
    ctx.exit(1 if errors else 0)


def read_all(paths: Iterable[Path]) -> SourceRead:
    """
    Read every path once, however it is spelled.

    Raises SourceError if one is missing, or if there is not a single document.
    """
    places = list({_identity(path): path for path in paths}.values())
    for place in places:
        check_policies(place)
    reads = [read_documents(path) for path in places]
    documents = {_identity(document.source): document for read in reads for document in read.documents}
    unreadable = {finding.where.source: finding for read in reads for finding in read.unreadable}
    if not documents and not unreadable:
        where = ", ".join(map(str, places))
        raise SourceError(f"{where} holds no policy document; documents are files named *.yaml or *.yml")
    return SourceRead(tuple(documents.values()), tuple(unreadable.values()))


def _identity(path: Path | str) -> str:
    """Return where a path really leads; `Path.resolve` would raise for a link that leads to itself (Python < 3.13)."""
    return os.path.realpath(path)


def _describe_refusal(error: SourceError, paths: Iterable[Path]) -> dict[str, object]:
    """Say that nothing could be read, in the form of the findings. A message is its cause, `;` and its remedy."""
    message, _, hint = str(error).partition("; ")
    source = next((str(path) for path in paths if message.startswith(str(path))), "")
    finding = Diagnostic(UNREADABLE, Where(source), message, hint)
    return {"documents": 0, "policies": 0, "errors": 1, "warnings": 0, "diagnostics": [describe_diagnostic(finding)]}


def _describe(judgement: Judgement, errors: int) -> dict[str, object]:
    return {
        "documents": len(judgement.documents),
        "policies": len(judgement.served),
        "errors": errors,
        "warnings": len(judgement.diagnostics) - errors,
        "diagnostics": [describe_diagnostic(finding) for finding in judgement.diagnostics],
    }


def _summarise(judgement: Judgement, errors: int) -> str:
    found = f"{count_of(errors, 'error')}, {count_of(len(judgement.diagnostics) - errors, 'warning')}"
    text = (
        f"{count_of(len(judgement.documents), 'document')}: {count_of(len(judgement.served), 'good policy')}, {found}"
    )
    if not judgement.diagnostics:
        return text
    code = min(judgement.diagnostics, key=lambda finding: not finding.is_error).code
    return f"{text}. More about a code: xds explain {code}"
