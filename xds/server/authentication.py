"""
Who may connect: what the operator demands of callers, and the files that it depends on.

All proofs that are demanded must be given, and each must fit the node. The files are read by the composition root,
which hands in what they hold at the start and whenever they change. Invariant: files that can't be used keep those
before them in force; nobody gets in because of one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from xds.errors import SettingsError
from xds.facts import FileProblem
from xds.server.credentials import MaterialError, TlsIdentity, identify_peer
from xds.server.identity import Caller, IdentityError
from xds.server.tokens import KeySetError, TokenVerifier

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import grpc

    from xds.facts import File
    from xds.server.session import Context
    from xds.settings import Settings

_SCHEME = "bearer "

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Tls:
    certificate: Path
    key: Path
    client_ca: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.certificate, self.key, *([self.client_ca] if self.client_ca else []))

    def __str__(self) -> str:
        flags = [f"--tls-certificate {self.certificate}", f"--tls-key {self.key}"]
        return ", ".join([*flags, *([f"--client-ca {self.client_ca}"] if self.client_ca else [])])

    def texts(self, files: Mapping[str, File]) -> tuple[str, str, str | None]:
        """Return certificate, key and authority. Raises SettingsError."""
        client_ca = None if self.client_ca is None else _text("--client-ca", self.client_ca, files)
        certificate, key = _text("--tls-certificate", self.certificate, files), _text("--tls-key", self.key, files)
        return certificate, key, client_ca


class Authentication:
    """The demands of one server."""

    def __init__(self, settings: Settings) -> None:
        """Demand what the settings say; `load` has to come before anybody is served."""
        self._tls = (
            _Tls(settings.tls_certificate, settings.tls_key, settings.client_ca)
            if settings.tls_certificate is not None and settings.tls_key is not None
            else None
        )
        self._jwks = settings.jwks
        self._tokens = TokenVerifier(settings.token_audience, settings.token_issuer)
        self._identity: TlsIdentity | None = None
        self._key_set = ""

    @property
    def files(self) -> frozenset[str]:
        """The paths that `load` and `reload` need."""
        paths = (*(self._tls.paths if self._tls else ()), *([self._jwks] if self._jwks else []))
        return frozenset(map(str, paths))

    def load(self, files: Mapping[str, File]) -> None:
        """Take the files at the start. Raises SettingsError."""
        if self._tls is not None:
            try:
                self._identity = TlsIdentity(*self._tls.texts(files), now=time.time())
            except MaterialError as error:
                raise SettingsError(f"{self._tls}: {error}; correct the files") from None
            self._warn_of_end()
        if self._jwks is not None:
            try:
                self._key_set = _text("--jwks", self._jwks, files)
                left_out = self._tokens.replace_keys(self._key_set)
            except KeySetError as error:
                raise SettingsError(f"--jwks {self._jwks}: {error}; save the issuer's JWKS there") from None
            self._warn_of_keys(left_out)

    def reload(self, files: Mapping[str, File]) -> None:
        """Take changed files; what can't be used is told in the log, and what was before stays in force."""
        if self._tls is not None and self._identity is not None:
            try:
                if self._identity.replace(*self._tls.texts(files), now=time.time()):
                    _log.info("certificate for new connections", path=str(self._tls.certificate))
                    self._warn_of_end()
            except (MaterialError, SettingsError) as error:
                _log.error("the certificate is not used, the one before stays", reason=str(error))
        if self._jwks is not None:
            try:
                text = _text("--jwks", self._jwks, files)
                if text != self._key_set:
                    self._warn_of_keys(self._tokens.replace_keys(text))
                    _log.info("key set for new streams", path=str(self._jwks))
                self._key_set = text
            except (KeySetError, SettingsError) as error:
                _log.error("the key set is not used, the one before stays", path=str(self._jwks), reason=str(error))

    def _warn_of_end(self) -> None:
        if self._identity is not None and self._identity.warns_at <= time.time():
            _log.warning("the server's certificate ends soon", path=str(self._tls and self._tls.certificate))

    def _warn_of_keys(self, left_out: int) -> None:
        if left_out:
            _log.warning(
                "members of the key set are no keys that could be used", left_out=left_out, path=str(self._jwks)
            )

    def credentials(self) -> grpc.ServerCredentials | None:
        """Return the server's credentials; None: without TLS."""
        return None if self._identity is None else self._identity.credentials()

    def authenticate(self, context: Context) -> tuple[Caller, ...]:
        """Return what the caller proves, one after the other. Raises IdentityError if a proof is missing or bad."""
        callers = []
        if self._tls is not None and self._tls.client_ca is not None:
            callers.append(identify_peer(context.auth_context()))
        if self._jwks is not None:
            callers.append(self._tokens.verify(_token(context)))
        return tuple(callers)


def _text(flag: str, path: Path, files: Mapping[str, File]) -> str:
    """Return what `path` holds. Raises SettingsError."""
    found = files[str(path)]
    if isinstance(found, FileProblem):
        raise SettingsError(f"{flag} {path}: {found.message}; {found.hint}")
    return found.text


def _token(context: Context) -> str:
    """Return the caller's one bearer token (RFC 6750, section 2.1). Raises IdentityError."""
    given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(given) != 1 or not isinstance(given[0], str) or given[0][: len(_SCHEME)].lower() != _SCHEME:
        raise IdentityError("it sent no bearer token")
    return given[0][len(_SCHEME) :].strip()
