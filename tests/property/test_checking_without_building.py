"""Who only checks policies hears all that one would who builds what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support import strategies
from xds.compile import check_policy, compile_snapshot
from xds.facts import Facts
from xds.judge import Judge, SourceRead
from xds.policy.parse import Document

if TYPE_CHECKING:
    from xds.policy.model import Policy

EXAMPLES = settings().max_examples // 5
GOLDEN = Path(__file__).parents[1] / "golden"


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(policy=strategies.policies(), facts=strategies.facts())
def test_a_policy_is_found_good_exactly_if_it_compiles(policy: Policy, facts: Facts) -> None:
    checked, compiled = check_policy(policy, facts), compile_snapshot(policy, facts)

    assert checked.diagnostics == compiled.diagnostics
    assert checked.is_good == (compiled.snapshot is not None)


@pytest.mark.parametrize("reads_files", [True, False], ids=["files are read", "files are on another machine"])
def test_documents_are_judged_alike(*, reads_files: bool) -> None:
    """All golden cases at once, so that names clash, too; and good ones, each alone."""
    documents = tuple(Document(str(path), path.read_text()) for path in sorted(GOLDEN.glob("*/*.yaml")))
    facts = Facts(reads_files=reads_files, now=0.0)
    assert documents

    for read in (SourceRead(documents), *(SourceRead((document,)) for document in documents)):
        building, checking = Judge(), Judge(builds=False)
        built = building.judge(building.parse(read), facts)
        checked = checking.judge(checking.parse(read), facts)

        assert checked.documents == built.documents
        assert {key: (entry.source, entry.policy) for key, entry in checked.served.items()} == {
            key: (entry.source, entry.policy) for key, entry in built.served.items()
        }
        assert checked.world.candidates == built.world.candidates
