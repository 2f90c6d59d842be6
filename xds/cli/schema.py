"""`xds schema`: the JSON Schema of policy documents, for editors and linters."""

from __future__ import annotations

import click

from xds.cli.output import render_json
from xds.policy.schema import policy_schema


@click.command(
    name="schema", epilog="Example: xds schema > policy.schema.json. Full check of a document: xds validate."
)
def command() -> None:
    """Print the JSON Schema of policy documents, both forms."""
    click.echo(render_json(policy_schema()))
