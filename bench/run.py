"""
`make bench`: run the benchmarks one after the other, in network namespaces of their own.

A benchmark prints figures measured side by side in one run, so that what it says is a ratio and holds on a noisy
machine. Nothing here is a test, and nothing fails because it was slow.

    python bench/run.py [policy-size] [datapath] [fanout] [cluster] [commands] [--rounds N] [--entries N]
        [--streams N ...] [--pods N] [-o table|json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import cluster
import commands
import datapath
import fanout
import fanout_report
import policy_size

_INSIDE = "--inside"
_ALL = ("policy-size", "datapath", "fanout", "cluster", "commands")


def main() -> int:
    """Run what was asked for, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=(*_ALL, []), help="all if left out")
    parser.add_argument("--rounds", type=int, default=7, help="how often each pair is measured")
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 1000, 3000], help="Envoys of fanout; try 10000")
    parser.add_argument("--resources", type=int, nargs="+", default=[10, 100, 1000], help="clusters of fanout")
    parser.add_argument("--entries", type=int, default=10_000, help="domains, and as many CIDRs, of the large policy")
    parser.add_argument("--pods", type=int, default=10_000, help="pods of cluster")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _policy_size(options)
    wanted = options.what or _ALL
    if "commands" in wanted:
        _commands(options)
    if "fanout" in wanted:
        _fan_out(options)
    if "cluster" in wanted:
        _cluster(options)
    if "datapath" in wanted:
        _data_path(options)
    if "policy-size" in wanted:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        os.execvp("unshare", ["unshare", "--net", *user, sys.executable, __file__, _INSIDE, *sys.argv[1:]])  # noqa: S606, S607 - util-linux, wherever it is
    return 0


def _commands(options: argparse.Namespace) -> None:
    rows = commands.measure(rounds=options.rounds, say=Console(stderr=True).print)
    if options.output == "json":
        _dump([row._asdict() for row in rows])
        return
    Console().print(commands.report(rows))


def _fan_out(options: argparse.Namespace) -> None:
    say = Console(stderr=True).print
    points = fanout.measure(streams=options.streams, resources=options.resources, rounds=options.rounds, say=say)
    say("sotw: 1,000 streams, beside 100 that never read")
    deaf = fanout.measure_deaf(streams=1000, deaf=100, resources=1000, rounds=options.rounds)
    churn = []
    for variant in fanout.VARIANTS:
        say(f"{variant}: 1,000 policies, 1,000 pods, 100 replaced each second")
        churn.append(
            fanout.measure_churn(
                variant, policies=1000, streams=1000, per_second=100, seconds=10, rounds=options.rounds
            )
        )
    if options.output == "json":
        rows: list[fanout_report.Row] = [*points, *deaf, *churn]
        _dump([fanout_report.flatten(row) for row in rows])
        return
    for part in fanout_report.report(points, deaf, churn):
        Console().print(part)


def _cluster(options: argparse.Namespace) -> None:
    found = cluster.measure(pods=options.pods, namespaces=200, policies=50, seconds=20, say=Console(stderr=True).print)
    if options.output == "json":
        _dump([*(sync._asdict() for sync in (found.empty, found.full)), *(each._asdict() for each in found.changes)])
        return
    for table in cluster.report(found):
        Console().print(table)


def _data_path(options: argparse.Namespace) -> None:
    rows = datapath.measure(rounds=options.rounds, say=Console(stderr=True).print)
    if options.output == "json":
        _dump([row._asdict() for row in rows])
        return
    table = Table(title="the ways out, side by side")
    for heading in ("what", *datapath.WAYS, "unit"):
        table.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    for row in rows:
        table.add_row(row.what, *("-" if figure is None else f"{figure:,.3g}" for figure in row.figures), row.unit)
    Console().print(table)


def _policy_size(options: argparse.Namespace) -> int:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607 - iproute2, wherever it is
    rows = policy_size.measure(rounds=options.rounds, entries=options.entries, say=Console(stderr=True).print)
    if options.output == "json":
        _dump([row._asdict() for row in rows])
        return 0
    table = Table(title=f"a policy of {options.entries:,} domains and {options.entries:,} CIDRs beside one of 10")
    for heading in ("what", "10", f"{options.entries:,}", "ratio", "unit"):
        table.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    for row in rows:
        table.add_row(row.what, f"{row.small:,.4g}", f"{row.large:,.4g}", f"{row.large / row.small:,.3g}", row.unit)
    Console().print(table)
    return 0


def _dump(rows: list[dict[str, object]]) -> None:
    json.dump(rows, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    raise SystemExit(main())
