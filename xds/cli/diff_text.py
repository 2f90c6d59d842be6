"""What `xds diff` found, for people: the summary first, then policy by policy, then pods."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from xds.changes import Cause, Kind, Standing, Told
from xds.cli.diff_report import name_policy
from xds.cli.edits import EditKind
from xds.cli.output import count_of, style_diagnostic
from xds.errors import clean_text
from xds.names import EXPLICIT_LISTENER, OUTBOUND_LISTENER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from xds.changes import (
        DecisionSample,
        Drained,
        Handover,
        OpenConnections,
        PodGroup,
        PolicyChange,
        RuleChange,
        SettingChange,
        WorldChange,
    )
    from xds.cli.diff_report import Report

_MARKS = {
    Kind.ADDED: ("+", "green"),
    Kind.REMOVED: ("-", "red"),
    Kind.CHANGED: ("~", "yellow"),
    Kind.MOVED: (">", "cyan"),
}
_EDITS = {EditKind.ADDED: Kind.ADDED, EditKind.REMOVED: Kind.REMOVED, EditKind.REPLACED: Kind.CHANGED}
_CAUSES = {
    Cause.CHAIN_CHANGED: "how they are handled changes",
    Cause.CHAIN_REMOVED: "nothing handles them any more",
    Cause.LISTENER_CHANGED: "the listener is replaced",
    Cause.LISTENER_REMOVED: "the listener is removed",
}
_OF_LISTENERS = frozenset({Cause.LISTENER_CHANGED, Cause.LISTENER_REMOVED})
_UNTOUCHED = "none is touched"
_ALL = "all that are captured"


def render(report: Report, *, limit: int, shows_resources: bool) -> Iterator[str]:
    """Yield the lines of the report; lists are cut at `limit`."""
    change = report.change
    for edit in report.edits:
        beside = f" (was {edit.replaced.source})" if edit.replaced and edit.replaced.source != edit.source else ""
        yield f"{_mark(_EDITS[edit.kind])} document {clean_text(f'{edit.source}{beside}')}"
    for finding in report.findings:
        yield style_diagnostic(finding)
    if report.errors:
        yield click.style(_tell_refusal(report), fg="red")
    if not change:
        yield "nothing changes for any pod"
        return
    yield ""
    yield click.style(_summarise(report), bold=True)
    for policy in change.policies:
        yield ""
        yield from _render_policy(policy, report, limit, shows_resources=shows_resources)
    for group in change.pods:
        if group.is_told_another:
            yield ""
            yield from _render_group(group, report, limit)
    for handover in change.handovers:
        yield ""
        yield from _render_handover(handover, report, limit)


def _tell_refusal(report: Report) -> str:
    bad = [state for state in report.after.documents if not state.is_good]
    stays = [state.source for state in bad if state.has_last_good]
    gone = [state.source for state in bad if not state.has_last_good]
    texts = [f"{source} would be refused: its last good version stays in force" for source in stays]
    texts += [f"{source} would be refused: the pods that it claims would be told nothing" for source in gone]
    return "\n".join(map(clean_text, texts))


def _summarise(report: Report) -> str:
    change = report.change
    parts = list(_count_policies(report))
    if change.all_pods:
        what = "pods with a sidecar" if report.counts_sidecars else "pods"
        parts.append(f"{change.touched_pods} of {change.all_pods} {what} would be told something else")
    parts.append(f"open connections: {clean_text(_summarise_connections(change))}")
    return "; ".join(parts)


def _count_policies(report: Report) -> Iterator[str]:
    policies = report.change.policies
    held = [item for item in policies if item.after is Standing.HELD]
    documents = sum(report.is_document(item.key) for item in held)
    if count := sum(item.after is not Standing.HELD and not report.is_document(item.key) for item in policies):
        yield f"{count_of(count, 'policy')} {'changes' if count == 1 else 'change'}"
    for count, noun in ((len(held) - documents, "policy"), (documents, "document")):
        if count:
            yield f"{count_of(count, noun)} {'is' if count == 1 else 'are'} held"


def _summarise_connections(change: WorldChange) -> str:
    """Say what is known: of pods where pods are known, or else of policies; and of whom nothing is known."""
    moved: Sequence[PodGroup | Handover] = change.pods if change.all_pods else change.handovers
    found = [item.connections for item in moved]
    found += [] if change.all_pods else [item.connections for item in change.policies]
    drained = {item for connections in found if connections for item in connections.drained}
    unknown = sorted({name_policy(item.before.key) for item in moved if item.connections is None and item.before.key})
    closed = f"{', '.join(_name_drained(drained))} will be closed when Envoy's drain time ends"
    if not unknown:
        return closed if drained else _UNTOUCHED
    doubt = f"can't be known for pods of {', '.join(unknown)}, which are told nothing now"
    is_rest_known = any(connections is not None for connections in found)
    rest = closed if drained else "of others, none is touched"
    return f"{doubt}; {rest}" if is_rest_known else doubt


def _name_drained(drained: Iterable[Drained]) -> list[str]:
    """Return what is drained, as few words as say it; where the main listener is replaced, all that is captured."""
    known = list(drained)
    whole = [item for item in known if item.listener == OUTBOUND_LISTENER and item.cause in _OF_LISTENERS]
    rest = (item for item in known if not whole or item.listener == EXPLICIT_LISTENER)
    return [_ALL] * bool(whole) + sorted({item.what for item in rest})


def _mark(kind: Kind, text: str = "") -> str:
    mark, colour = _MARKS[kind]
    return click.style(f"{mark} {clean_text(text)}" if text else mark, fg=colour)


def _render_policy(change: PolicyChange, report: Report, limit: int, *, shows_resources: bool) -> Iterator[str]:
    noun = "document" if report.is_document(change.key) else "policy"
    yield click.style(
        f"{_MARKS[change.kind][0]} {noun} {clean_text(name_policy(change.key))}", fg=_MARKS[change.kind][1], bold=True
    ) + (f": {_summarise_policy(change, report)}")
    yield from _cut((line for rule in change.rules for line in _render_rule(rule, limit)), limit * 4, "line")
    yield from _cut((line for item in change.settings for line in _render_setting(item, limit)), limit * 2, "line")
    same = [group for group in report.change.pods if group.before == group.after == Told(change.key)]
    for group in same:
        yield f"  pods: {_list_pods(group.pods, limit)}"
    if change.connections is not None:
        yield from _tell_connections(change.connections)
    yield from _render_decisions(report.decisions_of(change), limit)
    yield from _render_resources(change, report, limit, shows_resources=shows_resources)


def _summarise_policy(change: PolicyChange, report: Report) -> str:
    if change.after is Standing.HELD:
        return "held, it can't be read" if report.is_document(change.key) else "held, its document can't be used"
    pods = sum(len(group.pods) for group in report.change.pods if change.key in (group.before.key, group.after.key))
    counted = [(kind, sum(rule.kind is kind for rule in change.rules)) for kind in Kind]
    parts = [f"{count_of(count, 'rule')} {kind.value}" for kind, count in counted if count]
    parts += (
        [f"{count_of(len(change.settings), 'setting')} changed"]
        if change.settings and change.kind is Kind.CHANGED
        else []
    )
    if not parts:
        parts = ["without rules"] if change.kind is not Kind.CHANGED else ["what it is compiled to"]
    return ", ".join(parts) + (f"; {count_of(pods, 'pod')}" if report.change.all_pods else "")


def _render_rule(rule: RuleChange, limit: int) -> Iterator[str]:
    places = [f"{place.where.source}:{place.where.line}" for place in (rule.before, rule.after) if place is not None]
    moved = (
        f" moved from {rule.before.position} to {rule.after.position}"
        if rule.is_moved and rule.before is not None and rule.after is not None
        else ""
    )
    place = click.style(clean_text(" → ".join(dict.fromkeys(places))), dim=True)
    yield f"  {_mark(rule.kind, f'rule {rule.name}')}{moved}  {place}"
    for field in rule.fields:
        yield from _render_values(field.key, field.removed, field.added, limit)


def _render_setting(item: SettingChange, limit: int) -> Iterator[str]:
    if len(item.removed) + len(item.added) == 1:
        kind = Kind.ADDED if item.added else Kind.REMOVED
        yield f"  {_mark(kind, item.key)}: {clean_text((*item.removed, *item.added)[0])}"
        return
    if len(item.removed) <= 1 and len(item.added) <= 1:
        was, will = (values[0] if values else "nothing" for values in (item.removed, item.added))
        yield f"  {_mark(Kind.CHANGED, item.key)}: {clean_text(f'{was} → {will}')}"
        return
    yield f"  {_mark(Kind.CHANGED, item.key)}"
    yield from _render_values("", item.removed, item.added, limit)


def _render_values(key: str, removed: Sequence[str], added: Sequence[str], limit: int) -> Iterator[str]:
    label = f"{key}: " if key else ""
    for kind, values in ((Kind.REMOVED, removed), (Kind.ADDED, added)):
        yield from _cut((f"      {_mark(kind, f'{label}{value}')}" for value in values), limit, "more", indent=6)


def _tell_connections(connections: OpenConnections) -> Iterator[str]:
    if connections.is_untouched:
        yield f"  open connections: {_UNTOUCHED}"
    else:
        yield "  open connections that will be closed when Envoy's drain time ends (--drain-time-s; 600 s by default):"
        by_cause = sorted(connections.drained, key=lambda item: item.cause.value)
        for cause, items in groupby(by_cause, key=lambda item: item.cause):
            for what in _name_drained(items):
                yield f"      {_mark(Kind.REMOVED, what)}: {_CAUSES[cause]}"
    is_whole = _ALL in _name_drained(connections.drained)
    for proxy in () if is_whole else map(clean_text, connections.stay):
        yield f"  open tunnels through {proxy} keep the connection that they have; new ones follow what changed"
    if connections.is_next_request_elsewhere and not is_whole:
        yield "  the next request of an open plain HTTP connection follows the new rules"


def _render_decisions(sample: DecisionSample | None, limit: int) -> Iterator[str]:
    if sample is None or not sample.changed:
        return
    asked = "" if sample.probed == sample.known else f" (asked for {sample.probed} of {sample.known})"
    yield f"  decisions that change{asked}:"
    yield from _cut(
        (
            f"      {clean_text(item.target)} ({item.protocol.value}): "
            f"{click.style(clean_text(item.before), fg='red')} → {click.style(clean_text(item.after), fg='green')}"
            for item in sample.changed
        ),
        limit,
        "more",
        indent=6,
    )


def _render_resources(change: PolicyChange, report: Report, limit: int, *, shows_resources: bool) -> Iterator[str]:
    if not change.resources:
        return
    if not shows_resources:
        names = [_mark(item.kind, f"{item.type.name.lower()} {item.name}") for item in change.resources]
        rest = f", and {len(names) - limit} more" if len(names) > limit else ""
        yield f"  resources: {', '.join(names[:limit])}{rest}"
        return
    for item in change.resources:
        yield f"  {_mark(item.kind, f'{item.type.name.lower()} {item.name}')}"
        for line in report.diff(change.key, item):
            yield f"      {_colour_line(clean_text(line))}"


def _colour_line(line: str) -> str:
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return click.style(line, fg=colour) if colour else line


def _render_group(group: PodGroup, report: Report, limit: int) -> Iterator[str]:
    count = count_of(len(group.pods), "pod")
    told = clean_text(f"{_name_told(group.before)} → {_name_told(group.after)}")
    yield click.style(f"{count}: {told}", bold=True)
    yield f"  {_list_pods(group.pods, limit)}"
    if group.connections is None:
        yield "  open connections: it can't be known, for what these pods have is not known"
    else:
        yield from _tell_connections(group.connections)
    yield from _render_decisions(report.decisions.get((group.before, group.after)), limit)


def _render_handover(item: Handover, report: Report, limit: int) -> Iterator[str]:
    yield click.style(clean_text(_tell_handover(item)), bold=True)
    if item.connections is None:
        yield "  open connections: it can't be known, for what these pods have is not known"
    else:
        yield from _tell_connections(item.connections)
    yield from _render_decisions(report.decisions.get((item.before, item.after)), limit)


def _tell_handover(item: Handover) -> str:
    """Say who gets what instead."""
    was, will = item.before, item.after
    if was.key is None:
        who = "pods that are refused everything, for no policy selects them,"
    elif was.is_held:
        who = f"pods that are told nothing, held by {name_policy(was.key)},"
    else:
        who = f"pods that {name_policy(was.key)} serves"
    if will.key is None:
        alone = "" if item.is_whole else " and no other policy selects"
        return f"{who}{alone} are refused everything: no policy is for them any more"
    other = name_policy(will.key)
    also = "" if item.is_whole and was.key is not None else f" and that {other} selects"
    if will.is_held:
        return f"{who}{also} are told nothing, held by {other}"
    return f"{who}{also} get {other}"


def _list_pods(pods: Sequence[str], limit: int) -> str:
    rest = f", and {len(pods) - limit} more" if len(pods) > limit else ""
    return f"{clean_text(', '.join(pods[:limit]))}{rest}"


def _name_told(told: Told) -> str:
    if told.key is None:
        return "no policy, everything is refused"
    return f"{'told nothing, held by' if told.is_held else 'policy'} {name_policy(told.key)}"


def _cut(lines: Iterable[str], limit: int, noun: str, indent: int = 4) -> Iterator[str]:
    """Yield the first lines, and how many there were besides."""
    known = list(lines)
    yield from known[:limit]
    if len(known) > limit:
        more = len(known) - limit
        yield f"{' ' * indent}… and {more} more" if noun == "more" else f"{' ' * indent}… and {more} more {noun}s"
