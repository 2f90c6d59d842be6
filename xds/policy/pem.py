"""
Certificates in PEM, or in base64 of it, made canonical.

Nothing here looks inside a certificate. Text that comes from a PEM block never enters a message, because people put
keys there by mistake.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from xds.policy.hosts import Problem

if TYPE_CHECKING:
    from xds.policy.findings import Findings
    from xds.policy.yaml_lines import Node

MAX_AUTHORITIES = 96 * 1024
"""Characters of PEM for applications: a container's variable carries them, and the kernel takes 128 KiB for one."""

_PEM_BEGIN = "-----BEGIN"
_PEM_MARKER = re.compile(r"-----(BEGIN|END) CERTIFICATE-----")
_LINE = 64


def parse_pem(text: str) -> str | Problem:
    """Return the certificates of a PEM text, or of its base64, without whatever stands around them."""
    if _PEM_BEGIN not in text:
        text = (_decode(text) or b"").decode("ascii", errors="replace")
    if _PEM_BEGIN not in text:
        return Problem("EX307", "this is neither PEM nor base64 of PEM", _PEM_HINT)
    if "PRIVATE KEY" in text:
        hint = "remove the key and consider it known: only certificates belong here"
        return Problem("EX307", "this holds a private key", hint)
    bodies = [_decode(body) for body in _certificate_bodies(text)]
    if not bodies or not all(bodies):
        return Problem("EX307", "this is not a series of whole PEM blocks of certificates", _PEM_HINT)
    return "".join(_render_certificate(body) for body in bodies if body is not None)


def read_trusted_ca(text: str | None, node: Node, findings: Findings) -> str | None:
    """Return the company's authorities in PEM; None: there are none, or they can't be used."""
    pem = None if text is None else parse_pem(text)
    if isinstance(pem, Problem):
        findings.add(pem.code, node, pem.message, pem.hint)
        return None
    if pem is not None and len(pem) > MAX_AUTHORITIES:
        message = f"the authorities have {len(pem)} characters, more than {MAX_AUTHORITIES}"
        findings.add("EX331", node, message, "give only the company's own; the system's are kept anyway")
        return None
    return pem


def _certificate_bodies(text: str) -> list[str]:
    """Return what stands between the markers; empty if they are not pairs of `BEGIN` and `END CERTIFICATE`."""
    markers = list(_PEM_MARKER.finditer(text))
    begins, ends = markers[::2], markers[1::2]
    if len(begins) != len(ends) or len(markers) != text.count(_PEM_BEGIN) + text.count("-----END"):
        return []
    if any(begin[1] != "BEGIN" or end[1] != "END" for begin, end in zip(begins, ends, strict=True)):
        return []
    return [text[begin.end() : end.start()] for begin, end in zip(begins, ends, strict=True)]


_PEM_HINT = "give one or more `-----BEGIN CERTIFICATE-----` blocks, as they are or in base64"


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _render_certificate(body: bytes) -> str:
    encoded = base64.b64encode(body).decode()
    lines = [encoded[start : start + _LINE] for start in range(0, len(encoded), _LINE)]
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))
