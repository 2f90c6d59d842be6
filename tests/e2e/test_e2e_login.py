"""A proxy that demands a login: added for everybody, changed without a cut, and shown to nobody."""

from __future__ import annotations

import time
from base64 import b64encode
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, MAIL, POLICY_FILE, SERVER, CorporateProxy, World, hold, render_policy
from tests.e2e.secured_proxies import Login, basic, describe_proxy, open_secured_world, put, start_squid
from xds.demo.cast import NODE, save_policy, xds_command
from xds.demo.lab import Namespace, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from xds.demo.lab import Lab

pytestmark = pytest.mark.e2e

ALICE = Login("alice", "canary-Pa55: with spaces")
BOB = Login("bob", "canary-second")
FILE = "proxy-login"
TUNNELS = 50
CANARIES = (
    "canary-without",
    *(login.password for login in (ALICE, BOB)),
    *(b64encode(str(login).encode()).decode().rstrip("=") for login in (ALICE, BOB)),
)


def _start(lab: Lab) -> tuple[CorporateProxy, str]:
    path = put(lab, FILE, f"{ALICE}\n")
    return start_squid(lab, users=(ALICE, BOB)), describe_proxy(auth=basic(path))


@pytest.fixture(scope="module", params=[(), ("--sotw",)], ids=["delta", "sotw"])
def squid(request: pytest.FixtureRequest) -> Iterator[World]:
    with open_secured_world(_start, bootstrap_options=request.param) as world:
        yield world


@pytest.fixture
def world(squid: World) -> Iterator[World]:
    """The world with Alice's login in force, before each test and after it."""
    rotate(squid, ALICE)
    yield squid
    rotate(squid, ALICE)


def rotate(world: World, login: Login | str) -> None:
    """Write a login, and return once the next tunnel is asked for with it."""
    put(world.lab, FILE, str(login))
    user = str(login).partition(":")[0]

    def look() -> bool:
        mark = world.proxy.mark()
        return world.curl(f"https://{API}/").exit_code == 0 and f" {user} " in world.proxy.wait_for(
            f"CONNECT {API}:443", mark
        )

    wait_until(look, f"a tunnel with the login of {user}", timeout=10)


def updates(world: World) -> dict[str, int]:
    """How often Envoy took over listeners and clusters, and how often it was told anything about them."""
    managers = world.envoy.admin.counters(r"^(listener_manager|cluster_manager)\.")
    told = (
        "update_attempt",
        "update_success",
        "update_rejected",
        "_added",
        "_modified",
        "_removed",
        "_in_place_updated",
    )
    return {name: count for name, count in managers.items() if name.endswith(told)}


def secret_updates(world: World) -> int:
    return sum(world.envoy.admin.counters(r"^sds\..*update_success$").values())


def test_tunnels_and_plain_http_carry_the_login(world: World) -> None:
    mark = world.proxy.mark()

    assert world.curl(f"https://{API}/").exit_code == 0
    assert world.curl(f"http://{API}/").exit_code == 0

    assert " alice " in world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert " alice " in world.proxy.wait_for(f"GET http://{API}/", mark)


def test_the_login_of_an_application_is_replaced(world: World) -> None:
    mark = world.proxy.mark()

    done = world.curl(f"http://{API}/", "--header", "Proxy-Authorization: Basic ZXZlOmV2ZQ==")

    assert done.exit_code == 0
    assert " alice " in world.proxy.wait_for(f"GET http://{API}/", mark)


def test_a_new_login_is_in_force_within_a_second_and_cuts_nothing(world: World) -> None:
    with ExitStack() as stack:
        tunnels = [stack.enter_context(world.connect_tls(MAIL)) for _ in range(TUNNELS)]
        assert [echo(tunnel) for tunnel in tunnels] == [True] * TUNNELS
        before, secrets, mark = updates(world), secret_updates(world), world.proxy.mark()

        put(world.lab, FILE, f"{BOB}\n")
        began = time.monotonic()
        wait_until(lambda: secret_updates(world) > secrets, "the new login at Envoy", timeout=10)
        took = time.monotonic() - began
        newcomer = stack.enter_context(world.connect_tls(MAIL))

        assert echo(newcomer)
        assert took < 1.0
        assert [echo(tunnel) for tunnel in tunnels] == [True] * TUNNELS
        assert updates(world) == before
        assert any(name.endswith("update_success") for name in before)
    # Squid logs a tunnel when it ends.
    wait_until(lambda: world.proxy.text(mark).count(f"CONNECT {MAIL}:443") > TUNNELS, "51 tunnels logged", timeout=10)
    users = [line.split()[7] for line in world.proxy.text(mark).splitlines() if f"CONNECT {MAIL}:443" in line]
    assert sorted(users) == ["alice"] * TUNNELS + ["bob"]


def echo(tunnel: ssl.SSLSocket) -> bool:
    """Whether a tunnel still carries bytes there and back."""
    tunnel.sendall(b"still here?")
    received = b""
    while len(received) < len(b"still here?") and (more := tunnel.recv(100)):
        received += more
    return received == b"still here?"


def test_a_wrong_login_refuses_and_the_log_says_407(world: World) -> None:
    logged, secrets = len(world.envoy.program.text()), secret_updates(world)

    put(world.lab, FILE, "alice:wrong")
    wait_until(lambda: secret_updates(world) > secrets, "the wrong login at Envoy", timeout=10)

    assert world.curl(f"https://{API}/").exit_code != 0
    assert "407" in world.envoy.program.wait_for("tunnel_response", after=logged)
    assert world.curl(f"http://{API}/", "--fail").exit_code == 22


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("", "EX321", id="an empty file"),
        pytest.param("alice canary-without", "EX322", id="no colon"),
        pytest.param("alice:x\r\nX-Injected: y", "EX322", id="a second header in it"),
    ],
)
def test_a_bad_file_is_told_of_and_the_login_before_stays(world: World, text: str, code: str) -> None:
    secrets, logged = secret_updates(world), len(world.control_plane.text())

    put(world.lab, FILE, text)

    assert "last good" in world.control_plane.wait_for("document refused", after=logged)
    world.control_plane.wait_for(code, after=logged)
    assert world.curl(f"https://{API}/").exit_code == 0
    assert secret_updates(world) == secrets


def test_a_proxy_whose_login_is_missing_is_used_once_it_is_there(world: World) -> None:
    logged = len(world.control_plane.text())
    path = world.lab.directory / "late"
    described = describe_proxy(auth=basic(str(world.lab.inside / "late")))
    before = world.updates()

    save_policy(world.lab, POLICY_FILE, render_policy(proxy=described))
    world.control_plane.wait_for("EX320", after=logged)
    hold(lambda: world.updates() == before, "what was in force stays so")
    mark = world.proxy.mark()
    put(world.lab, "late", str(BOB))
    world.wait_for_updates(before)

    assert world.curl(f"https://{API}/").exit_code == 0
    assert " bob " in world.proxy.wait_for(f"CONNECT {API}:443", mark)
    path.unlink()
    world.set_policy(proxy=describe_proxy(auth=basic(str(world.lab.inside / FILE))))


def test_a_login_shows_nowhere(world: World) -> None:
    rotate(world, BOB)
    options = ["--server", SERVER, "--node", NODE, "-o", "yaml"]
    policies = str(world.lab.inside / "policies")
    asked = {
        "dump of the server": xds_command("dump", *options),
        "dump of the directory": xds_command("dump", policies, "--no-resolve", "-o", "json"),
        "table of the directory": xds_command("dump", policies, "--no-resolve"),
        "validate": xds_command("validate", policies),
    }
    seen = {
        what: world.lab.run(Namespace.CORP, command, environment=python_environment())
        for what, command in asked.items()
    }
    texts = {what: (done.stdout + done.stderr).decode() for what, done in seen.items()}
    texts["config dump"] = world.envoy.admin.get("/config_dump?include_eds")
    texts["statistics"] = world.envoy.admin.get("/stats")
    texts["clusters"] = world.envoy.admin.get("/clusters")
    texts["Envoy's log"] = world.envoy.program.text()
    texts["control plane's log"] = world.control_plane.text()

    assert "proxy-login" in texts["dump of the server"]
    assert "proxy-login" in texts["dump of the directory"]
    assert "credential_injector" in texts["config dump"]
    found = [(what, canary) for what, text in texts.items() for canary in CANARIES if canary in text]
    assert found == []
