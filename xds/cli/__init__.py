"""
The `xds` command: one module per verb; each parses, calls one function and prints.

Verbs are imported when they are called, so `xds --help` is quick and `xds validate` needs no gRPC. Data goes to
stdout, talk to stderr. Exit codes: 0 fine, 1 findings or a failure, 2 usage, 3 unreachable, 130 interrupted, 141 the
reader of the output went away. `run_command` is the one place that decides them.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from contextlib import contextmanager, suppress
from keyword import iskeyword
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from xds.errors import EgressXdsError, clean_lines, redact_logins

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERBS = {
    "serve": "Serve policies to Envoys.",
    "validate": "Check policy documents.",
    "explain": "Say which way a connection goes, and why.",
    "diff": "Show what other policies would change.",
    "status": "Show every sidecar and what it runs.",
    "dump": "Show the resources that Envoys get.",
    "import": "Make a policy of other configuration.",
    "collect": "Write a support bundle without secrets.",
    "schema": "Print the JSON Schema of policy documents.",
    "bootstrap": "Print the bootstrap of one Envoy.",
    "inject": "Give the pods of manifests their sidecars.",
    "capture": "Print, apply or remove the capture rules.",
    "trust": "Write whom applications trust.",
    "completion": "Print the completion script of a shell.",
    "demo": "Show the main job, end to end.",
}
"""Each verb, in the order of the help, is `command` in the module of its name (`import_`, since that is a keyword)."""

FAILED = 1
INTERRUPTED = 130
READER_GONE = 141
"""As for any program that SIGPIPE ends: a pipe must not turn findings that nobody saw into a 0."""

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
"""What a write to stdout fails with, whoever writes; any other OSError that gets this far is a bug."""


class LazyGroup(click.Group):
    """A group whose verbs are imported when they are called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options of the group, of which one prints its help."""
        with _reader_may_leave():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb."""
        with _reader_may_leave():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the verbs in the order in which one meets them."""
        return list(VERBS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb. A word that is none is wrong usage, and the closest verb is named."""
        word = args[0]
        if word not in VERBS and not word.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches  # noqa: PLC0415  # who knows the verbs need not wait for it

            close = get_close_matches(word, VERBS, n=1)
            ctx.fail(f"there is no verb {word}; {f'did you mean {close[0]}? ' if close else ''}See: xds --help")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """Import the module of a verb."""
        if cmd_name not in VERBS:
            return None
        module = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command = importlib.import_module(f"xds.cli.{module}").command
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Complete a verb without importing one."""
        verbs = [CompletionItem(verb, help=text) for verb, text in VERBS.items() if verb.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # as above
        """List the verbs without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    """Print the version and end."""
    if not is_wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  # slow, and seldom wanted

    try:
        found = version("egress-xds")
    except PackageNotFoundError:
        found = "unknown (not installed)"
    click.echo(f"xds, version {found}")
    ctx.exit()


@click.group(
    name="xds",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: xds validate DIR, then xds serve DIR.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
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
        _say(_render_usage_error(error))
        return error.exit_code
    except EgressXdsError as error:
        _say(f"xds: {error}\n")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _say(f"xds: the output can't be written: {error.strerror}; write it to a place with room\n")
        _drop_output()
        return FAILED
    return outcome if isinstance(outcome, int) else 0


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """End with the exit code of a closed pipe; click has one of its own for it, which says that something failed."""
    try:
        yield
    except BrokenPipeError as error:
        _drop_output()
        raise click.exceptions.Exit(READER_GONE) from error


def _render_usage_error(error: click.ClickException) -> str:
    """Return what click says about wrong usage; it repeats what was typed, which may hold a login."""
    said = io.StringIO()
    error.show(file=said)
    return clean_lines(redact_logins(said.getvalue()))


def _say(text: str) -> None:
    """Write to stderr; where that is full or gone, there is nobody left to tell."""
    with suppress(OSError):
        click.echo(text, err=True, nl=False)


def _drop_output() -> None:
    """Send what is still buffered to nowhere: Python flushes once more at exit, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # a stream that was closed before the start is None
            os.dup2(nowhere, stream.fileno())
