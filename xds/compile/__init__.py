"""
The pure compiler: one effective policy and the facts around it become one closed snapshot.

`compile_snapshot` is the entry; `serve`, `dump` and `explain` all call it, and `check_policy` finds all that it would
find wrong. `renew_files` is the quick way where nothing but a file changed, and `narrow_moment` says how much of the
time matters to a policy.

What builds Envoy's messages is imported when the first snapshot is compiled: `envoy-data-plane` takes longer to import
than everything else together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.compile.check import Checked, Compilation, check_policy
from xds.compile.proxy_files import narrow_moment

if TYPE_CHECKING:
    from xds.facts import Facts
    from xds.policy.model import Policy

__all__ = ["Checked", "Compilation", "check_policy", "compile_snapshot", "narrow_moment", "renew_files"]


def compile_snapshot(policy: Policy, facts: Facts) -> Compilation:
    """Compile one policy for all the pods that it is in force for."""
    from xds.compile import snapshot  # noqa: PLC0415  # see above

    return snapshot.compile_snapshot(policy, facts)


def renew_files(known: Compilation, policy: Policy, facts: Facts) -> Compilation:
    """
    Return what `compile_snapshot` would, given what it made of facts that differ in files and time only.

    A large policy takes seconds to compile, and a new login must be in force within one.
    """
    from xds.compile import snapshot  # noqa: PLC0415  # see above

    return snapshot.renew_files(known, policy, facts)
