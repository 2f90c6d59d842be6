"""
What the commands take that need no network: their CPU time from start to end, beside `python -c pass`.

They wait for nothing, so on a machine with nothing else to do that is how long they take; and it says the same on one
that is busy. Each is run as a process of its own, all of them in turn, and the figure is the median of all rounds. The
share of imports is what a process takes that imports the same modules in the same order, and does nothing else.
At the end stands what `envoy-data-plane` alone takes of a command that compiles: to import its modules that are used,
and to build one empty message of each class that is, for the library makes validators for all that a message could
hold when it builds the first one.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_ROOT = Path(__file__).resolve().parents[1]
_POLICIES = "policies"
_LIBRARY = "envoy_data_plane"
_COMPILES = "xds dump DIR"

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "xds --help": ("--help",),
    "xds explain EX101": ("explain", "EX101"),
    "xds bootstrap": ("bootstrap", "--node", "shop-0.payments", "--server", "192.0.2.1:18000"),
    "xds capture --print": ("capture", "--print"),
    "xds completion bash": ("completion", "bash"),
    "xds schema": ("schema",),
    "xds import env FILE": ("import", "env", "env"),
    "xds validate DIR": ("validate", _POLICIES),
    "xds dump DIR": ("dump", _POLICIES, "--policy", "payments"),
    "xds dump DIR -o yaml": ("dump", _POLICIES, "--policy", "payments", "-o", "yaml"),
    "xds explain POD HOST:PORT DIR": ("explain", "shop-0.payments", "api.example.com:443", _POLICIES),
    "xds diff DIR DIR": ("diff", _POLICIES, "others"),
}
"""Those of a directory with two policies, by what they are called in the table."""

_RUN = "import sys; from xds.cli import run_command; sys.exit(run_command(sys.argv[1:]))"
_LIST = """
import contextlib, io, json, sys
from xds.cli import run_command
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    code = run_command(sys.argv[1:])
kinds = {
    f"{kind.__module__} {kind.__qualname__}"
    for name, module in list(sys.modules.items())
    if name.startswith("xds.compile.")
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__.startswith("envoy_data_plane.") and hasattr(kind, "_betterproto_meta")
}
print(json.dumps([code, list(sys.modules), sorted(kinds)]))
"""
_IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
"""
_BUILD = """
import importlib, sys
for name in sys.argv[1:]:
    module, _, kind = name.partition(" ")
    found = importlib.import_module(module)
    if kind:
        getattr(found, kind)()
"""


class _Used(NamedTuple):
    """What a command imported, in this order, and the classes of messages that it built, each with its module."""

    modules: list[str]
    kinds: list[str]


class Row(NamedTuple):
    """One line of the result."""

    what: str
    seconds: float
    """Of CPU time, of the user and the system."""
    ratio: float
    """To `python -c pass`."""
    imports: float | None
    """Seconds of it that imports take; None where that is not the question."""


def measure(*, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Measure all commands; `say` gets a line of progress per round."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        for name in (_POLICIES, "others"):
            shutil.copytree(_ROOT / "deploy" / "policies", directory / name)
        (directory / "others" / "short.yaml").write_text("httpProxy: deny\nhttpsProxy: http://192.0.2.10:3128\n")
        (directory / "env").write_text("HTTPS_PROXY=http://192.0.2.10:3128\nNO_PROXY=.corp.example\n")
        used = {what: _list_used(arguments, directory) for what, arguments in COMMANDS.items()}
        programs: dict[str, Sequence[str]] = {"python -c pass": ("pass",)}
        for what, arguments in COMMANDS.items():
            programs[what] = (_RUN, *arguments)
            programs[_imports_of(what)] = (_IMPORT, *used[what].modules)
        modules, kinds = used[_COMPILES]
        library = [name for name in modules if name.partition(".")[0] == _LIBRARY]
        programs["envoy-data-plane, imported"] = (_IMPORT, *library)
        programs["envoy-data-plane, first messages"] = (_BUILD, *library, *kinds)
        times: dict[str, list[float]] = {what: [] for what in programs}
        for index in range(rounds):
            say(f"→ round {index + 1} of {rounds}")
            for what, program in programs.items():
                times[what].append(_time(program, directory))
    return _summarise({what: statistics.median(taken) for what, taken in times.items()})


def report(rows: Iterable[Row]) -> Table:
    """Return the figures as a table."""
    table = Table(title="CPU time from start to end, two policies")
    for heading in ("what", "s", "ratio to python -c pass", "imports, s", "imports, share"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for row in rows:
        imports = ("-", "-") if row.imports is None else (f"{row.imports:.3f}", f"{row.imports / row.seconds:.0%}")
        table.add_row(row.what, f"{row.seconds:.3f}", f"{row.ratio:.1f}", *imports)
    return table


def _summarise(medians: Mapping[str, float]) -> list[Row]:
    nothing = medians["python -c pass"]
    aside = {_imports_of(what) for what in COMMANDS}
    rows = []
    for what, taken in medians.items():
        if what in aside:
            continue
        imports = max(0.0, medians[_imports_of(what)] - nothing) if what in COMMANDS else None
        rows.append(Row(what, taken, taken / nothing, imports))
    return rows


def _imports_of(what: str) -> str:
    return f"imports of {what}"


def _list_used(arguments: Sequence[str], directory: Path) -> _Used:
    finished = subprocess.run(
        [sys.executable, "-c", _LIST, *arguments],
        cwd=directory, env=_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    code, modules, kinds = json.loads(finished.stdout)
    if code not in {0, 1}:
        raise RuntimeError(f"xds {' '.join(arguments)} ended with {code}")
    return _Used([name for name in modules if name != "__main__"], kinds)


def _time(program: Sequence[str], directory: Path) -> float:
    """Run a program and return its CPU time, in seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", *program],
        cwd=directory, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT)}
