"""
The pure compiler: one effective policy and the facts around it become one closed snapshot.

`compile_snapshot` is the only entry; `serve`, `dump`, `validate` and `explain` all call it.
"""

from __future__ import annotations

from xds.compile.snapshot import Compilation, compile_snapshot

__all__ = ["Compilation", "compile_snapshot"]
