"""
Takes secrets out of what is handed to others: those that are known, in every form, and what looks like one.

A policy holds no secret by design; somebody may have written one by mistake, and that is what support is asked about.
Invariant: no known secret leaves `Scrubber.scrub`, not as it is, not as base64 of it or of a text around it, and not
escaped for JSON or a URL.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from binascii import Error
from urllib.parse import quote

from xds.errors import redact_logins

REDACTED = "[redacted]"

_SHORTEST = 4
"""Characters of a password from which on it is looked for; shorter ones stand everywhere."""
_SHORTEST_ENCODED = 6
_KEYS = r"[\w-]*(?:passw(?:or)?d|pwd|token|credential|authorization|api[-_]?key|private[-_]?key)[\w-]*|secret"
_PAIR = re.compile(
    rf"""(?i)(?<![\w-])((?:{_KEYS})["']?[ \t]*[:=][ \t]*)("[^"\n]*"|'[^'\n]*'|[^\s,}}\]{{\["'|>][^\n,}}\]]*)"""
)
_BLOCK = re.compile(
    rf"""(?im)^([ \t]*)((?:- )?["']?(?:{_KEYS})["']?[ \t]*:[ \t]*)[|>][^\n]*\n(?:(?:\1[ \t]+[^\n]*)?(?:\n|\Z))+"""
)
_PRIVATE_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_SCHEME = re.compile(r"(?i)\b(basic|bearer|negotiate)([ \t]+)[A-Za-z0-9+/=._~-]{6,}")
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
_KEY_MARK = b"PRIVATE KEY"


def redact_document(text: str) -> str:
    """Return somebody's text without what looks like a credential: logins of URLs, passwords, tokens, private keys."""
    text = _PRIVATE_PEM.sub(REDACTED, text)
    if any(_holds_key(match[0]) for match in _ENCODED.finditer(text)):
        # Where one line of base64 is the beginning of a key, the next ones are the rest of it.
        text = _ENCODED.sub(REDACTED, text)
    text = _BLOCK.sub(rf"\1\2{REDACTED}\n", text)
    text = _PAIR.sub(rf"\1{REDACTED}", text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    return redact_logins(text)


def _holds_key(encoded: str) -> bool:
    usual = encoded.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return _KEY_MARK in b64decode(usual[: len(usual) // 4 * 4])
    except (Error, ValueError):
        return False


class Scrubber:
    """Knows secrets, and takes them out of bytes."""

    def __init__(self) -> None:
        self._forms: set[bytes] = set()

    def learn_login(self, login: str) -> None:
        """Take a login, `user:password`, for a secret as a whole, and its password for one of its own."""
        login = login.strip()
        _, _, password = login.partition(":")
        self._learn(login)
        if len(password) >= _SHORTEST:
            self._learn(password)

    def learn_key(self, pem: str) -> None:
        """Take every line of a private key for a secret."""
        for line in pem.split("\n"):
            text = line.strip()
            if text and not text.startswith("-----"):
                self._learn(text)

    def scrub(self, content: bytes) -> bytes:
        """Return `content` with each known secret replaced."""
        # The longest first, for a login holds its password.
        for form in sorted(self._forms, key=lambda item: (-len(item), item)):
            content = content.replace(form, REDACTED.encode())
        return content

    def _learn(self, secret: str) -> None:
        if not secret:
            return
        plain = secret.encode()
        in_json = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
        self._forms |= {plain, *(text.encode() for text in in_json), quote(secret, safe="").encode()}
        for encode in (b64encode, urlsafe_b64encode):
            self._forms.add(encode(plain))
            for offset in range(3):
                # What stands around it changes the first and the last character only.
                start, end = -(-offset * 8 // 6), (offset + len(plain)) * 8 // 6
                inner = encode(b"\0" * offset + plain)[start:end]
                if len(inner) >= _SHORTEST_ENCODED:
                    self._forms.add(inner)


def redact_values(value: object) -> object:
    """Return a JSON value with each text redacted as `redact_document` does."""
    match value:
        case str():
            return redact_document(value)
        case dict():
            return {key: redact_values(item) for key, item in value.items()}
        case list() | tuple():
            return [redact_values(item) for item in value]
        case _:
            return value
