"""`xds collect`: a support bundle, all that somebody needs who can't look himself, without secrets."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.cli.bundle import Bundle, check_target, write_archive
from xds.cli.documents import STDIN, read_piped
from xds.cli.options import render_epilog, world_options
from xds.cli.output import count_of, render_table
from xds.cli.places import PATH, check_there
from xds.cli.progress import working
from xds.errors import clean_text
from xds.flags import parse_host_port, parse_seconds
from xds.settings import DEFAULT_ADMIN, DEFAULT_HTTP, load_operator_settings

if TYPE_CHECKING:
    from xds.judge import SourceRead
    from xds.settings import Settings

_NAME = "egress-xds-%Y%m%dT%H%M%SZ.tar.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be collected."""

    settings: Settings
    paths: tuple[Path, ...]
    admins: tuple[str, ...]
    pages: tuple[str, ...]
    admin_port: int
    page_port: int
    envoys: tuple[str, ...]
    dumps: tuple[Path, ...]
    captures: bool
    """Whether the kernel's capture rules are wanted."""
    resolves: bool
    reads_files: bool
    within: float
    """Seconds that one answer may take."""
    piped: SourceRead | None = field(default=None, repr=False)
    """What was piped in, if one of the paths is stdin."""


@click.command(
    name="collect",
    epilog=render_epilog(
        "xds collect deploy/policies --envoy 127.0.0.1:15000",
        "xds collect --kubernetes --namespace egress-system -o bundle.tar.gz",
        codes="0 if everything was had, 1 if something is missing (problems.txt in the bundle lists it), 2 for "
        "wrong usage. The path of the bundle is on stdout.",
    ),
)
@click.argument("paths", metavar="[PATH…]", nargs=-1, type=PATH)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The bundle.  [default: egress-xds-….tar.gz]",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--admin", "admins", multiple=True, metavar="HOST:PORT", help="--admin-listen of a replica; repeatable.")
@click.option("--http", "pages", multiple=True, metavar="HOST:PORT", help="--http-listen of a replica; repeatable.")
@click.option("--admin-port", type=click.IntRange(1, 65535), default=DEFAULT_ADMIN.port, help="In pods of replicas.")
@click.option("--http-port", type=click.IntRange(1, 65535), default=DEFAULT_HTTP.port, help="In pods of replicas.")
@click.option(
    "--envoy", "envoys", multiple=True, metavar="HOST:PORT|SOCKET", help="An Envoy's admin interface; repeatable."
)
@click.option(
    "--config-dump", "dumps", multiple=True, type=PATH, metavar="FILE", help="What an Envoy answered; repeatable."
)
@click.option("--capture", is_flag=True, help="Keep the capture rules of this network namespace, too.")
@click.option("--timeout", default="10s", show_default=True, metavar="DURATION", help="How long an answer may take.")
@click.option("--no-resolve", is_flag=True, help="Look up no names of proxies.")
@click.option("--no-files", is_flag=True, help="Leave out the files that policies name: they are on another machine.")
@world_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    paths: tuple[Path, ...],
    output: Path | None,
    force: bool,
    admins: tuple[str, ...],
    pages: tuple[str, ...],
    admin_port: int,
    http_port: int,
    envoys: tuple[str, ...],
    dumps: tuple[Path, ...],
    capture: bool,
    timeout: str,
    no_resolve: bool,
    no_files: bool,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """
    Write a support bundle without secrets.

    It holds versions, settings, policies and what they compile to, findings, the status of sidecars, metrics, and what
    Envoys tell of themselves. Logins, keys and what looks like one are replaced; have a look before you pass it on.
    """
    settings = load_operator_settings(flags)
    if settings.kubernetes and (paths or admins or pages):
        raise click.UsageError("give either --kubernetes, or PATHs, --admin and --http")
    now = time.time()
    target = output or Path(time.strftime(_NAME, time.gmtime(now)))
    check_target(target, is_forced=force)
    for path in paths:
        if path != STDIN:
            check_there(path)
    request = Request(
        settings=settings,
        paths=paths,
        admins=tuple(_address(text, "--admin") for text in admins) or _default(settings.admin_listen or DEFAULT_ADMIN),
        pages=tuple(_address(text, "--http") for text in pages) or _default(settings.http_listen or DEFAULT_HTTP),
        admin_port=admin_port,
        page_port=http_port,
        envoys=envoys,
        dumps=dumps,
        captures=capture,
        resolves=not no_resolve,
        reads_files=not no_files,
        within=_seconds(timeout),
        piped=read_piped(paths),
    )
    bundle = Bundle(taken=now)
    # What collects knows Envoy's messages and gRPC, which a mistake in the usage need not wait for.
    from xds.cli.parts import collect  # noqa: PLC0415  # as said

    with working("collecting"):
        asyncio.run(collect(request, bundle))
    write_archive(target, bundle.archive(), is_forced=force)
    click.echo(_render(bundle), err=True)
    click.echo(str(target))
    ctx.exit(1 if bundle.problems else 0)


def _default(address: object) -> tuple[str, ...]:
    return (str(address),)


def _address(text: str, flag: str) -> str:
    try:
        return str(parse_host_port(text, lowest=1))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=flag) from error


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from error


def _render(bundle: Bundle) -> str:
    """Say what is in a bundle, and what is not."""
    sizes: dict[str, tuple[int, int]] = {}
    for name, content in bundle.members().items():
        part = name.partition("/")[0]
        files, size = sizes.get(part, (0, 0))
        sizes[part] = files + 1, size + len(content)
    rows = [(part, str(files), str(size)) for part, (files, size) in sorted(sizes.items())]
    missing = [click.style(clean_text(f"missing: {item.part}: {item.text}"), fg="yellow") for item in bundle.problems]
    total = f"{count_of(len(bundle.problems), 'part')} missing" if missing else "nothing is missing"
    return "\n".join([render_table(("PART", "FILES", "BYTES"), rows), *missing, total])
