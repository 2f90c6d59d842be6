"""The quick way for a changed file leads where the long way leads."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from xds.compile import compile_snapshot, renew_files
from xds.facts import FileContent, FileProblem
from xds.policy.findings import sort_diagnostics

if TYPE_CHECKING:
    from xds.facts import Facts, File
    from xds.policy.model import Policy

FILES = (
    FileContent("user:new"),
    FileContent("user:one\n"),
    FileContent(""),
    FileProblem("it does not exist", "mend it"),
)


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.too_slow])
@given(policy=strategies.policies(), before=strategies.facts(), file=st.sampled_from(FILES))
def test_renewing_files_is_compiling_anew(policy: Policy, before: Facts, file: File) -> None:
    after = dataclasses.replace(before, files={strategies.LOGIN_FILE: file}, now=1.0)
    known = compile_snapshot(policy, before)
    long_way = compile_snapshot(policy, after)

    quick_way = renew_files(known, policy, after)

    assert quick_way.snapshot == long_way.snapshot
    assert sort_diagnostics(quick_way.diagnostics) == sort_diagnostics(long_way.diagnostics)
