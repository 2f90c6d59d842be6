"""
Garbage collection for a process that holds thousands of streams.

Python looks for cycles through everything that lives, again and again, while streams are opened and pushes are
written; all streams wait meanwhile. Almost nothing here is garbage: a stream lives for days, a world until the next.

This is the process's business, so only a composition root may call it. Invariant: cycles are still found, only later.
"""

from __future__ import annotations

import gc

_YOUNG = 50_000
"""Objects made, less those freed, after which the young ones are looked through; Python ships with hundreds."""
_MIDDLE, _OLD = 20, 50
"""How many looks at one generation come before a look at the next."""


def relax_collection() -> None:
    """Spare what lives now for good, and look for cycles less often; call it when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
