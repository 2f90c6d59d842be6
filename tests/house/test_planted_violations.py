"""
Every gate that the house configures really runs: each is seen red on a violation planted in a copy of the tree.

The gates are the targets of the Makefile, called as CI calls them but with the environment that runs these
tests, so that a rule which is configured and never executed fails here. Each case names the words by
which the gate must name the violation; a gate that is red for another reason does not count.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SCAFFOLDING = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", ".coverage*", "dist")


# A make that started this run must not hand its own variables to the one that is tested.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "COV"))}


@dataclass(frozen=True, slots=True)
class Tree:
    """A copy of the project, as a fresh checkout would hold it."""

    path: Path

    def plant(self, where: str, text: str) -> None:
        """Append `text` to the file `where`, which need not exist."""
        target = self.path / where
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8") as file:
            file.write(text)

    def fail(self, *words: str) -> str:
        """Run make as CI does, with the running environment in place of `.venv`; it must fail. Return what it said."""
        command = ["make", "-C", str(self.path), "DEV=", f"BIN={BIN}", *words]
        environment = ENVIRONMENT | {"COLUMNS": "200"}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=90)

        assert run.returncode != 0, f"the gate stayed green:\n{run.stdout}"
        return run.stdout + run.stderr


def copy_tree(directory: Path) -> Tree:
    """Copy the project to a place where it may be spoilt."""
    shutil.copytree(ROOT, directory / "tree", ignore=SCAFFOLDING)
    return Tree(directory / "tree")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a copy for one test."""
    return copy_tree(tmp_path)


def assert_named(said: str, names: str) -> None:
    """Fail unless a line of a gate's output matches the pattern `names`."""
    assert re.search(names, said), f"red, but for another reason:\n{said}"


DOCUMENTED = '"""A planted module."""\n\nfrom __future__ import annotations\n\n'
BRANCHES = "".join(f"    if number == {-n}:\n        return {n}\n" for n in range(14))

LINT = {
    "an unused import": ("import json\n", "F401"),
    "a public function without a docstring": ("def planted() -> None:\n    print\n", "D103"),
    "a module without a docstring": (None, "D100"),
    "a function of more than 12 paths": (
        f'def planted(number: int) -> int:\n    """Plant."""\n{BRANCHES}    return 0\n',
        r"C901.*> 12",
    ),
    "a function without types": ('def planted(number):\n    """Plant."""\n    return number\n', "ANN001"),
    "a blind except": ("try:\n    import json\nexcept Exception:\n    json = None\n", "BLE001"),
    "a print": ("print(1)\n", "T201"),
    "a suppression without a rule": ("import json  # noqa\n", "PGH004"),
    "a suppression that suppresses nothing": ("PLANTED = 1  # noqa: F401\n", "RUF100"),
    "a line of more than 120 columns": (f"PLANTED = {'1' * 120}\n", "E501"),
    "the environment read outside settings": ("import os\n\nPLANTED = os.environ\n", "TID251.*settings"),
    "the clock asked": ("from datetime import UTC, datetime\n\nPLANTED = datetime.now(UTC)\n", "TID251.*moment"),
    "docstring quotes on the line of their text": (
        'def planted() -> None:\n    """Plant.\n\n    More.\n    """\n',
        "D213",
    ),
    "commented-out code": ("# PLANTED = 1\n", "ERA001"),
    "a note of work to be done": (f"# {'TO' + 'DO'}: plant\n", "FIX002"),
}


@pytest.fixture(scope="module")
def lint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the linter says of all its cases; one run, since copying the tree costs more than they do."""
    tree = copy_tree(tmp_path_factory.mktemp("lint"))
    for case, (text, _) in LINT.items():
        tree.plant(f"xds/compile/{_file_name(case)}", "PLANTED = 1\n" if text is None else DOCUMENTED + text)
    return tree.fail("check-lint", "OUTPUT=concise")


def _file_name(case: str) -> str:
    return f"{re.sub('[^a-z0-9]', '_', case.lower())}.py"


@pytest.mark.parametrize(("case", "names"), [(case, names) for case, (_, names) in LINT.items()], ids=LINT)
def test_the_linter_refuses(lint: str, case: str, names: str) -> None:
    assert_named(lint, f"xds/compile/{_file_name(case)}:.*{names}")


def test_the_formatter_refuses_another_layout(tree: Tree) -> None:
    tree.plant("xds/compile/planted.py", DOCUMENTED + "PLANTED = [ 1,2 ]\n")

    assert_named(tree.fail("check-format"), r"xds/compile/planted\.py")


TYPES = {
    "a wrong type": ('PLANTED: int = "one"\n', "assignment"),
    "a bare ignore": ('PLANTED: int = "one"  # type: ignore\n', "ignore-without-code"),
    "an ignore that ignores nothing": ("PLANTED: int = 1  # type: ignore[assignment]\n", "unused-ignore"),
    "an untyped generic": ("def planted(values: list) -> None: ...\n", "type-arg"),
    "code that can't be reached": (
        "def planted(value: int) -> int:\n    if isinstance(value, int):\n        return 1\n    return 2\n",
        "unreachable",
    ),
    "a match that forgets a member": (
        (
            "from enum import Enum\n\n\nclass Side(Enum):\n    LEFT = 1\n    RIGHT = 2\n\n\n"
            "def planted(side: Side) -> None:\n    match side:\n        case Side.LEFT:\n            pass\n"
        ),
        "exhaustive-match",
    ),
}


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the type checker says of all its cases."""
    tree = copy_tree(tmp_path_factory.mktemp("types"))
    for case, (text, _) in TYPES.items():
        tree.plant(f"xds/{_file_name(case)}", DOCUMENTED + text)
    return tree.fail("check-types", f"TYPED={' '.join(f'xds/{_file_name(case)}' for case in TYPES)}")


@pytest.mark.parametrize(("case", "code"), [(case, code) for case, (_, code) in TYPES.items()], ids=TYPES)
def test_the_type_checker_refuses(types: str, case: str, code: str) -> None:
    assert_named(types, rf"xds/{_file_name(case)}:.*\[{code}\]")


ROOMS = {
    "gRPC in the compiler": ("xds/compile/matchers.py", "import grpc\n", r"xds\.compile\.matchers -> grpc"),
    "a socket in the compiler": ("xds/compile/matchers.py", "import socket\n", r"xds\.compile\.matchers -> socket"),
    "asyncio in the protocol": ("xds/protocol/planted.py", "import asyncio\n", r"xds\.protocol\.planted -> asyncio"),
    "a clock in the policy": ("xds/policy/planted.py", "import time\n", r"xds\.policy\.planted -> time"),
    "the command line in the protocol": (
        "xds/protocol/planted.py",
        "import xds.cli\n",
        r"xds\.protocol is not allowed to import xds\.cli",
    ),
    "a neighbour in the same row": (
        "xds/compile/planted.py",
        "import xds.bootstrap\n",
        r"xds\.compile is not allowed to import xds\.bootstrap",
    ),
}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the import contracts say of all their cases."""
    tree = copy_tree(tmp_path_factory.mktemp("rooms"))
    for where, text, _ in ROOMS.values():
        tree.plant(where, text)
    return tree.fail("check-rooms")


@pytest.mark.parametrize("names", [names for _, _, names in ROOMS.values()], ids=ROOMS)
def test_the_import_contracts_refuse(rooms: str, names: str) -> None:
    assert_named(rooms, names)


def test_a_module_in_no_room_is_refused(tree: Tree) -> None:
    tree.plant("xds/planted.py", "")

    assert_named(tree.fail("check-rooms"), "planted")


def test_generated_code_that_differs_from_its_source_is_refused(tree: Tree) -> None:
    tree.plant("protos/egress_xds/discovery.proto", "message Planted {}\n")

    assert_named(tree.fail("check-proto"), r"xds/gen/discovery_pb2\.pyi? is stale; run: make proto")


WORDS = {
    "an option that names a package index": "pip install --index" + "-url=x\n",
    "a package directory of one machine": "--find" + "-links wheels\n",
    "a home directory": "see /home" + "/somebody/notes\n",
}


@pytest.mark.parametrize("text", WORDS.values(), ids=WORDS)
def test_the_tree_may_not_hold(tree: Tree, text: str) -> None:
    tree.plant("deploy/planted.txt", text)
    subprocess.run(["git", "init", "--quiet", tree.path], check=True)

    assert_named(tree.fail("check-words"), r"deploy/planted\.txt:1:")


TESTS = {
    "a test that warns": (
        'import warnings\n\n\ndef test_planted():\n    warnings.warn("planted", DeprecationWarning)\n',
        "FAILED FILE.*DeprecationWarning: planted",
    ),
    "a coroutine that nobody awaits": (
        "async def work(): ...\n\n\ndef test_planted():\n    work()\n",
        "FAILED FILE.*PytestUnraisableExceptionWarning",
    ),
    "a marker that nobody declared": (
        "import pytest\n\n\n@pytest.mark.planted\ndef test_planted(): ...\n",
        "ERROR FILE.*'planted' not found in `markers`",
    ),
    "an expected failure that passes": (
        'import pytest\n\n\n@pytest.mark.xfail(reason="planted")\ndef test_planted(): ...\n',
        r"FAILED FILE.*\[XPASS\(strict\)\]",
    ),
}


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what a test run says of all its cases."""
    tree = copy_tree(tmp_path_factory.mktemp("tests"))
    for case, (text, _) in TESTS.items():
        tree.plant(f"tests/planted/test_{_file_name(case)}", text)
    return tree.fail("test", "ARGS=tests/planted --no-cov --continue-on-collection-errors")


@pytest.mark.parametrize(("case", "names"), [(case, names) for case, (_, names) in TESTS.items()], ids=TESTS)
def test_the_test_run_refuses(tests: str, case: str, names: str) -> None:
    assert_named(tests, names.replace("FILE", f"tests/planted/test_{_file_name(case)}"))


THRESHOLDS = {
    "of the whole": ("", r"Required test coverage of \d\d.*% not reached"),
    "of rooms 0-4": (
        "--cov-fail-under=0",
        r"coverage of rooms 0-4(.|\n)*Coverage failure: total of \d+ is less than fail-under=\d\d",
    ),
}


@pytest.mark.parametrize(("options", "names"), THRESHOLDS.values(), ids=THRESHOLDS)
def test_too_little_coverage_is_refused(tree: Tree, options: str, names: str) -> None:
    tree.plant("tests/planted/test_planted.py", "def test_planted(): ...\n")

    assert_named(tree.fail("test", f"ARGS=tests/planted {options}"), names)
