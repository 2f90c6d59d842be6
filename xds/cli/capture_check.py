"""
`xds capture --check`: look at everything that a capture needs, and say in words what is missing or wrong.

The judgement is `xds.capture.check`; here one looks. Invariant: nothing of this network namespace is changed. Whether
the kernel takes rules is tried with what nft itself only checks, and in a network namespace that is gone afterwards.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.capture import (
    Family,
    Others,
    Seen,
    State,
    check_capture,
    find_nftables,
    has_foreign_tables,
    render_capture,
    render_nftables,
    table_words,
)
from xds.cli.capture_change import USERS
from xds.cli.capture_programs import (
    TIMEOUT,
    Backend,
    LacksRightsError,
    NoSuchTableError,
    find_missing,
    find_program,
    run_nft,
    run_program,
    save_iptables,
)
from xds.cli.capture_wait import ANSWERERS, LISTENERS, read_sockets
from xds.cli.output import count_of, render_json
from xds.errors import CaptureError, clean_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xds.capture import Capture, Check

STATUS = Path("/proc/self/status")
"""With the capabilities of this process (proc_pid_status(5))."""

ADDRESSES = Path("/proc/net/if_inet6")
"""The IPv6 addresses of this network namespace."""

_MARKS = {State.GOOD: ("✓", "green"), State.FINDING: ("✗", "red"), State.UNKNOWN: ("?", "yellow")}


def report_check(tool: Backend | None, capture: Capture, families: Sequence[Family], *, is_json: bool) -> int:
    """Print what was found and return the exit code: 1 if anything is missing, wrong or unknown."""
    checks = check_capture(_look(tool, capture, families), capture, families)
    counts = {state: sum(check.state is state for check in checks) for state in State}
    if is_json:
        described = {
            "checks": [
                {"subject": one.subject, "state": one.state.value, "message": one.message, "remedy": one.remedy}
                for one in checks
            ],
            "findings": counts[State.FINDING],
            "unknown": counts[State.UNKNOWN],
        }
        click.echo(render_json(described))
    else:
        click.echo("\n".join(_render(checks)))
        click.echo(f"{count_of(counts[State.FINDING], 'finding')}, {counts[State.UNKNOWN]} unknown")
    return int(counts[State.GOOD] < len(checks))


def _render(checks: Sequence[Check]) -> list[str]:
    width = max(len(one.subject) for one in checks)
    lines: list[str] = []
    for one in checks:
        mark, colour = _MARKS[one.state]
        lines.append(f"{click.style(mark, fg=colour, bold=True)} {one.subject:{width}}  {clean_text(one.message)}")
        if one.remedy:
            lines.append(f"{'':{width + 4}}→ {clean_text(one.remedy)}")
    return lines


def _look(tool: Backend | None, capture: Capture, families: Sequence[Family]) -> Seen:
    asked = tuple(Backend) if tool is None else (tool,)
    missing = {backend: find_missing(backend, families) for backend in Backend}
    refusals: list[str] = []
    others = look_at_others(families, refusals)
    tables = "" if missing[Backend.NFTABLES] else others.tables
    return Seen(
        status=_read(STATUS),
        uid_map=_read(USERS),
        missing={backend.value: missing[backend] for backend in asked},
        sockets=_read_sockets(LISTENERS),
        answerers=_read_sockets(ANSWERERS),
        iptables=others.iptables,
        raw=others.raw,
        nft_tables=tables,
        ruleset=others.ruleset,
        nftables={family: _list_table(family, tables, refusals) for family in Family},
        addresses=_read(ADDRESSES),
        trials={backend.value: _try(backend, capture, families) for backend in asked if not missing[backend]},
        refusals=tuple(refusals),
    )


def look_at_others(families: Sequence[Family], refusals: list[str] | None = None) -> Others:
    """Look at all rules there are; what is not shown is added to `refusals`."""
    refused = [] if refusals is None else refusals
    nothing: dict[Family, str | None] = dict.fromkeys(Family, "")
    iptables, raw = nothing, nothing
    if not find_missing(Backend.IPTABLES, families):
        iptables = {family: _ask(partial(save_iptables, family), refused) for family in _known()}
        raw = {family: _ask(partial(save_iptables, family, ["raw"]), refused) for family in _known()}
    if find_missing(Backend.NFTABLES, families):
        return Others(iptables, raw, tables=None, ruleset=None)
    tables = _ask(lambda: run_nft(["list", "tables"]), refused)
    # Others' rules may be more than this nft can put into JSON, which says nothing about the rights.
    ruleset = (
        _ask(lambda: run_nft(["-j", "list", "ruleset"]), []) if has_foreign_tables(tables or "") else tables and ""
    )
    return Others(iptables, raw, tables, ruleset)


def _known() -> list[Family]:
    """Return the families that the kernel knows."""
    return [family for family in Family if LISTENERS[family].exists()]


def _ask(ask: Callable[[], str], refusals: list[str]) -> str | None:
    """Return what a program says; None where it would not, and nothing where the kernel has no such rules."""
    try:
        return ask()
    except NoSuchTableError:
        return ""
    except CaptureError as error:
        refusals.append(str(error))
        return None


def _list_table(family: Family, tables: str | None, refusals: list[str]) -> str | None:
    if tables is None or family not in find_nftables(tables):
        return tables and ""
    return _ask(lambda: run_nft(["-j", "list", "table", *table_words(family)]), refusals) or None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _read_sockets(paths: Mapping[Family, Path]) -> Mapping[Family, str] | None:
    try:
        return read_sockets(paths)
    except CaptureError:
        return None


def _try(backend: Backend, capture: Capture, families: Sequence[Family]) -> str | None:
    """Return what the kernel says against the rules, empty if it takes them; None where it can't be asked."""
    try:
        match backend:
            case Backend.NFTABLES:
                run_nft(["--check", "-f", "-"], render_nftables(capture, families))
            case Backend.IPTABLES:
                if not _can_try():
                    return None
                for family in families:
                    script = render_capture(capture, family)
                    run_program(["unshare", "--net", family.restore_command, "--noflush"], script)
    except LacksRightsError:
        return None
    except CaptureError as error:
        return str(error)
    return ""


def _can_try() -> bool:
    """Whether this process may make a network namespace to try rules in (CAP_SYS_ADMIN)."""
    program = find_program("unshare")
    if program is None:
        return False
    try:
        done = subprocess.run([program, "--net", "true"], capture_output=True, timeout=TIMEOUT, check=False)  # noqa: S603 -- fixed words, and a program that was found
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
