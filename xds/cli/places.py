"""
Looks at the files that an operator named before anything is started, so that a slip is said and not worked around.

Nothing here reads a policy: what is inside a directory is judged by its source.
"""

from __future__ import annotations

import errno
from pathlib import Path

import click

from xds.errors import SettingsError, SourceError
from xds.settings import Settings
from xds.sources.directory import refuse_missing

PATH = click.Path(readable=False, path_type=Path)
"""A path to policies. That it may not be read is said by its source, which knows a remedy, and not by click."""


def check_policies(path: Path) -> None:
    """Raise SourceError if `path` is a link that leads nowhere, or to itself: `mkdir` is no remedy for that."""
    try:
        path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            target = path.readlink()
            raise SourceError(
                f"{path} is a link to {target}, which does not exist; correct it, or make its target: ls -l {path}"
            ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceError(f"{path} is a link that leads to itself; see where it leads: ls -l {path}") from error


def check_there(path: Path) -> None:
    """Raise SourceError if `path` does not exist. Whether it can be read is another matter."""
    check_policies(path)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refuse_missing(path) from error
    except OSError:
        return


def check_resolv_conf(settings: Settings) -> None:
    """Raise SettingsError if a resolv.conf was chosen that can't be read; that there is no usual one is no mistake."""
    path = settings.resolv_conf
    if path is None or path == Settings().resolv_conf:
        return
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(
            f"--resolv-conf {path} can't be read: {error.strerror}; its name servers would not be direct: "
            "give the pods' file, or --resolv-conf '' for none"
        ) from error
