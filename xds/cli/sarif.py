"""
Findings as SARIF 2.1.0 (OASIS, "Static Analysis Results Interchange Format"), as code scanning takes them.

Pure: nothing here reads a file or prints. Places are URIs relative to the working directory, which is taken for the
root of the sources; a document of a cluster, which has no file, is a URI of the same look and a logical location.
Invariant: what identifies a finding in the next run (its fingerprint) changes with neither its line nor the others.
"""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from xds.catalogue import CATALOGUE, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.catalogue import CatalogueEntry
    from xds.cli.documents import Located

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_VERSION = "2.1.0"
_ROOT = "%SRCROOT%"
_LINES = re.compile(r"(?<=line )\d+|(?<=:)\d+")
"""Numbers of lines in messages about other places."""
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning"}


def render_sarif(located: Sequence[Located], *, version: str, directory: Path) -> dict[str, object]:
    """Return a log with one run. `version` is that of this program, if known; `directory` the working directory."""
    codes = sorted({item.finding.code for item in located})
    rules = [_rule(CATALOGUE[code]) for code in codes]
    driver: dict[str, object] = {"name": "egress-xds", **({"version": version} if version else {}), "rules": rules}
    results = _results(located, {code: index for index, code in enumerate(codes)}, directory)
    run: dict[str, object] = {
        "tool": {"driver": driver},
        "originalUriBaseIds": {_ROOT: {"uri": f"{directory.as_uri()}/"}},
        "invocations": [{"executionSuccessful": True}],
        "columnKind": "unicodeCodePoints",
        "results": list(results),
    }
    return {"$schema": SCHEMA, "version": _VERSION, "runs": [run]}


def _rule(entry: CatalogueEntry) -> dict[str, object]:
    return {
        "id": entry.code,
        "shortDescription": {"text": entry.title},
        "fullDescription": {"text": entry.explanation},
        "help": {"text": entry.explanation, "markdown": f"**{entry.title}.** {entry.explanation}"},
        "defaultConfiguration": {"level": _LEVELS[entry.severity]},
        "properties": {"tags": ["egress-xds"], "problem.severity": entry.severity.value},
    }


def _results(located: Iterable[Located], indices: Mapping[str, int], directory: Path) -> Iterable[dict[str, object]]:
    seen = Counter[str]()
    for item in located:
        finding = item.finding
        uri = _uri(item.file or item.document, directory)
        message = _LINES.sub("", finding.message)
        digest = _digest(finding.code, uri, item.document, finding.where.key, message)
        seen[digest] += 1
        yield {
            "ruleId": finding.code,
            "ruleIndex": indices[finding.code],
            "level": _LEVELS[finding.severity],
            "message": {"text": f"{finding.message}; {finding.hint}"},
            "locations": [_location(item, uri)],
            "partialFingerprints": {"primaryLocationLineHash": f"{digest}:{seen[digest]}"},
        }


def _location(item: Located, uri: str) -> dict[str, object]:
    artifact = {"uri": uri} if uri.startswith("file:") else {"uri": uri, "uriBaseId": _ROOT}
    line = item.line if item.file is not None else item.finding.where.line
    key = item.finding.where.key
    return {
        "physicalLocation": {"artifactLocation": artifact, "region": {"startLine": line or 1}},
        "logicalLocations": [{"fullyQualifiedName": f"{item.document}#{key}" if key else item.document}],
    }


def _uri(source: str, directory: Path) -> str:
    """Return where `source` is below `directory`, or else where it is at all; a source that is no file looks alike."""
    path = Path(source)
    if path.is_absolute() or ".." in path.parts:
        whole = Path(normpath(directory / path))
        if not whole.is_relative_to(directory):
            return whole.as_uri()
        path = whole.relative_to(directory)
    return quote(str(path).strip("<>"))


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:16]
