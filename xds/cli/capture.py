"""
`xds capture`: print the capture rules, put them in force or remove them.

This is the one place that runs iptables. What the rules are is decided in `xds.capture`.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from xds.capture import ENVOY_UID, LISTENER_PORT, Family, build_capture, render_capture, render_removal
from xds.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TIMEOUT = 30.0
"""Seconds for one call: longer than the wait for the lock that other users of iptables may hold."""

_LOCK_WAIT = "10"
"""Seconds to wait for that lock."""

_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
"""Searched after PATH, which often lacks these directories."""


@dataclass(frozen=True, slots=True)
class _Change:
    """One script and the family that it is for."""

    family: Family
    script: str


@click.command(name="capture")
@click.option("--print", "mode", flag_value="print", default="print", help="Print the rules (default).")
@click.option("--apply", "mode", flag_value="apply", help="Put the rules in force, in place of earlier ones.")
@click.option("--undo", "mode", flag_value="undo", help="Remove the rules.")
@click.option(
    "--family",
    "families",
    type=click.Choice([*(family.value for family in Family), "both"]),
    default="both",
    show_default=True,
    help="Address family.",
)
@click.option("--to-port", type=int, default=LISTENER_PORT, show_default=True, help="The listener of Envoy.")
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
@click.option("--exclude-port", "exclude_ports", type=int, multiple=True, help="A destination port; repeatable.")
@click.option("--exclude-cidr", "exclude_cidrs", multiple=True, help="A destination network; repeatable.")
@click.option("--exclude-uid", "exclude_uids", type=int, multiple=True, help="A user whose connections pass by.")
def command(
    *,
    mode: str,
    families: str,
    to_port: int,
    exempt_uids: tuple[int, ...],
    exempt_marks: tuple[int, ...],
    exclude_ports: tuple[int, ...],
    exclude_cidrs: tuple[str, ...],
    exclude_uids: tuple[int, ...],
) -> None:
    """
    Send this network namespace's outgoing TCP connections to Envoy, with iptables.

    Without --apply or --undo the rules are only printed, as input for `iptables-restore --noflush`
    and `ip6tables-restore --noflush`.
    """
    capture = build_capture(
        to_port=to_port,
        exempt_uids=exempt_uids,
        exempt_marks=exempt_marks,
        exclude_ports=exclude_ports,
        exclude_cidrs=exclude_cidrs,
        exclude_uids=exclude_uids,
    )
    chosen = [family for family in Family if families in (family.value, "both")]
    if mode == "print":
        click.echo(
            "".join(f"# {family.restore_command} --noflush\n{render_capture(capture, family)}" for family in chosen),
            nl=False,
        )
    elif mode == "apply":
        _change(chosen, lambda family, saved: render_capture(capture, family, saved))
        click.echo(f"captured: {_listed(chosen)}", err=True)
    else:
        _change(chosen, lambda _, saved: render_removal(saved))
        click.echo(f"not captured: {_listed(chosen)}", err=True)


def _change(families: Iterable[Family], script: Callable[[Family, str], str]) -> None:
    """
    Apply a script per family, each of them whole or not at all.

    Every script is tried before the first is applied, so that what could fail fails while nothing is changed.
    """
    changes = [_Change(family, script(family, _run([family.save_command, "-t", "nat"]))) for family in families]
    for options in (["--test"], []):
        for change in changes:
            if change.script:
                _run([change.family.restore_command, "--noflush", "--wait", _LOCK_WAIT, *options], change.script)


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
