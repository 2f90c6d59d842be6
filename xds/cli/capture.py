"""
`xds capture`: print the capture rules, put them in force or remove them.

This is the one place that runs iptables. What the rules are is decided in `xds.capture`.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import click

from xds.capture import (
    ENVOY_UID,
    LISTENER_PORT,
    TABLES,
    Family,
    UdpRejection,
    build_capture,
    find_foreign_networks,
    render_capture,
    render_removal,
)
from xds.cli.capture_wait import holding_signals, parse_wait, require_envoy, wait_for_envoy
from xds.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from xds.capture import Capture

_TIMEOUT = 30.0
"""Seconds for one call: longer than the wait for the lock that other users of iptables may hold."""

_LOCK_WAIT = "10"
"""Seconds to wait for that lock."""

_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
"""Searched after PATH, which often lacks these directories."""


_FOR_EVER = "for ever"
"""What `--wait` without a time stands for."""


class _Mode(Enum):
    """What to do with the rules."""

    PRINT = "--print"
    APPLY = "--apply"
    UNDO = "--undo"


@dataclass(frozen=True, slots=True)
class _Change:
    """One script and the family that it is for."""

    family: Family
    script: str


@click.command(
    name="capture",
    epilog="Example: xds capture --apply, beside an Envoy that runs as user 1337. Look first: xds capture --print.",
)
@click.option("--print", "is_print", is_flag=True, help="Print the rules (default).")
@click.option("--apply", "is_apply", is_flag=True, help="Put the rules in force, in place of earlier ones.")
@click.option("--undo", "is_undo", is_flag=True, help="Remove the rules, whatever options they were made with.")
@click.option(
    "--force",
    is_flag=True,
    help="Apply although nothing listens on the port yet. Until Envoy does, no connection that is captured gets "
    "anywhere.",
)
@click.option(
    "--wait",
    is_flag=False,
    flag_value=_FOR_EVER,
    metavar="[TIME]",
    help="Wait until Envoy listens, as in an init container; for at most TIME, such as 120s, if it is given.",
)
@click.option(
    "--family",
    "families",
    type=click.Choice([*(family.value for family in Family), "both"]),
    default="both",
    show_default=True,
    help="Address family.",
)
@click.option(
    "--to-port", type=int, default=LISTENER_PORT, show_default=True, metavar="PORT", help="The listener of Envoy."
)
@click.option(
    "--exempt-uid",
    "exempt_uids",
    type=int,
    multiple=True,
    metavar="UID",
    help=f"The user that Envoy runs as; repeatable. {ENVOY_UID} unless this or --exempt-mark is given.",
)
@click.option(
    "--exempt-mark",
    "exempt_marks",
    type=int,
    multiple=True,
    metavar="N",
    help="The mark on Envoy's connections (`xds bootstrap --so-mark N`).",
)
@click.option(
    "--exclude-port", "exclude_ports", type=int, multiple=True, metavar="PORT", help="A destination port; repeatable."
)
@click.option(
    "--exclude-cidr", "exclude_cidrs", multiple=True, metavar="CIDR", help="A destination network; repeatable."
)
@click.option(
    "--exclude-uid",
    "exclude_uids",
    type=int,
    multiple=True,
    metavar="UID",
    help="A user whose connections pass by; repeatable.",
)
@click.option(
    "--reject-udp",
    type=click.Choice([choice.value for choice in UdpRejection]),
    default=UdpRejection.QUIC.value,
    show_default=True,
    help="Which UDP is rejected with ICMP, for no CONNECT proxy carries it: quic is port 443, so that HTTP/3 clients "
    "fall back to TCP at once; all leaves questions to name servers, and what is excluded. Other UDP passes by.",
)
@click.option(
    "--dns",
    is_flag=True,
    help="Send questions to name servers (UDP 53) to Envoy, too, which answers for the names of a policy with "
    "`dns.mode: capture` and asks the name servers for others.",
)
def command(
    *,
    is_print: bool,
    is_apply: bool,
    is_undo: bool,
    force: bool,
    wait: str | None,
    families: str,
    to_port: int,
    exempt_uids: tuple[int, ...],
    exempt_marks: tuple[int, ...],
    exclude_ports: tuple[int, ...],
    exclude_cidrs: tuple[str, ...],
    exclude_uids: tuple[int, ...],
    reject_udp: str,
    dns: bool,
) -> None:
    """
    Send this network namespace's outgoing TCP connections to Envoy, with iptables.

    Without --apply or --undo the rules are only printed, as input for `iptables-restore --noflush`
    and `ip6tables-restore --noflush`.
    """
    if wait is not None and (force or not is_apply):
        raise click.UsageError(
            f"--wait {'contradicts --force' if force else 'is of no use without --apply'}; leave it out"
        )
    mode = _find_mode([(_Mode.PRINT, is_print), (_Mode.APPLY, is_apply), (_Mode.UNDO, is_undo)])
    capture = build_capture(
        to_port=to_port,
        exempt_uids=exempt_uids,
        exempt_marks=exempt_marks,
        exclude_ports=exclude_ports,
        exclude_cidrs=exclude_cidrs,
        exclude_uids=exclude_uids,
        reject_udp=UdpRejection(reject_udp),
        dns=dns,
    )
    chosen = [family for family in Family if families in (family.value, "both")]
    if foreign := find_foreign_networks(capture, chosen):
        raise click.UsageError(
            f"--exclude-cidr {foreign[0]} is of no use with --family {families}; leave one of them out"
        )
    match mode:
        case _Mode.PRINT:
            _print(capture, chosen)
        case _Mode.APPLY:
            with holding_signals():
                if not force:
                    _find_envoy(capture, chosen, wait)
                _change(chosen, lambda family, saved: render_capture(capture, family, saved))
            click.echo(f"captured: {_listed(chosen)}", err=True)
        case _Mode.UNDO:
            removed = _change(chosen, lambda _, saved: render_removal(saved))
            click.echo(f"no longer captured: {_listed(removed)}" if removed else "nothing was captured", err=True)


def _find_mode(given: Iterable[tuple[_Mode, bool]]) -> _Mode:
    """Return what is to be done. Raises click.UsageError if that is more than one thing."""
    modes = [mode for mode, is_given in given if is_given] or [_Mode.PRINT]
    if len(modes) > 1:
        names = " and ".join(mode.value for mode in modes)
        raise click.UsageError(f"{names} contradict each other; give one of them")
    return modes[0]


def _find_envoy(capture: Capture, families: Sequence[Family], wait: str | None) -> None:
    """Raise CaptureError if Envoy does not take what is about to be captured, now or within the time given."""
    match wait:
        case None:
            require_envoy(capture, families)
        case forever if forever == _FOR_EVER:
            wait_for_envoy(capture, families, None)
        case _:
            wait_for_envoy(capture, families, parse_wait(wait))


def _print(capture: Capture, families: Iterable[Family]) -> None:
    scripts = (f"# {family.restore_command} --noflush\n{render_capture(capture, family)}" for family in families)
    click.echo("".join(scripts), nl=False)


def _change(families: Iterable[Family], script: Callable[[Family, str], str]) -> list[Family]:
    """
    Apply a script per family, each of them whole or not at all; return the families that had something to change.

    Every script is tried before the first is applied, so that what could fail fails while nothing is changed.
    """
    scripts = [_Change(family, script(family, _read_tables(family))) for family in families]
    changes = [change for change in scripts if change.script]
    for options in (["--test"], []):
        for change in changes:
            _run([change.family.restore_command, "--noflush", "--wait", _LOCK_WAIT, *options], change.script)
    return [change.family for change in changes]


def _read_tables(family: Family) -> str:
    return "".join(_run([family.save_command, "-t", table]) for table in TABLES)


def _run(arguments: list[str], text: str = "") -> str:
    program = shutil.which(arguments[0]) or shutil.which(arguments[0], path=_SYSTEM_PATH)
    if program is None:
        raise CaptureError(f"{arguments[0]} is not installed; install it, on Debian with `apt-get install iptables`")
    try:
        done = subprocess.run(  # noqa: S603 -- the arguments are fixed words, and the program is found above
            [program, *arguments[1:]], input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CaptureError(f"{arguments[0]} could not be run: {error}; run it by hand to see why") from error
    if done.returncode:
        raise CaptureError(f"{' '.join(arguments)}: {_reason(done.stderr)}; {_remedy(done.stderr)}")
    return done.stdout


def _reason(complaint: str) -> str:
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else "failed without a word"


def _remedy(complaint: str) -> str:
    lowered = complaint.lower()
    if "permission denied" in lowered or "you must be root" in lowered or "not permitted" in lowered:
        return "run it as root, or with CAP_NET_ADMIN, in the pod's network namespace"
    if "family not supported" in lowered or "does not exist" in lowered or "can't initialize" in lowered:
        return "this kernel has no nat table for the family; leave it out with --family"
    if "invalid argument" in lowered:
        # The kernel refuses users that the namespace has no mapping for (xt_owner).
        return "in a user namespace Envoy's user may not exist: use --exempt-mark N with `xds bootstrap --so-mark N`"
    if "lock" in lowered:
        return "something else is changing iptables; try again"
    return "nothing was changed for this family"


def _listed(families: Iterable[Family]) -> str:
    return " and ".join(family.value for family in families)
