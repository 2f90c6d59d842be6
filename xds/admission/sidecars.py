"""
What sidecars are made of, as the flags say it, and the authority that they believe, exchanged while the server runs.

The file is read and watched by others and handed in. Pods keep the authority that they got; new ones get the newest.
Invariant: what can't be used ends the start, or changes nothing later.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog

from xds.errors import InjectionError, SettingsError
from xds.facts import FileProblem
from xds.flags import HostPort
from xds.injection.annotations import PREFIX, check_forbidden, read_wishes
from xds.injection.settings import AUDIENCE, DEFAULT_ENVOY_IMAGE, SidecarSettings, check_authority

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds.facts import File
    from xds.settings import Settings

SERVICE, PORT = "egress-xds", 18000
"""The control plane's Service and the port of its ADS, as `deploy/` names them."""
CA = "ca.crt"

_log = structlog.stdlib.get_logger(__name__)


class Sidecars:
    """One installation's sidecars; `load` has to come first. `has_native` tells what the cluster has; None: unknown."""

    def __init__(self, settings: Settings, *, home: str, has_native: Callable[[], bool | None]) -> None:
        """`home` is the control plane's own namespace. Raises SettingsError."""
        assert settings.tls_certificate is not None, "the settings see to it"
        self.ca = settings.inject_ca or settings.tls_certificate.parent / CA
        self.defaults = read_defaults(settings.inject_default)
        """Annotations that every namespace has, unless it says otherwise."""
        self._forbidden = read_forbidden(settings.inject_forbid)
        self._settings = settings
        self._server = settings.inject_server or HostPort(host=f"{SERVICE}.{home}.svc", port=PORT)
        self._has_native = has_native
        self._authority = ""
        self._made: tuple[tuple[str, bool], SidecarSettings] | None = None

    def load(self, files: Mapping[str, File]) -> None:
        """Take the authority at the start. Raises SettingsError."""
        authority = self._read(files)
        self._make(authority, has_native=True)
        self._authority = authority

    def reload(self, files: Mapping[str, File]) -> None:
        """Take a changed authority; one that can't be used is told in the log, and the one before stays."""
        try:
            authority = self._read(files)
            if authority != self._authority:
                self._make(authority, has_native=True)
                self._authority = authority
                _log.info("authority of new sidecars", path=str(self.ca))
        except SettingsError as error:
            _log.error("new sidecars don't get the authority, the one before stays", reason=str(error))

    def current(self) -> SidecarSettings | None:
        """Return what a pod gets that is made now; None: not known yet."""
        has_native = self._has_native()
        if has_native is None or not self._authority:
            return None
        key = self._authority, has_native
        if self._made is None or self._made[0] != key:
            self._made = key, self._make(self._authority, has_native=has_native)
        return self._made[1]

    def _read(self, files: Mapping[str, File]) -> str:
        found = files[str(self.ca)]
        if isinstance(found, FileProblem):
            raise SettingsError(
                f"--inject-ca {self.ca}: {found.message}; sidecars have to know who signed the certificate of the "
                f"control plane: {found.hint}"
            )
        try:
            check_authority(found.text)
        except SettingsError as error:
            raise SettingsError(f"--inject-ca {self.ca}: {error}") from None
        return found.text

    def _make(self, authority: str, *, has_native: bool) -> SidecarSettings:
        settings = self._settings
        return SidecarSettings(
            image=settings.inject_image,
            init_image=settings.inject_init_image,
            envoy_image=settings.inject_envoy_image or DEFAULT_ENVOY_IMAGE,
            server=str(self._server),
            server_name=settings.inject_server_name,
            server_ca=authority,
            audience=next(iter(settings.token_audience), AUDIENCE),
            has_native_sidecars=has_native,
            forbidden=self._forbidden,
        )


def read_defaults(given: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Return `--inject-default` as annotations of a namespace. Raises SettingsError."""
    annotations = {f"{PREFIX}{name.removeprefix(PREFIX)}": value for name, value in given}
    try:
        read_wishes({}, annotations)
    except InjectionError as error:
        raise SettingsError(f"--inject-default: {error}") from None
    return MappingProxyType(annotations)


def read_forbidden(given: tuple[str, ...]) -> frozenset[str]:
    """Return `--inject-forbid` as names without their prefix. Raises SettingsError."""
    names = frozenset(name.removeprefix(PREFIX) for name in given)
    try:
        check_forbidden(names)
    except SettingsError as error:
        raise SettingsError(f"--inject-forbid: {error}") from None
    return names
