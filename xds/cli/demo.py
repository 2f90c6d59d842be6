"""`xds demo`: show the main job on this machine, without the Internet."""

from __future__ import annotations

import click

from xds.demo.run import run_demo
from xds.demo.stage import Stage


@click.command(name="demo")
@click.option("--no-capture", is_flag=True, help="Don't use namespaces and iptables, even where they can be had.")
def command(*, no_capture: bool) -> None:
    """
    Show an application without proxy settings reach the Internet through a corporate proxy.

    A proxy, origins, the control plane and a real Envoy run in network namespaces that vanish with the demo.
    Exit code 0 only if every step was seen to work.
    """
    run_demo(Stage(), with_capture=not no_capture)
