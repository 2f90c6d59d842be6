"""`xds completion`: the script that has a shell complete verbs, options and paths."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from xds.cli.options import render_epilog

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_XDS_COMPLETE"
"""How the script asks this program what may follow."""


@click.command(
    name="completion",
    epilog=render_epilog(
        'eval "$(xds completion bash)"',
        'eval "$(xds completion zsh)"',
        "xds completion fish > ~/.config/fish/completions/xds.fish",
    ),
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL."""
    found = get_completion_class(shell)
    assert found is not None, "each of the choices has one"
    script = found(ctx.find_root().command, {}, "xds", _VARIABLE)
    click.echo(script.source_template % script.source_vars(), nl=False)
