"""`xds explain`: what a diagnostic's code means."""

from __future__ import annotations

import textwrap
from difflib import get_close_matches

import click

from xds.cli.output import render_table
from xds.diagnostics import CATALOGUE, RETIRED

_WIDTH = 100


@click.command(name="explain", epilog="Example: xds explain EX101. Findings come from: xds validate DIR.")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Tell more about the diagnostic CODE; without one, list them all."""
    if code is None:
        rows = [(entry.code, entry.severity.value, entry.title) for entry in CATALOGUE.values()]
        click.echo(render_table(("CODE", "SEVERITY", "TITLE"), rows))
        return
    click.echo(render_entry(code.upper()))


def render_entry(code: str) -> str:
    """Return the catalogue's entry of `code`. Raises click.UsageError for a code that there is not."""
    if code in RETIRED:
        return f"{code} was produced by older versions only."
    entry = CATALOGUE.get(code)
    if entry is None:
        close = [known for known in CATALOGUE if known.startswith(code)] or get_close_matches(code, CATALOGUE, cutoff=0)
        raise click.UsageError(f"there is no code {code}; did you mean {close[0]}? All of them: xds explain")
    return f"{entry.code} ({entry.severity.value}): {entry.title}\n\n{textwrap.fill(entry.explanation, _WIDTH)}"
