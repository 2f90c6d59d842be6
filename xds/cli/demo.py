"""`xds demo`: show the main job on this machine, without the Internet."""

from __future__ import annotations

import click

from xds.errors import SettingsError

_EXTRA = frozenset({"cryptography", "envoy", "proxy"})
"""What only the demo imports; an installation for real use has none of it."""


@click.command(name="demo")
@click.option("--no-capture", is_flag=True, help="Don't use namespaces and iptables, even where they can be had.")
def command(*, no_capture: bool) -> None:
    """
    Show an application without proxy settings reach the Internet through a corporate proxy.

    A proxy, origins, the control plane and a real Envoy run in network namespaces that vanish with the demo.
    Exit code 0 only if every step was seen to work.
    """
    try:
        from xds.demo.run import run_demo  # noqa: PLC0415 -- needs the extra, and the help must not
        from xds.demo.stage import Stage  # noqa: PLC0415 -- as above
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        raise SettingsError(
            f"{missing} is not installed, which the demo needs; install the rest: pip install 'egress-xds[demo]'"
        ) from error
    run_demo(Stage(), with_capture=not no_capture)
