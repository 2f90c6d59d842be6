"""
The `xds` command: one module per verb; each parses, calls one function and prints.

Verbs are imported when they are called, so `xds --help` is quick and `xds validate` needs no gRPC. Data goes to
stdout, talk to stderr. Exit codes: 0 fine, 1 findings, 2 usage, 3 unreachable, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from xds.errors import EgressXdsError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {
    "serve": "Serve the policies of a directory to Envoys.",
    "validate": "Check policy documents.",
    "dump": "Show the resources that Envoys get.",
    "explain": "Tell more about a diagnostic's code.",
    "schema": "Print the JSON Schema of policy documents.",
    "bootstrap": "Print the bootstrap of one Envoy.",
    "capture": "Print, apply or remove the capture rules.",
    "demo": "Show the main job, end to end.",
}
"""Each verb, in the order of the help, is `command` in the module of its name."""

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose verbs are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the verbs in the order in which one meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """Import the module of a verb."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"xds.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # as above
        """List the verbs without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    name="xds",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: xds validate DIR, then xds serve DIR.",
)
@click.version_option(package_name="egress-xds", prog_name="xds")
def group() -> None:
    """Egress through a corporate CONNECT proxy that applications need not know of."""


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what is no bug is one message on stderr, without a traceback."""
    try:
        outcome = group.main(args=list(arguments), prog_name="xds", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EgressXdsError as error:
        click.echo(f"xds: {error}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has enough. Python would flush stdout once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return outcome if isinstance(outcome, int) else 0
