"""Findings are kept up to a bound, and what was not kept is not forgotten."""

from __future__ import annotations

import pytest

from xds.policy.findings import Findings, quote
from xds.policy.yaml_lines import Broken

ERROR, WARNING = "EX103", "EX221"
SPOT = Broken("a", 1)


def collect(*codes: str, most: int | None) -> Findings:
    findings = Findings("a.yaml", most)
    for code in codes:
        findings.add(code, SPOT, "message", "hint")
    return findings


def test_without_a_bound_all_are_kept() -> None:
    findings = collect(*[ERROR] * 5000, most=None)
    assert (len(findings), len(findings.since(0)), findings.is_full) == (5000, 5000, False)


def test_warnings_never_take_the_room_of_errors() -> None:
    findings = collect(*[WARNING] * 5, *[ERROR] * 2, most=3)
    assert [item.code for item in findings.since(0)] == [WARNING] * 3 + [ERROR] * 2
    assert (len(findings), findings.is_full, findings.has_lost_errors(0)) == (7, False, False)


def test_what_was_found_since_a_mark_is_known_even_if_earlier_ones_were_not_kept() -> None:
    findings = collect(*[WARNING] * 5, most=3)
    mark = len(findings)
    findings.add(ERROR, SPOT, "message", "hint")

    assert [item.code for item in findings.since(mark)] == [ERROR]
    assert (findings.has_errors(mark), findings.has_errors(len(findings))) == (True, False)


@pytest.mark.parametrize("is_told", [True, False])
def test_errors_that_were_not_kept_are_errors_since_every_mark_before_them(is_told: bool) -> None:
    findings = collect(*[ERROR] * 2, most=2)
    assert (findings.is_full, findings.has_lost_errors(0)) == (True, False)
    mark = len(findings)
    if is_told:
        findings.add(ERROR, SPOT, "message", "hint")
    else:
        findings.count_errors(1)

    assert (len(findings), findings.since(mark)) == (3, ())
    assert (findings.has_errors(mark), findings.has_lost_errors(mark)) == (True, True)
    assert not findings.has_errors(len(findings))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:c4n4ry", "`http://…`"),
        ("http://user:c4n4ry x@proxy.example", "`…@proxy.example`"),
        ("http://user:c4n4ry x", "`http://… …`"),
        ("user:c4n4ry http://proxy.example", "`…://proxy.example`"),
        ("http://proxy.example:3128/?token=c4n4ry", "`http://proxy.example:3128/…`"),
        ("http://proxy.example?token=c4n4ry", "`http://proxy.example?…`"),
        ("http://user:c4n4ry@proxy.example:3128/x?token=c4n4ry", "`…@proxy.example:3128/…`"),
        ("http://user:c4n4ry@proxy.example?token=c4n4ry", "`…@proxy.example`"),
        ("https://[2001:db8::1]:3128/", "`https://[2001:db8::1]:3128/`"),
        ("http://2001:db8::1", "`http://2001:db8::1`"),
        ("*.corp.example:8443", "`*.corp.example:8443`"),
        ("a?.example", "`a?.example`"),
    ],
)
def test_of_a_url_what_may_be_a_secret_is_not_shown(text: str, shown: str) -> None:
    assert quote(text) == shown
