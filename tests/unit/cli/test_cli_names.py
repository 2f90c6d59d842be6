"""`xds dump` shows the table of names that Envoy answers for, and `xds validate` what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Runner

POLICY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: names}
spec:
  proxies: {corp: {endpoints: [{url: "http://192.0.2.1:3128"}]}}
  rules:
    - {name: real, to: {domains: [real.partner.example]}, action: direct}
    - {name: db, to: {tcp: [{host: db.partner.example, ports: [5432]}]}, action: tunnel}
    - {name: partner, to: {domains: ["*.partner.example"]}, action: tunnel}
  default: {action: direct}
  dns: {mode: capture, syntheticRange: [198.18.0.0/15, "fd00:18::/64"]}
  dialect: go
"""


def write(directory: Path, text: str = POLICY) -> Path:
    (directory / "policy.yaml").write_text(text, encoding="utf-8")
    return directory


def test_the_table_of_a_dump_counts_the_names_that_are_answered(xds: Runner, tmp_path: Path) -> None:
    output = xds("dump", write(tmp_path), "--type", "listener", "--output", "table").out
    (line,) = [line for line in output.splitlines() if " egress-dns " in line]

    assert line.endswith("answers for 2 names")


def test_a_dump_shows_each_name_with_its_addresses(xds: Runner, tmp_path: Path) -> None:
    output = xds("dump", write(tmp_path), "--type", "listener", "--output", "yaml").out

    assert "- name: db.partner.example" in output
    assert "- name: '*.partner.example'" in output


def test_names_that_share_an_address_are_found_by_validate_with_their_line(xds: Runner, tmp_path: Path) -> None:
    many = POLICY.replace("198.18.0.0/15", "198.18.0.0/30").replace(
        "[{host: db.partner.example,", "[{host: queue.partner.example}, {host: db.partner.example,"
    )
    outcome = xds("validate", write(tmp_path, many))

    assert outcome.code == 1
    assert "policy.yaml:8" in outcome.out + outcome.err
    assert "EX504" in outcome.out + outcome.err
