"""`xds serve`: the control plane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from xds.app import serve
from xds.cli.logs import configure_logging
from xds.cli.options import settings_options
from xds.cli.places import PATH, check_policies, check_resolv_conf
from xds.settings import OPTIONS, load_settings

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    name="serve",
    epilog="Example: xds serve /etc/egress-xds/policies --listen 0.0.0.0:18000. Check first: xds validate DIR.",
)
@click.argument("policies", metavar="DIR", type=PATH)
@settings_options(option.field for option in OPTIONS)
def command(policies: Path, **flags: str | tuple[str, ...] | None) -> None:
    """
    Serve the policies in DIR (every *.yaml in it, or one file) to Envoys over xDS.

    DIR is watched. A document that breaks keeps its last good version in force, and the log says why. The
    server listens once everything was read and compiled.
    """
    settings = load_settings(flags)
    configure_logging(settings)
    check_policies(policies)
    check_resolv_conf(settings)
    asyncio.run(serve(policies, settings))
