"""`xds explain`: what a diagnostic's code means."""

from __future__ import annotations

import textwrap

import click

from xds.catalogue import CATALOGUE, RETIRED
from xds.cli.output import render_table

_WIDTH = 100
_SUGGESTIONS = 3
_MEANINGFUL = 3
"""Characters that two codes share if they are of one kind: `EX` and a digit."""


@click.command(name="explain", epilog="Example: xds explain EX101. Findings come from: xds validate DIR.")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Tell more about the diagnostic CODE; without one, list them all."""
    if code is None:
        rows = [(entry.code, entry.severity.value, entry.title) for entry in CATALOGUE.values()]
        click.echo(render_table(("CODE", "SEVERITY", "TITLE"), rows))
        return
    click.echo(render_entry(code))


def render_entry(code: str) -> str:
    """Return the catalogue's entry of `code`, in any case. Raises click.UsageError for a code that there is not."""
    upper = code.upper()
    if upper in RETIRED:
        return f"{upper} was produced by older versions only."
    entry = CATALOGUE.get(upper)
    if entry is None:
        raise click.UsageError(f"there is no code {code}; {_suggest(upper)}all of them: xds explain")
    return f"{entry.code} ({entry.severity.value}): {entry.title}\n\n{textwrap.fill(entry.explanation, _WIDTH)}"


def _suggest(code: str) -> str:
    """Name the codes that begin like `code`: the leading digit is the kind of finding."""
    for length in range(len(code), _MEANINGFUL - 1, -1):
        close = [f"{known} ({entry.title})" for known, entry in CATALOGUE.items() if known.startswith(code[:length])]
        if close:
            return f"did you mean {' or '.join(close[:_SUGGESTIONS])}? Or "
    return ""
