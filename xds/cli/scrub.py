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

import yaml

from xds.errors import redact_logins

REDACTED = "[redacted]"

_SHORTEST = 4
"""Characters of a password from which on it is looked for; shorter ones stand everywhere."""
_SHORTEST_ENCODED = 6
_KEY = re.compile(r"""(?<![\w-])([\w-]++)\\*+["']?[ \t]*+([:=])[ \t]*+""")
"""A key with its separator. Nothing is looked at twice: what is redacted may be large, and hostile."""
_PRIVATE_NAME = re.compile(
    r"passw(?:or)?d|passphrase|(?<![^\W_])pass(?![^\W_])|pwd|token|credential|authori[sz]ation|secret"
    r"|(?:api|access|private)[-_]?key",
    re.IGNORECASE,
)
_PLACE = re.compile(r"(?i)secret[-_]?(?:ref|name|namespace)s?")
"""Keys that say where a secret is."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAME_OF_STRUCTURE = re.compile(r"(?i)auth")
"""Keys of policies that have a map below them; a text there is a mistake."""
_VALUE = re.compile(
    r"""(?s:"(?:[^"\\]|\\.)*+")|'[^']*+'|["'][^\n]*+|[^\s,}\]{\["'|>](?:[^\n,}\]]|[,}\]](?![\s,}\]]|\Z))*+"""
)
"""A comma and a bracket in a text without quotes end it only if something else may begin there."""
_TEXT_AFTER_EQUALS = re.compile(r"""(?s:"(?:[^"\\]|\\.)*+")|'[^']*+'|\S[^\n]*+""")
_REST_IS_BELOW = re.compile(r"(?:[|>][^\n]*|\r)?(?:\n|\Z)")
_LINE = re.compile(r"([ \t]*)(- )?([^\n]*)(?:\n|\Z)")
_FIELD = re.compile(r"""["']?[\w.-]++["']?[ \t]*+:(?:\s|\Z)""")
_OPTION = re.compile(
    r"""(?<![\w-])(-U|-u|--proxy-user|--user)(["']?[\s=,]*+)("[^"\n]*"|'[^'\n]*'|["'][^\n]*|[^\s"'-]\S*)"""
)
"""How curl and others take logins."""
_WORD = re.compile(r"\S+")
_COLONS, _ATS = re.compile(r":|%3a", re.IGNORECASE), re.compile(r"@|%40", re.IGNORECASE)
_SHORT_ENCODED = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{8,}+={0,2}")
_LOGIN = re.compile(r"[^\s:]+:[^\n]+")
_BREAK = r"\r\n\x85\u2028\u2029"
_COMMENT = re.compile(rf"#[^{_BREAK}]*")
_HEAD_OF_BLOCK = re.compile(rf"\A([^#{_BREAK}]*)#[^{_BREAK}]*")
_LIKE_A_COMMENT = re.compile(r"(?m)(^|[ \t])#[^\n]*")
_PRIVATE_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_SCHEME = re.compile(r"(?i)\b(basic|bearer|negotiate)([ \t]+)[A-Za-z0-9+/=._~-]{6,}")
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
_KEY_MARK = b"PRIVATE KEY"


def redact_policy(text: str) -> str:
    """
    Return a policy without what looks like a credential, and without its comments, which may say anything.

    What is left of a comment is its `#`, so that lines keep their numbers.
    """
    try:
        return redact_document(_drop_comments(text))
    except (yaml.YAMLError, ValueError, OverflowError):  # the latter two: escapes that are no characters
        # Where a quoted text ends isn't known; what is found first can't be hidden by a half of it.
        return _LIKE_A_COMMENT.sub(r"\1#", redact_document(text))


def _drop_comments(text: str) -> str:
    """Empty what stands between tokens, and behind the sign that begins a block of text."""
    kept, position = [], 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        start, end = max(position, token.start_mark.index), max(position, token.end_mark.index)
        inside = text[start:end]
        if isinstance(token, yaml.ScalarToken) and token.style in ("|", ">"):
            inside = _HEAD_OF_BLOCK.sub(r"\1#", inside)
        kept += [_COMMENT.sub("#", text[position:start]), inside]
        position = end
    return "".join([*kept, _COMMENT.sub("#", text[position:])])


def redact_document(text: str) -> str:
    """Return somebody's text without what looks like a credential: logins of URLs, passwords, tokens, private keys."""
    text = _PRIVATE_PEM.sub(REDACTED, text)
    if any(_holds_key(match[0]) for match in _ENCODED.finditer(text)):
        # Where one line of base64 is the beginning of a key, the next ones are the rest of it.
        text = _ENCODED.sub(REDACTED, text)
    text = _redact_pairs(text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    text = _OPTION.sub(lambda found: f"{found[1]}{found[2]}{REDACTED}" if ":" in found[3] else found[0], text)
    text = _SHORT_ENCODED.sub(lambda found: REDACTED if _holds_login(found[0]) else found[0], text)
    return _WORD.sub(_redact_escaped, redact_logins(text))


def _redact_pairs(text: str) -> str:
    """Redact what belongs to telling keys."""
    kept, position = [], 0
    while found := _KEY.search(text, position):
        end = found.end()
        if _is_private(found[1], is_inside=text[max(found.start() - 1, 0) : found.start()] == "."):
            below = _REST_IS_BELOW.match(text, end) if found[2] == ":" else None
            value = (_VALUE if found[2] == ":" else _TEXT_AFTER_EQUALS).match(text, end)
            stop = value.end() if value else end if below is None else _find_end(text, found, below)
            if stop > end:
                kept += [text[position:end], f"{REDACTED}\n" if below else REDACTED]
                position = stop
                continue
        kept.append(text[position:end])
        position = end
    return "".join([*kept, text[position:]])


def _is_private(key: str, *, is_inside: bool) -> bool:
    """Say whether a key has a credential; `is_inside` where it ends a path such as `proxies.corp.auth`."""
    name = _HUMP.sub("_", key)
    if _PLACE.fullmatch(key):
        return False
    return bool(_PRIVATE_NAME.search(name) or (not is_inside and _NAME_OF_STRUCTURE.fullmatch(key)))


def _find_end(text: str, key: re.Match[str], head: re.Match[str]) -> int:
    """Return where the text of a key ends that begins in the next line; the end of the key if there is none."""
    indent = _LINE.match(text, text.rfind("\n", 0, key.start()) + 1)
    width = len(indent[1]) if indent else 0
    is_text = bool(head[0].strip())
    position = head.end()
    while position < len(text) and (line := _LINE.match(text, position)):
        if line[2] or line[3].strip():
            if len(line[1]) + bool(line[2]) <= width:
                break
            if not is_text and _FIELD.match(line[3]):
                return key.end()
            is_text = True
        position = line.end()
    return position if is_text else key.end()


def _redact_escaped(word: re.Match[str]) -> str:
    """Leave out a login that is written, or half of it, as in a URL."""
    text = word[0]
    ats = list(_ATS.finditer(text)) if "%" in text else []
    scheme = text.find("://") + 1
    colon = _COLONS.search(text, scheme) if ats else None
    if colon is None or colon.start() > ats[-1].start():
        return text
    start = 1 + max(text.rfind(mark, 0, colon.start()) for mark in "/'\"(={,")
    return f"{text[:start]}{REDACTED}{text[ats[-1].start() :]}"


def _holds_login(encoded: str) -> bool:
    usual = encoded.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        text = b64decode(usual + "=" * (-len(usual) % 4)).decode()
    except (Error, ValueError):
        return False
    return text.rstrip("\r\n").isprintable() and bool(_LOGIN.match(text))


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
