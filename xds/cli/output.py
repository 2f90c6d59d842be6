"""
What the verbs print with: findings, tables, YAML and JSON.

Data goes to stdout through `click.echo`, which drops colours where nobody sees them. Nothing here knows a verb.
Invariant: what is rendered here has no control character but newlines and colours, whatever the values hold, and can
be encoded.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from xds.catalogue import Severity
from xds.errors import clean_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from xds.diagnostics import Diagnostic

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}
_UNWANTED = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
"""What JSON may hold as it is (RFC 8259, section 7), though a terminal obeys it or UTF-8 has nothing for it."""

_BREAKS = re.compile(r"[\u2028\u2029]")
"""What YAML writes as it is, and some take for the end of a line."""


def style_diagnostic(finding: Diagnostic) -> str:
    """Return the line of `str(finding)`, coloured."""
    place = click.style(clean_text(str(finding.where)), bold=True)
    return f"{place}: {style_severity(finding)}: {clean_text(f'{finding.message}; {finding.hint}')}"


def style_severity(finding: Diagnostic) -> str:
    """Return how bad a finding is, and its code, coloured."""
    return click.style(f"{finding.severity.value}[{finding.code}]", fg=_COLOURS[finding.severity], bold=True)


def describe_diagnostic(finding: Diagnostic) -> dict[str, object]:
    """Return a finding as a JSON object."""
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "source": finding.where.source,
        "line": finding.where.line,
        "key": finding.where.key,
        "message": finding.message,
        "hint": finding.hint,
    }


def render_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, paint: Callable[[str], str] | None = None
) -> str:
    """
    Align columns with spaces; what follows the last column is not cut, so that the text survives a pipe.

    Cells are plain text; `paint` colours the last one of each row.
    """
    lines = [header, *([clean_text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header) - 1)]
    ends = [line[-1] if paint is None or not index else paint(line[-1]) for index, line in enumerate(lines)]
    return "\n".join(
        "  ".join([*map(str.ljust, line, widths), end]).rstrip() for line, end in zip(lines, ends, strict=True)
    )


def render_json(value: object, *, indent: int | None = 2) -> str:
    """Return JSON, keys in the order given; without `indent`, on one line."""
    return _UNWANTED.sub(_escape, json.dumps(value, indent=indent, ensure_ascii=False))


def _escape(letter: re.Match[str]) -> str:
    return f"\\u{ord(letter[0]):04x}"


def render_yaml(value: object) -> str:
    """Return YAML in block style, keys in the order given."""
    import yaml  # noqa: PLC0415  # most output is a table or JSON

    # libyaml's, where PyYAML was built with it: ten times faster.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    try:
        text = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    except UnicodeEncodeError:  # libyaml works with UTF-8, which has nothing for half of a surrogate pair
        text = ""
    if not text or _UNWANTED.search(text) or _BREAKS.search(text):
        text = yaml.dump(value, Dumper=yaml.SafeDumper, sort_keys=False, width=120)
    assert isinstance(text, str)
    return text.removesuffix("\n")


def count_of(count: int, noun: str) -> str:
    """Return e.g. `1 error` or `3 errors`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"
