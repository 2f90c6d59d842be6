"""
Sidecars for people and for programs: a table, lines about changes, and JSON.

Nothing here asks anybody, and nothing here writes. What sidecars and servers say may hold anything: it is shown
without what a terminal would obey.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from xds.cli.output import count_of
from xds.clients import InForce
from xds.errors import clean_text
from xds.inspection.fleet import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.inspection.fleet import Answer, Change, Fleet, Refusal, SidecarStatus, TypeReport

_COLOURS = {
    State.CURRENT: "green",
    State.PENDING: "yellow",
    State.REFUSED: "red",
    State.HELD: "yellow",
    State.LACKING: "red",
    State.OFFLINE: "red",
}
_COLUMNS = {
    "cluster": "CLUSTERS",
    "endpoint": "ENDPOINTS",
    "listener": "LISTENERS",
    "route": "ROUTES",
    "secret": "SECRETS",
}
_RARE = "endpoint"
_REMEDIES = {
    "explicit.port": "applications are told of a port where nobody listens; add `mode: explicit`, which implies it",
}
"""What to do about a key that a policy lacks."""
_SHORT = 6
"""Characters of a version: enough to tell two of them apart."""
_NAMED = 3
"""Sidecars that are named of those who refuse the same."""
_ASCII = str.maketrans("✓✗…→", "+!~>")
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_CENTURY = 36_525 * _DAY
"""Seconds: what a server says was longer ago, or is as far ahead, is no moment."""


def render_table(fleet: Fleet, now: float, *, is_wide: bool = False) -> str:
    """
    Return a table of the sidecars, and below it what was refused or is lacking; `now` is in seconds since the epoch.

    A wide one names the versions of what is current, too.
    """
    if not fleet.sidecars:
        return ""
    kinds = [kind for kind in _COLUMNS if kind != _RARE or any(_RARE in sidecar.types for sidecar in fleet.sidecars)]
    header = ["NODE", "POLICY", "REPLICA", "STATE", *(_COLUMNS[kind] for kind in kinds), "AGE"]
    rows = [
        [
            _name(sidecar.node),
            _policy(sidecar),
            _name(sidecar.replica) or "-",
            sidecar.state.value,
            *(_cell(sidecar.types.get(kind), is_wide=is_wide) for kind in kinds),
            "-" if sidecar.since is None else render_age(now - sidecar.since),
        ]
        for sidecar in fleet.sidecars
    ]
    lines = _align(header, rows, [_COLOURS[sidecar.state] for sidecar in fleet.sidecars], coloured=3)
    return "\n".join([*lines, *_render_refusals(fleet.sidecars, now), *_render_lacks(fleet.sidecars)])


def _align(header: Sequence[str], rows: Sequence[Sequence[str]], colours: Iterable[str], *, coloured: int) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [click.style("  ".join(map(str.ljust, header, widths)).rstrip(), bold=True)]
    for row, colour in zip(rows, colours, strict=True):
        cells = list(map(str.ljust, row, widths))
        cells[coloured] = click.style(cells[coloured], fg=colour)
        lines.append("  ".join(cells).rstrip())
    return lines


def _policy(sidecar: SidecarStatus) -> str:
    if sidecar.standing is InForce.REFUSE_ALL:
        return "(none)"
    return _name(sidecar.policy) or "-"


def _cell(report: TypeReport | None, *, is_wide: bool) -> str:
    """Say how it stands: a mark, or the version that was refused, or the one that was sent and the one before it."""
    if report is None:
        return "-"
    if report.refusal is not None:
        return f"✗ {_short(report.refusal.version)}".rstrip()
    if report.is_current:
        return f"✓ {_short(report.acknowledged)}".rstrip() if is_wide else "✓"
    sent = "…" if report.sent == report.acknowledged else _short(report.sent)
    return f"{sent}/{_short(report.acknowledged) or '-'}"


def _short(version: str) -> str:
    return _name(version[:_SHORT])


def _render_refusals(sidecars: Iterable[SidecarStatus], now: float) -> list[str]:
    """Say once what several sidecars refuse for the same reason."""
    found: dict[tuple[str, str, str], list[tuple[SidecarStatus, Refusal]]] = {}
    for sidecar in sidecars:
        for kind, report in sidecar.types.items():
            if report.refusal is not None:
                refusal = report.refusal
                found.setdefault((kind, refusal.version, refusal.text), []).append((sidecar, refusal))
    lines: list[str] = []
    for (kind, version, text), those in found.items():
        names = ", ".join(_name(sidecar.node) for sidecar, _ in those[:_NAMED])
        more = f" and {len(those) - _NAMED} more" if len(those) > _NAMED else ""
        latest = max((refusal.at for _, refusal in those if refusal.at is not None), default=None)
        moment = "" if latest is None else f", {render_age(now - latest)} ago"
        head = f"{_name(kind)} {_short(version)} refused by {names}{more}{moment}:"
        lines += ["", click.style(head, fg="red"), f"  {_say(text) or '(without a word)'}"]
    return lines


def _render_lacks(sidecars: Iterable[SidecarStatus]) -> list[str]:
    """Say once what a policy lacks, whoever runs it."""
    found: dict[tuple[str, str], list[str]] = {}
    for sidecar in sidecars:
        if sidecar.lacks:
            found.setdefault((sidecar.policy, sidecar.lacks), []).append(_name(sidecar.node))
    lines: list[str] = []
    for (policy, key), nodes in found.items():
        more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
        head = f"{_name(key)} is missing in the policy {_name(policy) or '-'} of {', '.join(nodes[:_NAMED])}{more}:"
        lines += ["", click.style(head, fg="red"), f"  {_REMEDIES.get(key, 'a newer xds knows what to do')}"]
    return lines


def summarise(fleet: Fleet) -> str:
    """Return one sentence about all of them."""
    parts = ", ".join(f"{count} {state.value}" for state, count in fleet.counts.items() if count)
    answered = sum(not answer.problem for answer in fleet.answers)
    total = len(fleet.answers)
    asked = count_of(total, "replica") if answered == total else f"{answered} of {count_of(total, 'replica')}"
    return f"{count_of(len(fleet.sidecars), 'sidecar')}, {asked}{f': {parts}' if parts else ''}"


def render_change(change: Change) -> str:
    """Return a line about what became of one sidecar."""
    sidecar = change.after or change.before
    assert sidecar is not None, "a change is of something"
    words = [_name(sidecar.node), _step(change), _policy(sidecar), _name(sidecar.replica)]
    if change.after is not None:
        before = {} if change.before is None else change.before.types
        new = {kind: report for kind, report in sidecar.types.items() if before.get(kind) != report}
        words.append(", ".join(f"{_name(kind)} {_cell(report, is_wide=True)}" for kind, report in new.items()))
        words += [_say(report.refusal.text) for report in new.values() if report.refusal is not None]
    return "  ".join(filter(None, words))


def _step(change: Change) -> str:
    before = "new" if change.before is None else change.before.state.value
    if change.after is None:
        return f"{before} → gone"
    after = click.style(change.after.state.value, fg=_COLOURS[change.after.state])
    return after if before == change.after.state.value else f"{before} → {after}"


def describe_fleet(fleet: Fleet, now: float) -> dict[str, object]:
    """Return a moment as a JSON object."""
    return {
        "replicas": [_describe_answer(answer) for answer in fleet.answers],
        "sidecars": [describe_sidecar(sidecar, now) for sidecar in fleet.sidecars],
        "summary": {
            "sidecars": len(fleet.sidecars),
            **{state.value: count for state, count in fleet.counts.items()},
        },
        "notes": [*fleet.notes, *fleet.missing],
    }


def _describe_answer(answer: Answer) -> dict[str, object]:
    return {
        "replica": answer.replica,
        "answered": not answer.problem,
        "problem": answer.problem or None,
    }


def describe_sidecar(sidecar: SidecarStatus, now: float) -> dict[str, object]:
    """Return one sidecar as a JSON object; what is not known is null."""
    return {
        "node": sidecar.node,
        "replica": sidecar.replica or None,
        "state": sidecar.state.value,
        "policy": sidecar.policy or None,
        "inForce": None if sidecar.standing is None else sidecar.standing.value,
        "variant": sidecar.variant or None,
        "lacks": sidecar.lacks or None,
        "since": None if sidecar.since is None else _moment(sidecar.since),
        "ageSeconds": None if sidecar.since is None else _age(now - sidecar.since),
        "types": {kind: _describe_type(report) for kind, report in sidecar.types.items()},
    }


def _describe_type(report: TypeReport) -> Mapping[str, object]:
    refusal = report.refusal
    return {
        "current": report.is_current,
        "resources": report.resources,
        "sent": report.sent or None,
        "acknowledged": report.acknowledged or None,
        "refused": None
        if refusal is None
        else {
            "version": refusal.version or None,
            "text": refusal.text,
            "at": None if refusal.at is None else _moment(refusal.at),
        },
    }


def describe_change(change: Change, now: float) -> dict[str, object]:
    """Return what became of one sidecar as a JSON object; of one that is gone, `state` is `gone`."""
    before = None if change.before is None else change.before.state.value
    if change.after is not None:
        return {**describe_sidecar(change.after, now), "before": before}
    assert change.before is not None, "a change is of something"
    return {**describe_sidecar(change.before, now), "state": "gone", "before": before}


def render_age(seconds: float) -> str:
    """
    Return e.g. `7s`, `3m12s`, `2h5m` or `4d3h`; clocks of two machines differ, so that it is never below zero.

    What no clock can say is `?`.
    """
    if not _is_age(seconds):
        return "?"
    whole = max(int(seconds), 0)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR}h"


def _age(seconds: float) -> float | None:
    return max(round(seconds, 3), 0) if _is_age(seconds) else None


def _is_age(seconds: float) -> bool:
    return abs(seconds) < _CENTURY


def in_ascii(text: str) -> str:
    """Return what is rendered here with ASCII marks of the same width, for terminals that know no others."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def _say(text: str) -> str:
    """Return what somebody said in a line."""
    return clean_text(" ".join(text.split()))


def _name(text: str) -> str:
    """Return an id in one word: what comes after a space would look like the next column."""
    return clean_text(text).replace(" ", "\N{REPLACEMENT CHARACTER}")


def _moment(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a server may say anything
        return None
