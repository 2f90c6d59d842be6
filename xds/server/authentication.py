"""
Who may connect: what the operator demands of callers, and the files or others that it depends on.

All proofs that are demanded must be given, and each must fit the node. The files are read by the composition root,
which hands in what they hold at the start and whenever they change; a cluster's keys are asked for when they are
needed. Invariant: files and key sets that can't be used keep those before them in force, and who can't be asked has
not agreed; nobody gets in because of either.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import structlog

from xds.errors import SettingsError
from xds.facts import FileProblem
from xds.server.credentials import MaterialError, TlsIdentity, identify_peer
from xds.server.identity import Caller, IdentityError, UndecidedError
from xds.server.tokens import KeySetError, TokenVerifier, UnknownKeyError, identify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
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


class KeySource(Protocol):
    """Who tells an issuer's keys while the server runs, such as an API server those of its own tokens."""

    @property
    def keys(self) -> tuple[str, str] | None:
        """The newest key set (RFC 7517, section 5) and the issuer that `iss` has to name; None: none was told yet."""
        ...

    async def renew(self) -> None:
        """Ask for newer keys, unless that was done a moment ago; return soon, whether or not it worked."""
        ...


class Reviewer(Protocol):
    """Who says whether a token is good, such as an API server, which knows those that it has taken back."""

    async def review(self, token: str) -> Mapping[str, object] | str:
        """
        Return the claims of a good token, `exp` among them, in the form of Kubernetes' own; or why it is none.

        Raises ConnectionError, with words for the log, if nobody can be asked at the moment.
        """
        ...


class Authentication:
    """The demands of one server."""

    def __init__(
        self,
        settings: Settings,
        *,
        keys: KeySource | None = None,
        reviews: Reviewer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Demand what the settings say; `load` has to come before anybody is served.

        `clock` gives seconds since the epoch.
        With `keys`, a token must be signed with one of these, and the settings' key set is not looked at. With
        `reviews`, whoever reviews must find it good; with both, both.
        """
        self._tls = (
            _Tls(settings.tls_certificate, settings.tls_key, settings.client_ca)
            if settings.tls_certificate is not None and settings.tls_key is not None
            else None
        )
        self._jwks = settings.jwks if keys is None else None
        self._source = keys
        self._reviews = reviews
        self._clock = clock
        self._own_issuer = settings.token_issuer
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
                self._identity = TlsIdentity(*self._tls.texts(files), now=self._clock())
            except MaterialError as error:
                raise SettingsError(f"{self._tls}: {error}; correct the files") from None
            self.warn_of_end()
        if self._jwks is not None:
            try:
                self._key_set = _text("--jwks", self._jwks, files)
                left_out = self._tokens.replace_keys(self._key_set)
            except KeySetError as error:
                raise SettingsError(f"--jwks {self._jwks}: {error}; save the issuer's JWKS there") from None
            _warn_of_keys(left_out, str(self._jwks))

    def reload(self, files: Mapping[str, File]) -> None:
        """Take changed files; what can't be used is told in the log, and what was before stays in force."""
        if self._tls is not None and self._identity is not None:
            try:
                if self._identity.replace(*self._tls.texts(files), now=self._clock()):
                    _log.info("certificate for new connections", path=str(self._tls.certificate))
                    self.warn_of_end()
            except (MaterialError, SettingsError) as error:
                _log.error("the certificate is not used, the one before stays", reason=str(error))
        if self._jwks is not None:
            try:
                text = _text("--jwks", self._jwks, files)
                if text != self._key_set:
                    _warn_of_keys(self._tokens.replace_keys(text), str(self._jwks))
                    _log.info("key set for new streams", path=str(self._jwks))
                self._key_set = text
            except (KeySetError, SettingsError) as error:
                _log.error("the key set is not used, the one before stays", path=str(self._jwks), reason=str(error))

    @property
    def certificate_ends_at(self) -> float | None:
        """When the certificate in force ends, in seconds since the epoch; None: there is none."""
        return None if self._identity is None else self._identity.ends_at

    def warn_of_end(self) -> None:
        """Tell in the log if the certificate has ended or ends soon: at the start, at each exchange and every day."""
        if self._identity is None or self._tls is None or self._identity.warns_at > (now := self._clock()):
            return
        ends = self._identity.ends_at
        _log.warning(
            "the server's certificate has ended" if ends <= now else "the server's certificate ends soon",
            path=str(self._tls.certificate),
            ends=datetime.fromtimestamp(ends, UTC).isoformat(),
            hint="exchange the files: sidecars and the API server refuse to connect once it has ended",
        )

    def credentials(self) -> grpc.ServerCredentials | None:
        """Return the server's credentials; None: without TLS."""
        return None if self._identity is None else self._identity.credentials()

    async def authenticate(self, context: Context) -> tuple[Caller, ...]:
        """
        Return what the caller proves, one after the other.

        Raises IdentityError if a proof is missing or bad, and UndecidedError if nobody can tell at the moment.
        """
        callers = []
        if self._tls is not None and self._tls.client_ca is not None:
            callers.append(identify_peer(context.auth_context()))
        if self._jwks is not None:
            callers.append(self._tokens.verify(_token(context)))
        if self._source is not None:
            callers.append(await self._verify(_token(context), self._source))
        if self._reviews is not None:
            callers.append(await _review(_token(context), self._reviews))
        return tuple(callers)

    async def _verify(self, token: str, source: KeySource) -> Caller:
        """Check with the newest keys; one that is not among them may be newer still."""
        if source.keys is None:
            await source.renew()
        self._take_keys(source)
        try:
            return self._tokens.verify(token)
        except UnknownKeyError:
            await source.renew()
        self._take_keys(source)
        return self._tokens.verify(token)

    def _take_keys(self, source: KeySource) -> None:
        if source.keys is None:
            raise UndecidedError("the keys of the cluster's tokens are not known yet")
        key_set, issuer = source.keys
        self._tokens.replace_issuer(self._own_issuer or issuer)
        if key_set == self._key_set:
            return
        self._key_set = key_set
        try:
            _warn_of_keys(self._tokens.replace_keys(key_set), issuer)
        except KeySetError as error:
            _log.error("the key set is not used, the one before stays", path=issuer, reason=str(error))
        else:
            _log.info("key set for new streams", path=issuer)


def _warn_of_keys(left_out: int, path: str) -> None:
    if left_out:
        _log.warning("members of the key set are no keys that could be used", left_out=left_out, path=path)


async def _review(token: str, reviews: Reviewer) -> Caller:
    try:
        found = await reviews.review(token)
    except ConnectionError as error:
        raise UndecidedError(str(error)) from None
    if isinstance(found, str):
        raise IdentityError(found)
    return identify(found)


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
