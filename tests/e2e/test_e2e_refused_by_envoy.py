"""A listener that Envoy refuses: the last good one stays, the refusal is on record and the listener is not repeated."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, SERVER, ProxyKind, World, hold, open_world, render_policy
from xds.demo.lab import Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.demo.processes import Program

pytestmark = pytest.mark.e2e

DENY = f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]"
REJECTED = "listener_manager.lds.update_rejected"


@pytest.fixture
def damaged() -> Iterator[tuple[World, Program]]:
    """A world whose control plane has been replaced by one that can be told to serve a damaged listener."""
    with open_world(ProxyKind.EMBEDDED) as world:
        world.control_plane.stop()
        directory = world.lab.directory / "served"
        directory.mkdir()
        (directory / "good.yaml").write_text(render_policy(), encoding="utf-8")
        (directory / "other.yaml").write_text(render_policy(DENY), encoding="utf-8")
        _serve(directory, "good")
        script = str(Path(__file__).with_name("broken_server.py"))
        server = world.lab.start(
            *("broken-server", Namespace.CORP),
            [sys.executable, script, str(world.lab.inside / "served"), SERVER],
            environment=python_environment(),
        )
        yield world, server


def test_a_refused_listener_leaves_the_last_good_one_in_force_and_is_not_sent_again(
    damaged: tuple[World, Program],
) -> None:
    world, server = damaged
    directory = world.lab.directory / "served"
    wait_until(lambda: _listener_status(server).get("acked"), "Envoy taking over the good listener", 30)
    assert world.curl(f"https://{API}/").exit_code == 0

    _serve(directory, "damaged")
    wait_until(lambda: world.envoy.admin.counter(REJECTED) > 0, "Envoy refusing the damaged listener", 20)
    wait_until(lambda: _listener_status(server).get("is_rejected"), "the refusal on record", 20)
    assert "address" in str(_listener_status(server)["nack"])
    assert world.curl(f"https://{API}/").exit_code == 0, "the last good listener is in force"
    hold(lambda: world.envoy.admin.counter(REJECTED) == 1, "the damaged listener was sent again", 3)

    _serve(directory, "other")
    wait_until(lambda: not _listener_status(server).get("is_rejected"), "Envoy taking over the next listener", 20)
    assert world.curl(f"https://{API}/").exit_code == 35
    assert world.envoy.admin.counter(REJECTED) == 1


def _serve(directory: Path, step: str) -> None:
    draft = directory / "step.draft"
    draft.write_text(step, encoding="ascii")
    draft.replace(directory / "step")


def _listener_status(server: Program) -> dict[str, object]:
    """What the server has on record of its one client's listener; empty as long as there is nothing."""
    lines = [line for line in server.text().splitlines() if line.endswith("]")]
    clients = json.loads(lines[-1].partition(" ")[2]) if lines else []
    status: dict[str, object] = clients[0] if clients else {}
    return status
