"""
Amounts of processor time and memory, as Kubernetes writes them: `100m`, `128Mi`.

Only the common forms are read; a sidecar needs no others. Source: Kubernetes' "Resource units".
"""

from __future__ import annotations

import re
from decimal import Decimal

_CPU = re.compile(r"(?:([0-9]{1,6})m|([0-9]{1,3}(?:\.[0-9]{1,3})?))")
_MEMORY = re.compile(r"([0-9]{1,15})(k|M|G|Ki|Mi|Gi)?")
_UNITS = {None: 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
MEBIBYTE = 2**20


def parse_cpu(text: str) -> Decimal:
    """Return thousandths of a processor. Raises ValueError with what to write instead."""
    match = _CPU.fullmatch(text)
    amount = Decimal(0) if match is None else Decimal(match[1]) if match[1] else Decimal(match[2]) * 1000
    if not amount:
        raise ValueError("is no amount of processor time; write one such as 100m or 0.5")
    return amount


def parse_memory(text: str) -> int:
    """Return bytes. Raises ValueError with what to write instead."""
    match = _MEMORY.fullmatch(text)
    size = 0 if match is None else int(match[1]) * _UNITS[match[2]]
    if not size:
        raise ValueError("is no amount of memory; write one such as 128Mi or 1Gi")
    return size
