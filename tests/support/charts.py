"""The chart with other values than its own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.support.manifests import Chart

if TYPE_CHECKING:
    from collections.abc import Mapping

_RANGE = re.compile(r"\{\{- range (?P<values>\.Values(?:\.\w+)+) \}\}\n(?P<body>.*?)\{\{- end \}\}\n", re.DOTALL)


class ChartWith(Chart):
    """The chart with these values in place of some of its own; lists of plain values are understood, too."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        _merge(self.values, values or {})

    def _render(self, text: str) -> str:
        return super()._render(_RANGE.sub(self._unroll, text))

    def _unroll(self, found: re.Match[str]) -> str:
        items = self.look_up(found["values"])
        quoted = [found["body"].replace("{{ . | quote }}", "\0").replace("{{ . }}", str(item)) for item in items]
        return "".join(body.replace("\0", json.dumps(item)) for body, item in zip(quoted, items, strict=True))


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key not in into:
            raise KeyError(key)
        if isinstance(value, dict) and into[key]:
            _merge(into[key], value)
        else:
            into[key] = value
