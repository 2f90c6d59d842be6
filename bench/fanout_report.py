"""What `fanout` measured, as tables and as bars for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout import Churn, Deafness, Figures, Point
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Row = Point | Deafness | Churn
_MEGA = 1e6
_BAR = 40
"""Characters of the longest bar."""


def flatten(row: Row) -> dict[str, object]:
    """Return a row with its figures by name, for JSON."""
    return {name: value._asdict() if isinstance(value, Figures) else value for name, value in row._asdict().items()}


def report(points: Sequence[Point], deaf: Sequence[Deafness], churn: Sequence[Churn]) -> Iterator[Table]:
    """Yield what is to be printed."""
    yield _points(points)
    yield _bars(points)
    yield _deaf(deaf)
    yield _churn(churn)


def _points(points: Sequence[Point]) -> Table:
    table = Table(title="ours / the floor (ratio): seconds; CPU seconds of the server; MB")
    for heading in ("", "streams", "resources", "cold start", "p50", "p99", "push", "CPU cold", "CPU push", "memory"):
        table.add_column(heading, justify="right" if heading else "left")
    for point in points:
        ours, floor = point.ours, point.floor
        table.add_row(
            point.variant,
            f"{point.streams:,}",
            f"{point.resources:,}",
            _pair(ours.cold_start, floor.cold_start),
            _pair(ours.push_median, floor.push_median),
            _pair(ours.push_p99, floor.push_p99),
            _pair(ours.push_last, floor.push_last),
            _pair(ours.cold_start_cpu, floor.cold_start_cpu),
            _pair(ours.push_cpu, floor.push_cpu),
            _pair(ours.memory / _MEGA, floor.memory / _MEGA),
        )
    return table


def _pair(ours: float, floor: float) -> str:
    ratio = f"{ours / floor:.2f}" if floor else "-"
    return f"{ours:.3g} / {floor:.3g} ({ratio})"


def _bars(points: Sequence[Point]) -> Table:
    table = Table(title="a push, until the last stream has it: █ ours, ░ the floor", show_header=False, box=None)
    longest = max(max(point.ours.push_last, point.floor.push_last) for point in points)
    for point in points:
        for who, mark, figures in (("ours", "█", point.ours), ("floor", "░", point.floor)):
            bar = mark * max(1, round(_BAR * figures.push_last / longest))
            table.add_row(
                f"{point.variant} {point.streams:,} x {point.resources:,}", who, bar, f"{figures.push_last:.3f} s"
            )
    return table


def _deaf(rows: Sequence[Deafness]) -> Table:
    table = Table(title="a push (SotW, 1,000 resources) to 1,000 streams beside others that never read")
    for heading in ("never read", "p50 ms", "p99 ms", "last ms", "memory MB"):
        table.add_column(heading, justify="right")
    for row in rows:
        times = (row.push_median, row.push_p99, row.push_last)
        table.add_row(str(row.deaf), *(f"{moment * 1000:.0f}" for moment in times), f"{row.memory / _MEGA:.0f}")
    return table


def _churn(rows: Sequence[Churn]) -> Table:
    table = Table(title="pods that come and go, each policy with pods of its own: a new pod is served after")
    for heading in ("", "policies", "pods", "new per s", "p50 ms", "p99 ms", "last ms", "CPU %", "CPU push s", "MB"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        table.add_row(
            row.variant,
            f"{row.policies:,}",
            f"{row.streams:,}",
            str(row.per_second),
            *(f"{moment * 1000:.1f}" for moment in (row.median, row.p99, row.last)),
            f"{row.cpu_share * 100:.0f}",
            f"{row.push_cpu:.2f}",
            f"{row.memory_before / _MEGA:.0f} → {row.memory / _MEGA:.0f}",
        )
    return table
