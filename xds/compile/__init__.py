"""
The pure compiler: one effective policy and the facts around it become one closed snapshot.

`compile_snapshot` is the entry; `serve`, `dump`, `validate` and `explain` all call it. `renew_files` is the quick way
where nothing but a file changed, and `narrow_moment` says how much of the time matters to a policy.
"""

from __future__ import annotations

from xds.compile.proxy_files import narrow_moment
from xds.compile.snapshot import Compilation, compile_snapshot, renew_files

__all__ = ["Compilation", "compile_snapshot", "narrow_moment", "renew_files"]
