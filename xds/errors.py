"""
Failures of the environment: the one small exception tree of the project.

A user's mistake in a policy is a `Diagnostic`, not an exception; a bug is an `assert`. What is left
is the world around us, and each edge turns the exceptions of its library into one of these::

    EgressXdsError
    ├── SettingsError              a flag or an environment variable is unusable      (exit code 2)
    ├── SourceError                a policy source can't be read                      (exit code 2)
    ├── ListenError                the server can't take its address                  (exit code 3)
    ├── UnreachableError           a server that the command needs does not answer    (exit code 3)
    ├── CaptureError               the kernel or iptables refuses the capture rules   (exit code 3)
    ├── InjectionError             a pod can't get what it asks for                   (exit code 1)
    ├── NoSuchPodError             what a command is about is not there               (exit code 1)
    ├── AddressNeededError         what explains must be told an address              (exit code 2)
    └── UnknownConfigurationError  what explains can't read what an Envoy has         (exit code 1)

Every message names the object, what is wrong with it and what to try next. No message ever holds a
credential: what a user gave us is shown by `quote_value`, and each message goes through `redact_logins`. Nor does one
hold what a terminal would obey, or a line that looks like another message: see `clean_text`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACTED = "[redacted]"

_WORD = re.compile(r"\S+")
_ENDS_AUTHORITY = re.compile(r"[/\r\n]")
_LOGIN_OF_URL = re.compile(r"://[^/\r\n]+@")
"""Blanks in a URL are a mistake, and the login is there all the same. No two matches begin in one stretch: linear."""
_MARGIN = 8
"""Times the length to show that is looked at: what is left out of a login makes a message shorter."""
_BEFORE_A_LOGIN = "'\"(="
"""What a login does not begin with, though it stands in one word with it."""


def redact_logins(text: str) -> str:
    """
    Return a message without the logins of the URLs in it, even with blanks in them.

    A path or a mail address, which has no colon, stays, unless it follows a URL without a path in the same line.

    Linear in the text, for a client may have written it.
    """
    if "@" not in text:
        return text
    return _WORD.sub(_redact_word, _LOGIN_OF_URL.sub(f"://{REDACTED}@", text))


def cut_redacted(text: str, most: int) -> str:
    """
    Return at most the first `most` characters of a message, without the logins of the URLs in it.

    Only what may be shown is looked at, and of that no word with a colon that is cut through: half of a login would not
    be known as one. Nor is a URL looked at that may go on, for its login may have blanks in it.
    """
    head = text[: _MARGIN * most]
    if len(head) < len(text):
        *before, last = head.rsplit(None, 1) or [""]
        head = "".join(before) if ":" in last else head
        before_login, mark, rest = head.rpartition("://")
        head = before_login if mark and not _ENDS_AUTHORITY.search(rest) else head
    return redact_logins(head)[:most]


def _redact_word(word: re.Match[str]) -> str:
    """Leave out `user:password`, with the scheme before it: all that stands together before the last `@`."""
    text = word[0]
    end = text.rfind("@")
    colon = text.find(":", 0, max(end, 0))
    if colon < 0:
        return text
    start = 1 + max(text.rfind(mark, 0, colon) for mark in _BEFORE_A_LOGIN)
    return f"{text[:start]}{REDACTED}{text[end:]}"


def quote_value(value: str) -> str:
    """Quote a value that somebody gave us, for a message, without anything that stands before its last `@`."""
    _, at, rest = value.rpartition("@")
    return repr(f"{REDACTED}@{rest}" if at else value)


def clean_text(text: str) -> str:
    """
    Return text that somebody gave us on one line, as long as it is, without what a terminal would obey.

    Whitespace becomes spaces. What else has no glyph becomes U+FFFD: control characters, those that turn the direction
    of writing, and halves of surrogate pairs, which can't be written at all.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else _replace(letter) for letter in text)


def _replace(letter: str) -> str:
    return " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}"


def clean_lines(text: str) -> str:
    """Return text of several lines that are ours, each of them clean."""
    return "\n".join(map(clean_text, text.split("\n")))


class EgressXdsError(Exception):
    """Base of every failure that the project raises on purpose, in one line; `exit_code` is the CLI's."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(clean_text(redact_logins(message)))


class SettingsError(EgressXdsError):
    """A flag or an environment variable has an unusable value."""

    exit_code = 2


class SourceError(EgressXdsError):
    """A policy source (a directory, later a cluster) can't be read at all."""

    exit_code = 2


class ListenError(EgressXdsError):
    """The server can't take the address it was told to listen on."""

    exit_code = 3


class UnreachableError(EgressXdsError):
    """A server that this command needs does not answer, or breaks off."""

    exit_code = 3


class CaptureError(EgressXdsError):
    """The capture rules can't be read, applied or removed."""

    exit_code = 3


class InjectionError(EgressXdsError):
    """A pod asks for what it can't get; `problems` are all reasons, each with its remedy."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(clean_text(redact_logins(problem)) for problem in problems)
        super().__init__("; ".join(self.problems))
