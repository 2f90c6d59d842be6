"""Of many policies, only the one that is asked for is compiled: each may take seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xds.compile import snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command_line import Runner
    from xds.compile import Compilation
    from xds.facts import Facts
    from xds.policy.model import Policy

POLICY = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  selector: {{namespaces: [{name}]}}
  default: {{action: direct}}
"""

CASES = [
    pytest.param(["explain", "--policy", "bank", "x.example:443"], ["bank"], id="explain a policy"),
    pytest.param(["explain", "web-0.shop", "x.example:443"], ["shop"], id="explain a pod"),
    pytest.param(["explain", "web-0.nobody", "x.example:443"], ["refuse-all"], id="explain a pod without a policy"),
    pytest.param(["dump", "--policy", "bank"], ["bank"], id="dump a policy"),
    pytest.param(["dump", "--node", "web-0.shop"], ["shop"], id="dump a pod"),
    pytest.param(["dump", "--node", "web-0.nobody"], ["refuse-all"], id="dump a pod without a policy"),
]


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_one_policy_is_compiled(
    xds: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[str]
) -> None:
    for name in ("bank", "shop"):
        (tmp_path / f"{name}.yaml").write_text(POLICY.format(name=name))
    compiled: list[str] = []
    really = snapshot.compile_snapshot

    def compile_one(policy: Policy, facts: Facts) -> Compilation:
        compiled.append(policy.name)
        return really(policy, facts)

    monkeypatch.setattr(snapshot, "compile_snapshot", compile_one)

    outcome = xds(*words, tmp_path, "--no-resolve", "--resolv-conf", "")

    assert outcome.out, outcome.err
    assert compiled == expected
