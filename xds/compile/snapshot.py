"""
`compile_snapshot`: the list of steps from a policy to its resources.

Pure: no clock, network, environment, randomness or logging. Equal arguments give byte-equal results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds.diagnostics import Diagnostic
    from xds.facts import Facts
    from xds.policy.model import Policy
    from xds.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Compilation:
    """The result: `snapshot` is None exactly if a diagnostic is an error."""

    snapshot: Snapshot | None
    diagnostics: tuple[Diagnostic, ...]


def compile_snapshot(policy: Policy, facts: Facts) -> Compilation:
    """Compile one policy for all the pods that it is in force for."""
    raise NotImplementedError
