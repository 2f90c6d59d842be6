"""
`xds trust`: write the files from which applications learn whom to trust, beside the system's authorities the company's.

Every file is exchanged whole, by a rename, and can be read by every user: there is nothing secret in them.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.cli.exchange import exchange_file
from xds.cli.options import render_epilog
from xds.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/cert.pem",  # Alpine without ca-certificates, macOS
)
"""Where systems keep their authorities in one file; the first that is there counts."""

_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755


@click.command(
    name="trust",
    epilog=render_epilog("xds trust --ca-file corp.pem --directory /etc/egress-xds/trust > /etc/egress-xds/trust.env"),
)
@click.option(
    "--ca-from-env",
    metavar="NAME",
    help="The company's authorities (PEM) are in this environment variable, such as EGRESS_XDS_TRUSTED_CA.",
)
@click.option("--ca-file", type=click.Path(path_type=Path), metavar="FILE", help="They are in this file.")
@click.option("--directory", required=True, metavar="DIR", help="Where the files go, as applications see it.")
@click.option(
    "--system-bundle",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The system's authorities (PEM). Without it: where Debian, Alpine and RHEL have theirs.",
)
def command(*, ca_from_env: str | None, ca_file: Path | None, directory: str, system_bundle: Path | None) -> None:
    """
    Write whom applications trust into DIR: the system's authorities and the company's.

    DIR gets ca-bundle.crt (all), ca.crt (the company's) and truststore.p12 (all, for Java). The environment variables
    that make runtimes read them are printed.
    """
    from xds.trust import build_trust, parse_authorities, render_variables  # noqa: PLC0415  # cryptography is slow

    company = parse_authorities(*_read_company(ca_from_env, ca_file))
    bundle = _find_bundle() if system_bundle is None else system_bundle
    trust = build_trust(_read(bundle, "name another with --system-bundle FILE"), company)
    variables = render_variables(directory)
    _write(Path(directory), trust.files)
    for unread in trust.unread:
        click.echo(f"xds: {unread} can't be read and is missing for Java", err=True)
    click.echo(
        f"wrote {', '.join(trust.files)} to {directory}: the {trust.kept} authorities of {bundle} and "
        f"{trust.added} of the company's {len(company)} that it lacks",
        err=True,
    )
    click.echo("".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()), nl=False)


def _read_company(variable: str | None, file: Path | None) -> tuple[str, str]:
    """Return the company's authorities and where they are from. Raises click.UsageError, SettingsError."""
    if (variable is None) is (file is None):
        raise click.UsageError("give the company's authorities with --ca-from-env NAME or --ca-file FILE, one of them")
    if file is not None:
        return _read(file, "give a file that this user may read").decode(errors="replace"), str(file)
    assert variable is not None
    text = os.environ.get(variable)  # noqa: TID251 -- a flag names the variable; it is no setting of this process
    if not text:
        raise SettingsError(f"--ca-from-env: the environment variable {variable} is not set; put the PEM into it")
    return text, variable


def _find_bundle() -> Path:
    found = next((path for path in map(Path, _SYSTEM_BUNDLES) if path.is_file()), None)
    if found is None:
        raise SettingsError(
            f"the system's authorities are in none of {', '.join(_SYSTEM_BUNDLES)}, and without them applications "
            "would trust the company alone; install ca-certificates, or name their file with --system-bundle FILE"
        )
    return found


def _read(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}; {remedy}") from error


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(_DIRECTORY_MODE)
        for name, content in files.items():
            exchange_file(directory / name, content, mode=_FILE_MODE)
    except OSError as error:
        raise SettingsError(
            f"--directory {directory} can't be written: {error.strerror}; give a directory that this user may write"
        ) from error
