"""`xds status`: every sidecar, the replica that it is connected to, its policy, and whether it is current."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn, Protocol

import click

from xds.cli.options import render_epilog
from xds.cli.output import render_json
from xds.cli.progress import working
from xds.errors import SettingsError, UnreachableError, clean_text
from xds.flags import parse_host_port, parse_seconds
from xds.inspection.fleet import Answer, Change, Filter, find_changes, put_together, remember
from xds.settings import DEFAULT_ADMIN, load_operator_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from xds.inspection.fleet import Fleet
    from xds.settings import Settings

    Look = Callable[[], Awaitable[Fleet]]

FINDINGS, UNREACHABLE = 1, 3

_LISTING = 10.0
"""Seconds for which a list of pods is good enough, as long as none of them is missing."""
_HOME, _LINE_END, _REST = "\x1b[H", "\x1b[K\n", "\x1b[J"
"""Go to the first line; end a line and clear what was behind it; clear what is below."""


@click.command(
    name="status",
    epilog=render_epilog(
        "xds status",
        "xds status web-0.shop --admin 127.0.0.1:18001",
        "xds status --kubernetes --namespace egress-system --problems",
        "xds status --watch",
        codes="0 if every sidecar is current, 1 if one is not or is not found, 2 for wrong usage, 3 if a replica does "
        "not answer; what the others say is shown.",
    ),
)
@click.argument("nodes", metavar="[NODE]…", nargs=-1)
@click.option(
    "--admin",
    "addresses",
    multiple=True,
    metavar="HOST:PORT",
    help=f"The --admin-listen of a replica; repeatable.  [default: {DEFAULT_ADMIN}]",
)
@click.option(
    "--admin-port",
    type=click.IntRange(1, 65_535),
    default=DEFAULT_ADMIN.port,
    show_default=True,
    help="The same in the pods of replicas, with --kubernetes.",
)
@click.option("--policy", "policies", multiple=True, metavar="[NAMESPACE/]NAME", help="Only those of it; repeatable.")
@click.option("--problems", is_flag=True, help="Only those that are not current.")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json"]), default="table", help="Form.")
@click.option("-w", "--watch", is_flag=True, help="Look again and again; off a terminal, print what changes.")
@click.option("--interval", default="2s", show_default=True, metavar="DURATION", help="From one look to the next.")
@click.option("--timeout", default="10s", show_default=True, metavar="DURATION", help="How long a replica may take.")
@click.option(
    "--kubernetes",
    flag_value="on",
    default=None,
    help="Find the replicas in a cluster, and forward their ports.  [EGRESS_XDS_KUBERNETES]",
)
@click.option(
    "--kubeconfig",
    metavar="FILE",
    help="How to reach its API server; default: as kubectl does.  [EGRESS_XDS_KUBECONFIG]",
)
@click.option("--context", metavar="NAME", help="The context of the kubeconfig.  [EGRESS_XDS_CONTEXT]")
@click.option(
    "--namespace",
    metavar="NAME",
    help="Where the control plane runs; default outside of it: egress-system.  [EGRESS_XDS_NAMESPACE]",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    nodes: tuple[str, ...],
    addresses: tuple[str, ...],
    admin_port: int,
    policies: tuple[str, ...],
    problems: bool,
    output: str,
    watch: bool,
    interval: str,
    timeout: str,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """
    Show every sidecar, and whether it runs what it is to run.

    NODE is the id of one, POD.NAMESPACE; * stands for any characters. All replicas have to be asked, for a sidecar is
    connected to one of them: name each with --admin, or have them found in a cluster. There, pods with a sidecar
    that is not connected are shown, too. Columns of types show that the newest version runs, or the version sent and
    the one acknowledged, or the one that was refused.
    """
    question = _Question(
        wanted=Filter(nodes=nodes, policies=policies, problems_only=problems),
        addresses=addresses,
        port=admin_port,
        within=_seconds(timeout, "--timeout"),
    )
    settings = load_operator_settings(flags)
    if settings.kubernetes and addresses:
        raise click.UsageError("give either --admin, or --kubernetes, which finds the replicas itself")
    pause = _seconds(interval, "--interval")
    if watch:
        asyncio.run(_watch(question, settings, output, pause))
    fleet = asyncio.run(_look_once(question, settings))
    _show(fleet, output)
    ctx.exit(UNREACHABLE if fleet.problems else 0 if fleet.is_current else FINDINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    wanted: Filter
    addresses: tuple[str, ...]
    port: int
    within: float


class _Replicas(Protocol):
    """Where replicas are."""

    problems: Mapping[str, str]

    async def find(self) -> Mapping[str, str]: ...

    def problem_of(self, name: str) -> str: ...

    async def expected(self) -> frozenset[str] | None: ...


class _Addresses:
    """Replicas at addresses that somebody gave; which sidecars there should be, nobody knows."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.problems: Mapping[str, str] = {}
        self._found = {address: address for address in addresses}

    async def find(self) -> Mapping[str, str]:
        return self._found

    def problem_of(self, name: str) -> str:  # noqa: ARG002  # the way there is no other than the address
        return ""

    async def expected(self) -> frozenset[str] | None:
        return None


def _seconds(text: str, flag: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=flag) from error


async def _look_once(question: _Question, settings: Settings) -> Fleet:
    with working("asking the replicas"):
        async with _open(question, settings) as look:
            return await look()


@asynccontextmanager
async def _open(question: _Question, settings: Settings) -> AsyncIterator[Look]:
    """Open the way to the replicas. Raises SettingsError and UnreachableError, as does the look."""
    from xds.inspection.client_status import StatusReader  # noqa: PLC0415  # gRPC takes its time

    async with _open_replicas(question, settings) as replicas, StatusReader(question.wanted.prefixes) as reader:
        expectation = _Expectation(replicas)
        connected: list[str] = []

        async def look() -> Fleet:
            found = await replicas.find()
            answers = [
                replace(answer, problem=replicas.problem_of(answer.replica) or answer.problem)
                if answer.problem
                else answer
                for answer in await reader.ask(found, within=question.within)
            ]
            answers += (Answer(replica=name, problem=problem) for name, problem in replicas.problems.items())
            expected = await expectation.ask(frozenset(side.node for answer in answers for side in answer.sidecars))
            answers.sort(key=lambda answer: answer.replica)
            fleet = put_together(tuple(answers), expected, question.wanted, expectation.notes, connected=connected)
            if not fleet.missing or connected or not question.wanted.prefixes:
                return fleet
            # Only those were asked for that begin alike: once, all are, to name some of them.
            async with StatusReader() as everybody:
                everyone = await everybody.ask(found, within=question.within)
            connected.extend(side.node for answer in everyone for side in answer.sidecars)
            return put_together(tuple(answers), expected, question.wanted, expectation.notes, connected=connected)

        yield look


class _Expectation:
    """Which sidecars there should be: asked anew when one of them is missing, for it may be gone by now."""

    def __init__(self, replicas: _Replicas) -> None:
        self._replicas = replicas
        self._known: frozenset[str] | None = None
        self._until = 0.0
        self.notes: tuple[str, ...] = ()

    async def ask(self, connected: frozenset[str]) -> frozenset[str] | None:
        if self._known is not None and self._known <= connected and time.monotonic() < self._until:
            return self._known
        if not self.notes:
            try:
                self._known = await self._replicas.expected()
            except UnreachableError as error:
                self._known, self.notes = None, (f"which sidecars are offline is not known: {error}",)
        self._until = time.monotonic() + _LISTING
        return self._known


@asynccontextmanager
async def _open_replicas(question: _Question, settings: Settings) -> AsyncIterator[_Replicas]:
    if not settings.kubernetes:
        given = question.addresses or (str(settings.admin_listen or DEFAULT_ADMIN),)
        yield _Addresses(tuple(map(_address, given)))
        return
    try:
        from xds.kubernetes.connection import connect  # noqa: PLC0415  # an optional dependency, and a heavy one
        from xds.kubernetes.control_planes import ControlPlanes  # noqa: PLC0415  # as above
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--kubernetes needs the package {error.name}; install it: pip install '.[kubernetes]'"
        ) from error
    api = await connect(settings.kubeconfig, settings.context)
    try:
        async with ControlPlanes(api, settings.namespace or api.namespace, question.port) as replicas:
            yield replicas
    finally:
        await api.close()


def _address(text: str) -> str:
    try:
        return str(parse_host_port(text, lowest=1))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--admin") from error


def _show(fleet: Fleet, output: str) -> None:
    from xds.cli.fleet_text import describe_fleet, render_table, summarise  # noqa: PLC0415  # after the answer

    if output == "json":
        click.echo(render_json(describe_fleet(fleet, time.time())))
    elif fleet.sidecars:
        _write(render_table(fleet, time.time(), is_wide=output == "wide"))
    _tell(fleet)
    click.echo(summarise(fleet), err=True)


def _tell(fleet: Fleet) -> None:
    """Say what is not known."""
    for text in fleet.told:
        click.echo(f"{click.style('warning', fg='yellow', bold=True)}: {clean_text(text)}", err=True)


def _write(text: str) -> None:
    from xds.cli.fleet_text import in_ascii  # noqa: PLC0415  # after the answer

    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = in_ascii(text)
    click.echo(text)


class _Display(Protocol):
    """Shows one moment after the other."""

    def show(self, fleet: Fleet) -> None: ...

    def complain(self, problem: str) -> None: ...


class _Screen:
    """A terminal: the table is drawn anew, from its first line on, as far as there is room."""

    def __init__(self, *, is_wide: bool) -> None:
        self._is_wide = is_wide
        click.clear()

    def show(self, fleet: Fleet) -> None:
        from xds.cli.fleet_text import render_table, summarise  # noqa: PLC0415  # after the answer

        table = render_table(fleet, time.time(), is_wide=self._is_wide)
        warnings = [click.style(clean_text(f"warning: {text}"), fg="yellow") for text in fleet.told]
        self._draw([f"{time.strftime('%X')}  {summarise(fleet)}", *warnings, "", *table.split("\n")])

    def complain(self, problem: str) -> None:
        self._draw([f"{time.strftime('%X')}  {click.style(clean_text(problem), fg='red')}"])

    def _draw(self, lines: list[str]) -> None:
        room = shutil.get_terminal_size().lines - 1
        if len(lines) > room:
            hidden = len(lines) - room + 1
            lines = [*lines[: room - 1], click.style(f"… and {hidden} more lines; narrow it: --problems", dim=True)]
        _write(_HOME + _LINE_END.join(lines) + _LINE_END.removesuffix("\n") + _REST)


class _Lines:
    """Anything else: what there is at first, and then a line for each change."""

    def __init__(self, *, is_json: bool, is_wide: bool) -> None:
        self._is_json, self._is_wide = is_json, is_wide
        self._last: Fleet | None = None
        self._told: tuple[str, ...] = ()

    def show(self, fleet: Fleet) -> None:
        before, self._last = self._last, fleet
        if before is not None:
            self._last = remember(before, fleet)
            self._print(find_changes(before, self._last))
        elif self._is_json:
            self._print(tuple(Change(None, sidecar) for sidecar in fleet.sidecars))
        else:
            _show(fleet, "wide" if self._is_wide else "table")
            self._told = fleet.told
        told = fleet.told
        if told != self._told:
            self._told = told
            _tell(fleet)
        sys.stdout.flush()

    def complain(self, problem: str) -> None:
        if self._told != (problem,):
            self._told = (problem,)
            click.echo(f"{click.style('warning', fg='yellow', bold=True)}: {clean_text(problem)}", err=True)

    def _print(self, changes: tuple[Change, ...]) -> None:
        from xds.cli.fleet_text import describe_change, render_change  # noqa: PLC0415  # after the answer

        for change in changes:
            if self._is_json:
                click.echo(render_json(describe_change(change, time.time()), indent=None))
            else:
                _write(f"{time.strftime('%X')}  {render_change(change)}")


def _choose_display(output: str) -> _Display:
    is_wide = output == "wide"
    if output != "json" and sys.stdout.isatty():
        return _Screen(is_wide=is_wide)
    return _Lines(is_json=output == "json", is_wide=is_wide)


async def _watch(question: _Question, settings: Settings, output: str, pause: float) -> NoReturn:
    """Look and show until interrupted. Raises SettingsError and UnreachableError for the first look."""
    async with _open(question, settings) as look:
        fleet = await look()
        display = _choose_display(output)
        while True:
            display.show(fleet)
            while True:
                await asyncio.sleep(pause)
                try:
                    fleet = await look()
                except UnreachableError as error:
                    display.complain(str(error))
                else:
                    break
