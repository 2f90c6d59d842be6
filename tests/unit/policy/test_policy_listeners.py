"""`accessLog` and `explicit`: what they default to, and what nonsense is refused at its place."""

from __future__ import annotations

import pytest

from tests.unit.policy.policy_texts import good, long_form, only, parse
from xds.policy.model import EXPLICIT_PORT, STDOUT


def spec(extra: str) -> str:
    return long_form(f"default: {{action: deny}}\n{extra}")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", STDOUT),
        ("accessLog: {}", STDOUT),
        ("accessLog: {path: stdout}", STDOUT),
        ("accessLog: {path: off}", None),
        ("accessLog: {path: 'off'}", None),
        ("accessLog: {path: /var/log/egress.log}", "/var/log/egress.log"),
    ],
)
def test_the_log_goes_to_stdout_a_file_or_nowhere(extra: str, expected: str | None) -> None:
    assert good(spec(extra)).access_log == expected


@pytest.mark.parametrize(
    "path", ["egress.log", "STDOUT", "/var/../etc/passwd", "/var/log/", '"/a\\nb"', "''", "stderr"]
)
def test_a_place_for_the_log_that_is_none_is_refused(path: str) -> None:
    finding = only(parse(spec(f"accessLog: {{path: {path}}}")))
    assert (finding.code, finding.where.key, finding.where.line) == ("EX109", "spec.accessLog.path", 6)
    assert "stdout" in finding.hint


@pytest.mark.parametrize(
    ("extra", "expected"), [("", None), ("explicit: {}", EXPLICIT_PORT), ("explicit: {port: 3128}", 3128)]
)
def test_explicit_mode_is_off_unless_its_key_is_there(extra: str, expected: int | None) -> None:
    assert good(spec(extra)).explicit_port == expected


@pytest.mark.parametrize("port", [15000, 15001, 15053, 0, 80, 65536])
def test_a_port_that_is_taken_or_not_free_to_take_is_refused(port: int) -> None:
    finding = only(parse(spec(f"explicit: {{port: {port}}}")))
    assert (finding.code, finding.where.key) == ("EX109", "spec.explicit.port")
