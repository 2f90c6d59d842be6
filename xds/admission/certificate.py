"""
The certificate that the API server sees, and the authority that its own must be of; exchanged while the server runs.

The files are read and watched by others and handed in. Invariants: a certificate without its key, or a broken one,
changes nothing; connections that are open keep what they began with; where an authority was named, nobody is answered
whom it did not sign.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from xds.compile.certificates import ends_at, read_certificates
from xds.errors import SettingsError
from xds.facts import FileContent, FileProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from xds.facts import File

_log = structlog.stdlib.get_logger(__name__)


class ServerCertificate:
    """
    A certificate and its key, in two PEM files; `load` has to come before `context` is used.

    With `client_ca`, the path of an authority in PEM, clients must show a certificate that it signed.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._texts = ("", "")
        self._ends_at: float | None = None
        self._current = self.context = _new_context()
        """For the server's socket; it follows `reload`."""

    @property
    def files(self) -> frozenset[str]:
        """The paths that `load` and `reload` need."""
        return frozenset(map(str, filter(None, (self._certificate, self._key, self._client_ca))))

    @property
    def ends_at(self) -> float | None:
        """When what is in force ends, in seconds since the epoch; None: it can't be told, or nothing was loaded."""
        return self._ends_at

    def load(self, files: Mapping[str, File]) -> None:
        """Take the files at the start. Raises SettingsError."""
        self._take(self._read(files))

    def reload(self, files: Mapping[str, File]) -> None:
        """Take changed files; what can't be used is told in the log, and what was before stays in force."""
        try:
            texts = self._read(files)
            if texts != self._texts:
                self._take(texts)
                _log.info("certificate for reviews", path=str(self._certificate))
        except SettingsError as error:
            _log.error("the certificate is not used for reviews, the one before stays", reason=str(error))

    def _read(self, files: Mapping[str, File]) -> tuple[str, str]:
        """Return key and certificates as one text, and the authority's, empty without one. Raises SettingsError."""
        texts = {}
        given = (("--tls-key", self._key), ("--tls-certificate", self._certificate))
        for flag, path in (*given, ("--admission-client-ca", self._client_ca)):
            found = FileContent("") if path is None else files[str(path)]
            if isinstance(found, FileProblem):
                raise SettingsError(f"{flag} {path}: {found.message}; {found.hint}")
            texts[flag] = found.text
        return "\n".join(texts[flag] for flag, _ in given), texts["--admission-client-ca"]

    def _take(self, texts: tuple[str, str]) -> None:
        """Use `texts` from now on. Raises SettingsError."""
        # Not the context in use: OpenSSL takes one half of a pair before it fails, and forgets no authority.
        fresh = _new_context()
        if self._client_ca is not None:
            self._demand(fresh, texts[1])
        try:
            with _unnamed_file(texts[0]) as path:
                fresh.load_cert_chain(path, password=_no_password)
        except ssl.SSLError as error:
            raise SettingsError(
                f"--tls-certificate {self._certificate}, --tls-key {self._key}: {error.reason or 'no PEM'}; they must "
                "be a certificate and its own key, without a passphrase"
            ) from None
        if not self._texts[0]:
            # What the socket begins with; each connection goes on with the one that is current then.
            self.context = fresh
            fresh.sni_callback = self._exchange
        self._current, self._texts = fresh, texts
        self._ends_at = min(map(ends_at, read_certificates(texts[0])), default=None)

    def _demand(self, context: ssl.SSLContext, authority: str) -> None:
        """Have callers prove who they are, before they can say anything. Raises SettingsError."""
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError):
            raise SettingsError(
                f"--admission-client-ca {self._client_ca}: no PEM; it must be the certificate of an authority"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
        # No session that an authority of before vouched for is taken up again: those of 1.2 could not be kept from it.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0

    def _exchange(self, connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
        """Give a new connection the newest context; called whether it names a server or not."""
        connection.context = self._current


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
