"""
The certificate that the API server sees, exchanged while the server runs.

The files are read and watched by others and handed in. Invariant: a certificate without its key, or a broken one,
changes nothing; connections that are open keep what they began with.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from xds.errors import SettingsError
from xds.facts import FileProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from xds.facts import File

_log = structlog.stdlib.get_logger(__name__)


class ServerCertificate:
    """A certificate and its key, in two PEM files; `load` has to come before `context` is used."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._text = ""
        self.context = _new_context()
        """For the server's socket; it follows `reload`."""

    @property
    def files(self) -> frozenset[str]:
        """The paths that `load` and `reload` need."""
        return frozenset({str(self._certificate), str(self._key)})

    def load(self, files: Mapping[str, File]) -> None:
        """Take the files at the start. Raises SettingsError."""
        self._take(self._read(files))

    def reload(self, files: Mapping[str, File]) -> None:
        """Take changed files; what can't be used is told in the log, and what was before stays in force."""
        try:
            text = self._read(files)
            if text != self._text:
                self._take(text)
                _log.info("certificate for reviews", path=str(self._certificate))
        except SettingsError as error:
            _log.error("the certificate is not used for reviews, the one before stays", reason=str(error))

    def _read(self, files: Mapping[str, File]) -> str:
        """Return key and certificates as one text. Raises SettingsError."""
        texts = []
        for flag, path in (("--tls-key", self._key), ("--tls-certificate", self._certificate)):
            found = files[str(path)]
            if isinstance(found, FileProblem):
                raise SettingsError(f"{flag} {path}: {found.message}; {found.hint}")
            texts.append(found.text)
        return "\n".join(texts)

    def _take(self, text: str) -> None:
        """Use `text` from now on. Raises SettingsError."""
        try:
            with _unnamed_file(text) as path:
                # A pair that does not fit would spoil the context in use: OpenSSL takes one of them before it fails.
                _new_context().load_cert_chain(path, password=_no_password)
                self.context.load_cert_chain(path, password=_no_password)
        except ssl.SSLError as error:
            raise SettingsError(
                f"--tls-certificate {self._certificate}, --tls-key {self._key}: {error.reason or 'no PEM'}; they must "
                "be a certificate and its own key, without a passphrase"
            ) from None
        self._text = text


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _no_password() -> str:
    """OpenSSL would ask on the terminal otherwise."""
    return ""


@contextmanager
def _unnamed_file(text: str) -> Iterator[str]:
    """Return a path to `text` for OpenSSL, which reads files only; it is in memory and has no name."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
