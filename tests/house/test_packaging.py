"""What the wheel holds, and that the command works from it: a checkout can hide a file that a wheel lacks."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's wheel with the pinned build backend."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory], cwd=ROOT, check=True)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without its dependencies, into a directory of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", target, wheel], check=True)
    return target


def run(installed: Path, *words: str) -> str:
    """Run a command of the installed wheel away from the checkout, and return what it printed."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed)}
    done = subprocess.run(
        words, cwd=installed, env=environment, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_template_and_the_type_marker(wheel: Path) -> None:
    templates = {
        f"xds/_envoy/{path.relative_to(ROOT / 'envoy')}" for path in (ROOT / "envoy").rglob("*") if path.is_file()
    }

    names = set(zipfile.ZipFile(wheel).namelist())

    assert templates
    assert templates | {"xds/py.typed", "xds/gen/discovery_pb2.py"} <= names


def test_the_wheel_holds_the_package_and_its_metadata_only(wheel: Path) -> None:
    roots = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert roots == {"xds", "egress_xds-0.1.0.dist-info"}


def test_the_installed_command_is_the_wheels_own(installed: Path) -> None:
    """Otherwise the tests below would prove the checkout."""
    where = run(installed, sys.executable, "-c", "import xds; print(xds.__file__)")

    assert Path(where.strip()).is_relative_to(installed)


def test_the_installed_command_lists_its_verbs(installed: Path) -> None:
    text = run(installed, str(installed / "bin" / "xds"), "--help")

    for verb in ("serve", "validate", "dump", "bootstrap", "capture", "schema", "demo"):
        assert verb in text


def test_the_installed_command_renders_a_bootstrap_from_its_own_template(installed: Path) -> None:
    command = [str(installed / "bin" / "xds"), "bootstrap", "--node", "shop.default", "--server", "127.0.0.1:18000"]

    assert "shop.default" in run(installed, *command)
