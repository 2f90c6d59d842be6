"""
`xds capture`: print the capture rules, put them in force or remove them.

What the rules are is decided in `xds.capture`, and no environment is asked for an option.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import click

from xds.capture import (
    ENVOY_UID,
    LISTENER_PORT,
    Family,
    UdpRejection,
    build_capture,
    find_foreign_networks,
    find_takers,
    place_last,
    render_capture,
    render_nftables,
)
from xds.cli.capture_change import apply_rules, remove_rules
from xds.cli.capture_check import look_at_others, report_check
from xds.cli.capture_programs import Backend, find_missing
from xds.cli.capture_wait import (
    LISTENERS,
    holding_signals,
    parse_wait,
    require_envoy,
    wait_for_envoy,
)
from xds.cli.options import render_epilog
from xds.errors import CaptureError, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.capture import Capture

_AUTO = "auto"
_BOTH = "both"

_FOR_EVER = "for ever"
"""What `--wait` without a time stands for."""


class _Mode(Enum):
    """What to do with the rules."""

    PRINT = "--print"
    APPLY = "--apply"
    UNDO = "--undo"
    CHECK = "--check"


@click.command(
    name="capture",
    epilog=render_epilog(
        "xds capture --print",
        "xds capture --apply --wait 120s",
        "xds capture --check -o json",
        codes="0 done, or --check found nothing; 1 --check found something; 2 wrong usage; 3 the rules could not be "
        "changed, and are as they were; 143 ended by SIGTERM.",
    ),
)
@click.option("--print", "is_print", is_flag=True, help="Print the rules (default).")
@click.option("--apply", "is_apply", is_flag=True, help="Put the rules in force, in place of earlier ones.")
@click.option("--undo", "is_undo", is_flag=True, help="Remove the rules, whatever options they were made with.")
@click.option(
    "--check", "is_check", is_flag=True, help="Say what is missing or wrong, and the remedy; changes nothing."
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Form of what --check says.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Apply although nothing listens on the port yet, or rules of others decide before these. Until Envoy "
    "listens, no connection that is captured gets anywhere.",
)
@click.option(
    "--wait",
    is_flag=False,
    flag_value=_FOR_EVER,
    metavar="[TIME]",
    help="Wait until Envoy listens, as in an init container; for at most TIME, such as 120s, if it is given.",
)
@click.option(
    "--backend",
    type=click.Choice([_AUTO, *(backend.value for backend in Backend)]),
    default=_AUTO,
    show_default=True,
    help="What the kernel is told the rules with; auto is the first that is installed and works here. Rules of the "
    "other one are removed.",
)
@click.option(
    "--family",
    "families",
    type=click.Choice([*(family.value for family in Family), _BOTH]),
    default=_BOTH,
    show_default=True,
    help="Address family; both leaves IPv6 out where the kernel knows none.",
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
    is_check: bool,
    output: str,
    force: bool,
    wait: str | None,
    backend: str,
    families: str,
    to_port: int,
    exempt_uids: tuple[int, ...],
    exempt_marks: tuple[int, ...],
    exclude_ports: tuple[int, ...],
    exclude_cidrs: tuple[str, ...],
    exclude_uids: tuple[int, ...],
    reject_udp: str,
    dns: bool,
) -> int:
    """
    Send this network namespace's outgoing TCP connections to Envoy, with iptables or nftables.

    Without --apply or --undo the rules are only printed, as input for `iptables-restore --noflush`
    and `ip6tables-restore --noflush`, or for `nft -f -`.
    """
    if wait is not None and (force or not is_apply):
        raise click.UsageError(
            f"--wait {'contradicts --force' if force else 'is of no use without --apply'}; leave it out"
        )
    mode = _find_mode(
        [(_Mode.PRINT, is_print), (_Mode.APPLY, is_apply), (_Mode.UNDO, is_undo), (_Mode.CHECK, is_check)]
    )
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
    chosen = [family for family in Family if families in {family.value, _BOTH}]
    tool = None if backend == _AUTO else Backend(backend)
    if foreign := find_foreign_networks(capture, chosen):
        raise click.UsageError(
            f"--exclude-cidr {foreign[0]} is of no use with --family {families}; leave one of them out"
        )
    known = _leave_unknown(chosen) if families == _BOTH else chosen
    match mode:
        case _Mode.PRINT:
            _print(tool, capture, chosen)
        case _Mode.APPLY:
            _apply(tool, capture, known, force=force, wait=wait)
        case _Mode.UNDO:
            _undo(known)
        case _Mode.CHECK:
            return report_check(tool, capture, known, is_json=output == "json")
    return 0


def _apply(
    tool: Backend | None, capture: Capture, families: Sequence[Family], *, force: bool, wait: str | None
) -> None:
    with holding_signals():
        if not force:
            _find_envoy(capture, families, wait)
        _find_others(capture, families, force=force)
        used = apply_rules(tool, capture, families)
    click.echo(f"captured: {_listed(families)}, with {used.value}", err=True)


def _undo(families: Sequence[Family]) -> None:
    with holding_signals():
        removed = remove_rules(families)
    click.echo(f"no longer captured: {_listed(removed)}" if removed else "nothing was captured", err=True)


def _leave_unknown(families: Iterable[Family]) -> list[Family]:
    """Return the families without one that the kernel does not know, which has no connections to capture."""
    return [family for family in families if family is not Family.IPV6 or LISTENERS[family].exists()]


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


def _find_others(capture: Capture, families: Sequence[Family], *, force: bool) -> None:
    """
    Say who takes connections away from what is about to be put in force. Unless forced, raise CaptureError.

    Asked beforehand, so that a refusal changes nothing: ours are put behind all rules that there are.
    """
    others = place_last(look_at_others(families))
    found = [taker for taker in find_takers(others, capture, families) if taker.is_known]
    if found and not force:
        raise CaptureError(
            f"{found[0].text}: what is captured would not reach Envoy; nothing was changed. "
            f"Remedy: {found[0].remedy}; or capture the rest with --force"
        )
    for taker in found:
        told = click.style("warning", fg="yellow", bold=True)
        click.echo(f"{told}: {clean_text(taker.text)}; {clean_text(taker.remedy)}", err=True)


def _print(tool: Backend | None, capture: Capture, families: Sequence[Family]) -> None:
    """Print the rules; without a choice those of iptables, unless nft alone is installed."""
    is_nft_alone = bool(find_missing(Backend.IPTABLES, families)) and not find_missing(Backend.NFTABLES, families)
    match tool or (Backend.NFTABLES if is_nft_alone else Backend.IPTABLES):
        case Backend.IPTABLES:
            scripts = (
                f"# {family.restore_command} --noflush\n{render_capture(capture, family)}" for family in families
            )
            click.echo("".join(scripts), nl=False)
        case Backend.NFTABLES:
            click.echo(f"# nft -f -\n{render_nftables(capture, families)}", nl=False)


def _listed(families: Iterable[Family]) -> str:
    return " and ".join(family.value for family in families)
