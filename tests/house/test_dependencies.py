"""What the project depends on is explained where it is declared, and pinned by hash, the same everywhere."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DECLARATION = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads(DECLARATION)
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
LOCKS = {
    "build": GROUPS["build"],
    "runtime": PROJECT["project"]["dependencies"],
    "kubernetes": [*PROJECT["project"]["dependencies"], *EXTRAS["kubernetes"]],
    "demo": [*PROJECT["project"]["dependencies"], *EXTRAS["demo"], *GROUPS["build"]],
    "dev": [*PROJECT["project"]["dependencies"], *EXTRAS["demo"], *GROUPS["build"], *GROUPS["dev"]],
}
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ]+)(?P<marker> ; [^\\]+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def declared() -> list[str]:
    """Return every requirement that the project declares, as it is written."""
    tables = [PROJECT["project"]["dependencies"], *EXTRAS.values(), *GROUPS.values()]
    return [entry for table in tables for entry in table if isinstance(entry, str)]


@cache
def pins(lock: str) -> dict[str, str]:
    """Return the versions that one file of requirements/ pins, by canonical name."""
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8").splitlines()
    found = [match for line in lines if (match := PIN.match(line))]
    return {str(canonicalize_name(match["name"])): match["version"] for match in found}


@pytest.mark.parametrize("requirement", declared())
def test_a_declared_dependency_has_its_reason_on_its_line(requirement: str) -> None:
    assert re.search(rf'^    "{re.escape(requirement)}", +# \w.+$', DECLARATION, re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_declared_dependency_is_pinned_to_a_version_that_it_allows(lock: str) -> None:
    for requirement in map(Requirement, filter(lambda entry: isinstance(entry, str), LOCKS[lock])):
        assert requirement.specifier.contains(pins(lock)[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_a_file_of_pins_holds_pins_hashes_and_comments_and_nothing_else(lock: str) -> None:
    """No option, so no address of an index and no path can hide in it."""
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8").splitlines()

    others = [line for line in lines if not PIN.match(line) and not HASH.match(line) and not line.startswith("    #")]
    bare = [line for line, following in pairwise(lines) if PIN.match(line) and not HASH.match(following)]

    assert others == []
    assert bare == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_package_has_one_version_in_all_the_files(lock: str) -> None:
    development = pins("dev")

    differing = {name: version for name, version in pins(lock).items() if development.get(name, version) != version}

    assert differing == {}
