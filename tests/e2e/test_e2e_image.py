"""
The images, without a container engine: the script of the Dockerfile builds their files, and pods' commands run on them.

The host's system directories stand in for the base image. What the Dockerfile says of user, variables and command is
what is run; the rest is as in a pod: a read-only root, no capability that the pod does not name, no new privileges.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import SERVER, needs, open_lab, render_policy
from tests.support.certificates import Authority
from tests.support.dockerfile import ROOT, command, environment, last, sources
from xds.capture import ENVOY_UID
from xds.demo.cast import NODE, save_policy, start_envoy
from xds.demo.lab import Lab, Namespace
from xds.names import OUTBOUND_LISTENER
from xds.trust import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xds.demo.processes import Program

pytestmark = pytest.mark.e2e

_LIMIT = 600
"""Seconds for a build; most of it is the package index."""
_SCRIPT = Path(__file__).with_name("image_root.sh")
_NET_ADMIN = 1 << 12
"""CAP_NET_ADMIN as a bit (linux/capability.h)."""


@dataclass
class Build:
    """A build that runs beside others."""

    root: Path
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> Path:
        """Return the root file system when it is there."""
        assert self.process.wait(_LIMIT) == 0, self.log.read_text(encoding="utf-8")
        return self.root / "opt" / "egress-xds"


def start_build(context: Path, place: Path) -> Build:
    """Run the script as the Dockerfile does, with the interpreter of the tests."""
    root, log = place / "root", place / "log"
    root.mkdir(parents=True)
    settings = {"PYTHON": sys.executable, "TMPDIR": str(place)}
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["sh", "deploy/image/environment.sh", ".", root],
            cwd=context,
            stdout=said,
            stderr=said,
            env=os.environ | settings,
        )
    return Build(root, process, log)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Build, Build]]:
    """Build twice from what the Dockerfile copies, in two places at once."""
    place = tmp_path_factory.mktemp("image")
    context = place / "context"
    for source in sources("build"):
        target = context / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)
    started = start_build(context, place / "first"), start_build(context, place / "second-elsewhere")
    try:
        yield started
    finally:
        for build in started:
            build.process.kill()
            build.process.wait()
        shutil.rmtree(place, ignore_errors=True)


@dataclass(frozen=True)
class Who:
    """What a pod says about a container; None and nothing: as the image has it, without capabilities."""

    user: int | None = None
    capability: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


NET_ADMIN = Who(user=0, capability="net_admin")
"""The one container of a pod that captures."""
SIDECAR = Who(user=ENVOY_UID)


@dataclass
class Container:
    """Containers of the images, in a laboratory's namespaces."""

    lab: Lab
    root: str

    def words(self, image: str, program: list[str], who: Who) -> list[str]:
        """Return the command that runs a program in a container of `image`."""
        rights = f"-all,+{who.capability}" if who.capability else "-all"
        owner = last(image, "USER").partition(":")[0] if who.user is None else str(who.user)
        settings = [f"{key}={value}" for key, value in {**environment(image), **who.variables}.items()]
        drop = ["--bounding-set", rights, "--inh-caps", rights, "--no-new-privs"]
        change = ["setpriv", "--reuid", owner, "--regid", owner, "--clear-groups", *drop]
        return ["chroot", self.root, *change, "env", "-i", *settings, *program]

    def run(self, image: str, *arguments: str, who: Who | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a container in the pod to its end, with the arguments of the pod or those of its image."""
        program = [*command(image)[:1], *arguments] if arguments else command(image)
        return self.lab.run(Namespace.POD, self.words(image, program, who or Who()))

    def start(self, image: str) -> Program:
        """Start a container with what its image runs by itself."""
        return self.lab.start(image, Namespace.CORP, self.words(image, command(image), Who()))


@pytest.fixture(scope="module")
def container(builds: tuple[Build, Build]) -> Iterator[Container]:
    built = builds[0].wait()
    with open_lab() as lab:
        if not lab.has_users:
            needs("containers of the images need root")
        save_policy(lab, "policy.yaml", render_policy())
        root = "/run/container"
        policies = lab.inside / "policies"
        words = ["sh", str(_SCRIPT), root, str(built.parents[1]), sys.base_prefix, str(policies)]
        made = lab.run(Namespace.CORP, words)
        assert made.returncode == 0, made.stderr
        yield Container(lab, root)


@pytest.fixture(scope="module")
def server(container: Container) -> Program:
    """The control plane, as its image starts it."""
    program = container.start("control-plane")
    program.wait_for_port(18000)
    return program


def test_the_control_plane_serves_as_the_image_starts_it(container: Container, server: Program) -> None:
    asked = container.run("control-plane", "dump", "--server", SERVER, "--node", NODE)

    assert asked.returncode == 0, (asked.stderr, server.tail())
    assert OUTBOUND_LISTENER in asked.stdout.decode()
    status = container.lab.run(Namespace.CORP, ["sh", "-c", "cat /proc/[0-9]*/status"]).stdout.decode()
    assert "Uid:\t65532\t65532\t65532\t65532" in status


@pytest.mark.usefixtures("server")
def test_capture_works_with_one_capability_in_the_init_image(container: Container) -> None:
    """With either program, beside an Envoy that has its configuration of the control plane's image."""
    look = container.words("init", ["grep", "CapEff", "/proc/self/status"], NET_ADMIN)
    assert int(container.lab.run(Namespace.POD, look).stdout.split()[1], 16) == _NET_ADMIN
    start_envoy(container.lab, SERVER).wait_until_live()

    for backend, show in (("iptables", ["iptables-save"]), ("nftables", ["nft", "list", "ruleset"])):
        applied = container.run("init", "capture", "--apply", "--wait", "60s", "--backend", backend, who=NET_ADMIN)
        assert applied.returncode == 0, applied.stderr
        assert str(ENVOY_UID) in container.lab.run(Namespace.POD, show).stdout.decode()
        checked = container.run("init", "capture", "--check", who=NET_ADMIN)
        assert checked.returncode == 0, (checked.stdout, checked.stderr)

    undone = container.run("init", "capture", "--undo", who=NET_ADMIN)
    assert undone.returncode == 0, undone.stderr
    assert container.run("init", "capture", "--check", who=NET_ADMIN).returncode == 1


def test_the_init_image_prints_the_rules_unless_told_otherwise(container: Container) -> None:
    printed = container.run("init")

    assert printed.returncode == 0, printed.stderr
    assert b"iptables-restore" in printed.stdout


def test_authorities_are_written_into_a_volume_by_any_user(container: Container) -> None:
    pem = Authority("Corp Root").certificate
    directory = "/etc/egress-xds/trust"
    who = Who(user=ENVOY_UID, variables={VARIABLE: pem})

    written = container.run("control-plane", "trust", "--ca-from-env", VARIABLE, "--directory", directory, who=who)

    assert written.returncode == 0, written.stderr
    kept = container.lab.run(Namespace.CORP, ["cat", f"{container.root}{directory}/ca-bundle.crt"]).stdout.decode()
    assert kept.endswith(pem)
    assert kept.count("BEGIN CERTIFICATE") > 100


def test_a_bootstrap_is_rendered_from_the_images_own_templates(container: Container) -> None:
    printed = container.run(
        "control-plane", "bootstrap", "--node", NODE, "--server", SERVER, "--probe-port", "15024", who=SIDECAR
    )

    assert printed.returncode == 0, printed.stderr
    assert b"egress-probe" in printed.stdout


def test_nothing_is_compiled_at_run_time_but_what_is_hardly_ever_imported(container: Container) -> None:
    """A start that compiled would be slow each time, for the root can't be written."""
    source = "import sys, xds.cli.serve; print([m.__name__ for m in [*sys.modules.values()] if not is_compiled(m)])"
    helper = (
        "def is_compiled(module):\n"
        "    spec = getattr(module, '__spec__', None)\n"
        "    if not spec or not (spec.origin or '').startswith('/opt/egress-xds/lib'): return True\n"
        "    import os; return not spec.origin.endswith('.py') or os.path.exists(spec.cached)\n"
    )
    python = ["chroot", container.root, "/opt/egress-xds/bin/python", "-c", helper + source]

    said = container.lab.run(Namespace.CORP, python)

    assert said.stdout.decode().strip() == "[]", said.stderr


def test_two_builds_of_equal_sources_are_equal(builds: tuple[Build, Build]) -> None:
    """In content, rights, links and times; so that who builds again can prove what an image is made of."""
    first, second = (describe(build.wait()) for build in builds)

    assert len(first) > 1000
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == set()


def test_the_image_holds_no_tool_that_installs_and_no_trace_of_where_it_was_built(builds: tuple[Build, Build]) -> None:
    root = builds[0].wait()

    assert sorted(path.name for path in (root / "bin").iterdir() if not path.is_symlink()) == ["xds"]
    assert (root / "bin" / "xds").read_text(encoding="utf-8").startswith("#!/opt/egress-xds/bin/python\n")
    assert not list(root.glob("lib/*/site-packages/pip"))
    place = str(builds[0].root).encode()
    assert [path for path in root.rglob("*") if path.is_file() and place in path.read_bytes()] == []


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """Return what distinguishes two trees, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        seen = path.lstat()
        if stat.S_ISLNK(seen.st_mode):
            content = os.readlink(path)  # noqa: PTH115 -- the text of the link
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(root))] = (seen.st_mode, seen.st_uid, seen.st_gid, int(seen.st_mtime), content)
    return found
