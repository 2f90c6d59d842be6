"""Options with which a command proves who it is to a server, as an Envoy would; `xds bootstrap` has the same names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from xds.client import Credentials
from xds.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_F = TypeVar("_F", bound="Callable[..., object]")

_OPTIONS = {
    "server_ca": ("FILE", "TLS to the server, which this authority (PEM) signs for."),
    "server_name": ("NAME", "The name in its certificate, if not that of --server."),
    "token_file": ("FILE", "Send this bearer token."),
    "client_certificate": ("FILE", "Show this certificate (PEM)."),
    "client_key": ("FILE", "Its private key (PEM)."),
}
CREDENTIALS = tuple(_OPTIONS)
"""The parameters that `credential_options` adds."""


def credential_options(command: _F) -> _F:
    """Add the options to a command."""
    for name, (metavar, text) in reversed(_OPTIONS.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, metavar=metavar, help=text)(command)
    return command


def read_credentials(given: Mapping[str, object]) -> Credentials:
    """Read the files that the options name. Raises SettingsError."""
    ca, name, token, certificate, key = (given.get(field) for field in CREDENTIALS)
    if (certificate is None) is not (key is None):
        raise SettingsError("--client-certificate and --client-key belong together; give both, or neither")
    if ca is None and (certificate is not None or name is not None):
        raise SettingsError("a client's certificate and a server's name are for TLS; add --server-ca FILE")
    return Credentials(
        server_ca=_read("--server-ca", ca),
        server_name=str(name) if name else "",
        token=(_read("--token-file", token) or b"").decode("ascii", "replace").strip(),
        certificate=_read("--client-certificate", certificate),
        key=_read("--client-key", key),
    )


def _read(flag: str, path: object) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(str(path)).read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag} {path} can't be read: {error.strerror}; correct the path") from error
