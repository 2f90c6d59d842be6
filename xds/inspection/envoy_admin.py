"""
Asks a running Envoy, through its admin interface, what it holds. Nothing here changes that Envoy.

That interface answers whoever reaches it, so it is on loopback or on a unix socket as a rule; that of a pod is reached
by forwarding a port, or what it answers is kept in a file and read by `read_config_dump`.
"""

from __future__ import annotations

import http.client
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xds.bootstrap import Authority, UnixPath, parse_authority
from xds.errors import SettingsError, UnreachableError
from xds.inspection.config_dump import parse_config_dump
from xds.inspection.pages import MAX_DUMP, ask, describe_failure, describe_place

if TYPE_CHECKING:
    from typing import BinaryIO

    from xds.inspection.config_dump import ConfigDump

STDIN = "-"
"""What stands for the standard input where a file is named."""

_TARGET = "/config_dump?include_eds"


def parse_place(text: str) -> Authority | UnixPath:
    """Read where an admin interface is: `HOST:PORT` or the path of a unix socket. Raises SettingsError."""
    if "/" in text and "@" not in text and "//" not in text:
        return UnixPath(text)
    return parse_authority(text)


def ask_envoy(place: Authority | UnixPath, *, within: float) -> ConfigDump:
    """
    Return what the Envoy holds whose admin interface is at `place`.

    Raises UnreachableError if nobody answers there `within` that many seconds, or somebody else than an Envoy does.
    """
    where = describe_place(place)
    try:
        status, body = ask(place, _TARGET, within=within, most=MAX_DUMP)
    except TimeoutError as error:
        raise UnreachableError(
            f"the admin interface at {where} did not answer completely within {within:g} s; give it longer: --timeout"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"the admin interface at {where} can't be asked ({describe_failure(error)}); is an Envoy running there? "
            "That of a pod: kubectl port-forward POD 15000, or keep its answer in a file for --config-dump"
        ) from error
    if status != http.client.OK:
        raise UnreachableError(
            f"{where} answers {_TARGET} with the status {status}; is this the admin interface of an Envoy? "
            f"Try: {_command(place)}"
        )
    try:
        return parse_config_dump(body)
    except ValueError as error:
        raise UnreachableError(
            f"what {where} answers can't be used: {error}; is this the admin interface of an Envoy? "
            f"Try: {_command(place)}"
        ) from None


def read_config_dump(path: str) -> ConfigDump:
    """Read what an Envoy answered; `-` is the standard input. Raises SettingsError."""
    name = "standard input" if path == STDIN else path
    try:
        body = _read_stdin() if path == STDIN else read_bounded(Path(path))
    except ValueError as error:
        raise SettingsError(f"--config-dump {name} can't be used: {error}") from None
    except OSError as error:
        raise SettingsError(f"--config-dump {name} can't be read: {error.strerror}; correct the path") from error
    try:
        return parse_config_dump(body)
    except ValueError as error:
        raise SettingsError(
            f"--config-dump {name} can't be used: {error}; write it anew: "
            f"curl --silent --output FILE 'localhost:15000{_TARGET}'"
        ) from None


def read_bounded(path: Path) -> bytes:
    """Read a file. Raises OSError, and ValueError if there are more than `MAX_DUMP` bytes."""
    with path.open("rb") as stream:
        return _read_all(stream)


def _read_stdin() -> bytes:
    """Read all of it; there is none if it was closed before the start."""
    return b"" if sys.stdin is None else _read_all(sys.stdin.buffer)


def _read_all(stream: BinaryIO) -> bytes:
    body = stream.read(MAX_DUMP + 1)
    if len(body) > MAX_DUMP:
        raise ValueError(f"it is larger than {MAX_DUMP >> 20} MiB")
    return body


def _command(place: Authority | UnixPath) -> str:
    match place:
        case UnixPath(path=path):
            return f"curl --unix-socket {path} localhost/server_info"
        case Authority():
            return f"curl {describe_place(place)}/server_info"
