"""`xds collect`: how the file is written, and what becomes of parts that can't be had."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.bundles import leaks, read_bundle
from tests.support.command_line import GOOD
from xds.cli.bundle import Bundle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Outcome, Runner

NOBODY = ("--admin", "127.0.0.1:1", "--http", "127.0.0.1:1", "--timeout", "2s")


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "corp.yaml").write_text(GOOD, encoding="utf-8")
    return tmp_path / "policies"


def collect(xds: Runner, target: Path, *words: object) -> Outcome:
    return xds("collect", *NOBODY, "-o", target, *words)


def test_a_bundle_holds_what_can_be_had_and_says_what_could_not(xds: Runner, policies: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"

    outcome = collect(xds, target, policies)

    assert (outcome.code, outcome.out) == (1, f"{target}\n")
    members = read_bundle(target)
    assert set(members) == {
        "MANIFEST.json",
        "findings.json",
        f"policies/001-{str(policies).replace('/', '_')}_corp.yaml",
        "problems.txt",
        "resources/001-corp.yaml",
        "settings-of-this-command.json",
        "status.json",
        "versions.json",
    }
    manifest = json.loads(members["MANIFEST.json"])
    assert {item["name"]: item["bytes"] for item in manifest["members"]} == {
        name: len(content) for name, content in members.items() if name != "MANIFEST.json"
    }
    assert [item["part"] for item in manifest["problems"]] == [
        "status",
        "127.0.0.1:1/metrics",
        "127.0.0.1:1/readyz",
        "127.0.0.1:1/healthz",
    ]
    assert b"127.0.0.1:1/metrics: " in members["problems.txt"]
    assert "missing: 127.0.0.1:1/metrics: " in outcome.err
    assert b"name: proxy/proxy" in members["resources/001-corp.yaml"]


def test_only_its_owner_can_read_a_bundle(xds: Runner, policies: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    before = os.umask(0)
    try:
        collect(xds, target, policies)
    finally:
        os.umask(before)

    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "bundle" in path.name] == ["bundle.tar.gz"]


def test_a_file_is_not_replaced_unless_that_is_wanted(xds: Runner, policies: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    target.write_bytes(b"mine")

    refused = collect(xds, target, policies)

    assert (refused.code, target.read_bytes()) == (2, b"mine")
    assert "exists; name another file, or replace it with --force" in refused.err
    assert collect(xds, target, policies, "--force").code == 1
    assert "MANIFEST.json" in read_bundle(target)


WRONG = [
    pytest.param(["-o", "DIR"], "is a directory", id="a directory"),
    pytest.param(["-o", "DIR/no/bundle"], "there is no directory", id="a directory that there is not"),
    pytest.param(["--admin", "nonsense"], "--admin", id="an address that is none"),
    pytest.param(["--http", "host:0"], "from 1 to 65535", id="a port that nobody can connect to"),
    pytest.param(["--timeout", "soon"], "--timeout", id="a time that is none"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_usage_is_told_before_anything_is_collected(
    xds: Runner, tmp_path: Path, words: list[str], message: str
) -> None:
    outcome = xds("collect", *[word.replace("DIR", str(tmp_path)) for word in words])

    assert outcome.code == 2
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_policies_that_can_not_be_read_cost_the_other_parts_nothing(xds: Runner, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    (tmp_path / "empty").mkdir()

    outcome = collect(xds, target, tmp_path / "empty")

    assert outcome.code == 1
    assert b"policies: " in read_bundle(target)["problems.txt"]
    assert "versions.json" in read_bundle(target)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.yaml", "policies/corp.yaml/nowhere"])
def test_a_path_that_does_not_exist_is_wrong_usage_and_leaves_no_bundle(
    xds: Runner, policies: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "bundle.tar.gz"

    outcome = collect(xds, target, policies, tmp_path / name)

    assert (outcome.code, outcome.out) == (2, "")
    assert f"{tmp_path / name} does not exist; " in outcome.err
    assert not target.exists()


def test_a_policy_file_that_can_not_be_read_is_a_problem_and_a_finding(
    xds: Runner, policies: Path, tmp_path: Path
) -> None:
    (policies / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    target = tmp_path / "bundle.tar.gz"

    outcome = collect(xds, target, policies)

    assert outcome.code == 1
    members = read_bundle(target)
    assert f"{policies / 'latin.yaml'}: the file is not UTF-8 text" in members["problems.txt"].decode()
    found = json.loads(members["findings.json"])["diagnostics"]
    assert [item["source"] for item in found] == [str(policies / "latin.yaml")]


def test_where_no_envoy_is_one_problem_is_told(xds: Runner, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"

    collect(xds, target, "--envoy", "127.0.0.1:1")

    problems = read_bundle(target)["problems.txt"].decode().splitlines()
    assert len([line for line in problems if line.startswith("envoys/")]) == 1


def test_a_bad_policy_is_in_the_bundle_with_what_was_found(xds: Runner, policies: Path, tmp_path: Path) -> None:
    (policies / "bad.yaml").write_text(
        "httpProxy: http://user:canary-4711@proxy\n  password: canary-4711", encoding="utf-8"
    )
    target = tmp_path / "bundle.tar.gz"

    collect(xds, target, policies)

    members = read_bundle(target)
    assert any(name.endswith("bad.yaml") for name in members)
    assert json.loads(members["findings.json"])["diagnostics"]
    assert leaks(members, "canary-4711") == []


def test_equal_parts_at_one_moment_give_equal_bytes() -> None:
    archives = []
    for names in (("a", "b"), ("b", "a")):
        bundle = Bundle(taken=1_700_000_000.5)
        for name in names:
            bundle.add(name, f"content of {name}")
        bundle.miss("c", "it is not there")
        archives.append(bundle.archive())

    assert archives[0] == archives[1]


def test_a_file_that_is_no_dump_is_told(xds: Runner, tmp_path: Path) -> None:
    for name, content in (("text", "canary-4711"), ("list", "[1]")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    dumps = [word for name in ("text", "list", "missing") for word in ("--config-dump", str(tmp_path / name))]
    target = tmp_path / "bundle.tar.gz"

    collect(xds, target, *dumps)

    problems = read_bundle(target)["problems.txt"].decode()
    assert f"{tmp_path / 'text'}: it is not JSON" in problems
    assert f"{tmp_path / 'list'}: it is no answer of an Envoy" in problems
    assert f"{tmp_path / 'missing'}: No such file or directory" in problems
    assert leaks(read_bundle(target), "canary-4711") == []


def test_the_rules_of_the_kernel_are_kept_if_that_is_wanted(
    xds: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, script in (
        ("iptables-save", 'echo "rules of $2"'),
        ("ip6tables-save", "echo no such table >&2; exit 1"),
        (
            "nft",
            'case "$*" in "list tables") echo "table ip6 egress_xds";; "list table ip6 egress_xds") echo ours;; esac',
        ),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    target = tmp_path / "bundle.tar.gz"

    collect(xds, target, "--capture")

    members = read_bundle(target)
    assert members["capture/ipv4-nat.txt"] == b"rules of nat\n"
    assert members["capture/ipv4-filter.txt"] == b"rules of filter\n"
    assert "capture/ipv6-nat: no such table" in members["problems.txt"].decode()
    assert (members["capture/ipv4-nftables.txt"], members["capture/ipv6-nftables.txt"]) == (b"", b"ours\n")
    assert "nftables" not in members["problems.txt"].decode()
