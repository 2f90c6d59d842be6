"""
What the verbs print with: findings, tables, YAML and JSON.

Data goes to stdout through `click.echo`, which drops colours where nobody sees them. Nothing here knows a verb.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from xds.catalogue import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.diagnostics import Diagnostic

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def style_diagnostic(finding: Diagnostic) -> str:
    """Return the line of `str(finding)`, coloured."""
    place = click.style(str(finding.where), bold=True)
    return f"{place}: {style_severity(finding)}: {finding.message}; {finding.hint}"


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


def render_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns with spaces; what follows the last column is not cut, so that the text survives a pipe."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def render_json(value: object) -> str:
    """Return indented JSON, keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def render_yaml(value: object) -> str:
    """Return YAML in block style, keys in the order given."""
    import yaml  # noqa: PLC0415  # most output is a table or JSON

    # libyaml's, where PyYAML was built with it: ten times faster.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120)
    assert isinstance(text, str)
    return text.removesuffix("\n")


def count_of(count: int, noun: str) -> str:
    """Return e.g. `1 error` or `3 errors`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"
