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

    from xds.settings import Settings


@click.command(
    name="serve",
    epilog="Example: xds serve /etc/egress-xds/policies --listen 0.0.0.0:18000. Check first: xds validate DIR.",
)
@click.argument("policies", metavar="[DIR]", type=PATH, required=False)
@settings_options((option.field for option in OPTIONS), is_server=True)
def command(policies: Path | None, **flags: str | tuple[str, ...] | None) -> None:
    """
    Serve the policies in DIR, or those of a cluster, to Envoys over xDS.

    In DIR every *.yaml is a policy document, or DIR is one file; in a cluster (--kubernetes) they are in ConfigMaps
    with the label egress-xds/policy=true. Both are watched. A document that breaks keeps its last good version in
    force, and the log says why. The server listens once everything was read and compiled.
    """
    settings = load_settings(flags)
    configure_logging(settings)
    _check_source(policies, settings)
    check_resolv_conf(settings)
    asyncio.run(serve(policies, settings))


def _check_source(policies: Path | None, settings: Settings) -> None:
    """Raise SourceError for a directory that can't be one, and UsageError unless there is exactly one source."""
    if (policies is None) is not settings.kubernetes:
        raise click.UsageError("Give either DIR, a directory of policies, or --kubernetes.")
    if policies is not None:
        check_policies(policies)
