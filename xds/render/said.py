"""
Texts that a program said of what it was given, such as why an Envoy refuses a resource: they may quote all of it.

Nothing here knows Envoy's messages. Invariant: what looks like a credential is not in what is returned, and it costs no
more than the text is long, for anybody may have written it.
"""

from __future__ import annotations

import re

from xds.errors import redact_logins
from xds.render import REDACTED, redact_text

_VALUE = r"""("[^"\n]*"|'[^'\n]*'|[^\s"',;&}\])]+)"""
_HEADER = re.compile(
    r"""(?i)(authori[sz]ation["']?[ \t]{0,8}[:=][ \t]{0,8}["']?"""
    r"""(?:(?:basic|bearer|negotiate|digest|token)[ \t]{1,8})?)""" + _VALUE
)
_SCHEME = re.compile(r"\b((?i:basic|bearer|negotiate)[ \t]{1,8})(?=[^\s%]{0,256}[A-Z0-9=+/])[A-Za-z0-9+/=._~-]{6,}")
_PASSWORD = re.compile(
    r"""(?i)((?:passw(?:or)?d|passphrase|pwd)["']?[ \t]{0,8}[:=][ \t]{0,8}|(?:token|secret|api[-_]?key)=)""" + _VALUE
)


def redact_said(text: str) -> str:
    """Return what a program said without logins of URLs, values of `Authorization`, passwords, tokens and keys."""
    text = redact_logins(redact_text(text))
    for pattern in (_HEADER, _SCHEME, _PASSWORD):
        text = pattern.sub(rf"\1{REDACTED}", text)
    return text
