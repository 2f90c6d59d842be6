"""Options with which a command proves who it is to a server, as an Envoy would; `xds bootstrap` has the same names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from xds.bootstrap import check_proofs
from xds.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds.bootstrap import Authority
    from xds.client import Credentials

_F = TypeVar("_F", bound="Callable[..., object]")

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""

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


def read_credentials(given: Mapping[str, object], server: Authority) -> Credentials:
    """
    Read the files that the options name, for a connection to `server`. Raises SettingsError.

    What gRPC would not understand is refused here, where the file is known by name.
    """
    from xds.client import Credentials  # noqa: PLC0415  # gRPC takes long to import, and hardly a command asks a server
    from xds.compile.certificates import read_certificates, read_key  # noqa: PLC0415  # as above

    ca, name, token, certificate, key = (
        str(value) if (value := given.get(field)) is not None else None for field in CREDENTIALS
    )
    check_proofs(server, server_ca=ca, server_name=name, token=token, certificate=certificate, key=key)
    _check_pem("--server-ca", ca, lambda text: bool(read_certificates(text)))
    _check_pem("--client-certificate", certificate, lambda text: bool(read_certificates(text)))
    _check_pem("--client-key", key, lambda text: read_key(text) is not None)
    return Credentials(
        server_ca=_read("--server-ca", ca),
        server_name=name or "",
        token=_read_token(token),
        certificate=_read("--client-certificate", certificate),
        key=_read("--client-key", key),
    )


def _check_pem(flag: str, path: str | None, is_good: Callable[[str], bool]) -> None:
    content = _read(flag, path)
    if content is not None and not is_good(content.decode("ascii", "replace")):
        raise SettingsError(f"{flag} {path} is not the PEM of what belongs there; give another file")


def _read_token(path: str | None) -> str:
    content = _read("--token-file", path)
    if content is None:
        return ""
    token = content.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(token):
        raise SettingsError(f"--token-file {path} does not hold one token and nothing else; give another file")
    return token


def _read(flag: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag} {path} can't be read: {error.strerror}; correct the path") from error
