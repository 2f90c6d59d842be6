"""`xds trust`: where it looks, what it writes, and what it says."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority
from tests.support.command_line import Runner
from xds.cli import trust
from xds.trust import render_variables

if TYPE_CHECKING:
    from pathlib import Path

SYSTEM = Authority("public").certificate
CORP = Authority("Corp Root").certificate
NAME = "EGRESS_XDS_TRUSTED_CA"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Run the command where RHEL's bundle is the only one."""
    bundle = tmp_path / "system.crt"
    bundle.write_text(SYSTEM, encoding="utf-8")
    monkeypatch.setattr(trust, "_SYSTEM_BUNDLES", (str(tmp_path / "missing.crt"), str(bundle)))
    monkeypatch.setenv(NAME, CORP)
    return Runner(capsys)


def test_the_files_can_be_read_by_every_user_whatever_the_umask(run: Runner, tmp_path: Path) -> None:
    import os  # noqa: PLC0415 -- the one test that needs the umask

    before = os.umask(0o077)
    try:
        ended = run("trust", "--ca-from-env", NAME, "--directory", tmp_path / "trust")
    finally:
        os.umask(before)

    assert ended.code == 0, ended.err
    assert (tmp_path / "trust").stat().st_mode & 0o777 == 0o755
    written = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "trust").iterdir()}
    assert written == dict.fromkeys(("ca-bundle.crt", "ca.crt", "truststore.p12"), 0o644)
    assert (tmp_path / "trust" / "ca-bundle.crt").read_text(encoding="utf-8") == SYSTEM + CORP


def test_it_says_what_it_did_and_prints_the_variables(run: Runner, tmp_path: Path) -> None:
    ended = run("trust", "--ca-from-env", NAME, "--directory", tmp_path / "trust")

    assert f"the 1 authorities of {tmp_path}/system.crt and 1 of the company's 1 that it lacks" in ended.err
    printed = dict(line.split("=", 1) for line in shlex.split(ended.out))
    assert printed == render_variables(str(tmp_path / "trust"))


def test_files_of_before_are_exchanged(run: Runner, tmp_path: Path) -> None:
    file = tmp_path / "corp.pem"
    file.write_text(Authority("new").certificate, encoding="utf-8")
    run("trust", "--ca-from-env", NAME, "--directory", tmp_path / "trust")

    ended = run("trust", "--ca-file", file, "--directory", tmp_path / "trust")

    assert ended.code == 0, ended.err
    assert (tmp_path / "trust" / "ca.crt").read_text(encoding="utf-8") == file.read_text(encoding="utf-8")
    assert len(list((tmp_path / "trust").iterdir())) == 3


def test_an_authority_that_can_not_be_kept_for_java_is_named(run: Runner, tmp_path: Path) -> None:
    bundle = tmp_path / "odd.crt"
    bundle.write_text(f"{SYSTEM}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", encoding="utf-8")

    ended = run("trust", "--ca-from-env", NAME, "--directory", tmp_path / "trust", "--system-bundle", bundle)

    assert "block 2 of the system's bundle can't be read and is missing for Java" in ended.err
    assert ended.code == 0


def test_a_system_without_a_bundle_is_told_what_to_install(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_SYSTEM_BUNDLES", ("/nowhere/ca.crt",))

    ended = run("trust", "--ca-from-env", NAME, "--directory", tmp_path / "trust")

    assert ended.code == 2
    assert "install ca-certificates, or name their file with --system-bundle FILE" in ended.err
    assert not (tmp_path / "trust").exists()


def test_nothing_is_written_if_the_companys_authorities_are_broken(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, CORP[:200])

    ended = run("trust", "--ca-from-env", NAME, "--directory", tmp_path / "trust")

    assert ended.code == 2
    assert NAME in ended.err
    assert CORP.splitlines()[1] not in ended.err
    assert not (tmp_path / "trust").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        pytest.param([], "--ca-from-env NAME or --ca-file FILE", id="no authorities"),
        pytest.param(["--ca-from-env", NAME, "--ca-file", "/x"], "one of them", id="authorities from two places"),
        pytest.param(["--ca-from-env", "EGRESS_XDS_NOT_SET"], "EGRESS_XDS_NOT_SET is not set", id="no such variable"),
        pytest.param(["--ca-file", "/nowhere/ca.pem"], "/nowhere/ca.pem can't be read", id="no such file"),
    ],
)
def test_without_authorities_it_is_wrong_usage(run: Runner, words: list[str], complaint: str, tmp_path: Path) -> None:
    ended = run("trust", *words, "--directory", tmp_path / "trust")

    assert ended.code == 2
    assert complaint in ended.err


def test_a_link_that_somebody_planted_is_not_followed(run: Runner, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept", encoding="utf-8")
    precious.chmod(0o600)
    (tmp_path / "trust").mkdir()
    for name in ("ca.crt", ".ca.crt.partial", ".ca.crt.draft"):
        (tmp_path / "trust" / name).symlink_to(precious)

    assert run("trust", "--ca-from-env", NAME, "--directory", tmp_path / "trust").code == 0

    assert (precious.read_text(encoding="utf-8"), precious.stat().st_mode & 0o777) == ("kept", 0o600)
    assert not (tmp_path / "trust" / "ca.crt").is_symlink()


def test_a_directory_that_can_not_be_written_is_named(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = run("trust", "--ca-from-env", NAME, "--directory", tmp_path / "file" / "trust")

    assert ended.code == 2
    assert "give a directory that this user may write" in ended.err
