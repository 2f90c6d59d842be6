"""What sidecars are made of: as the flags say, with the authority of the newest file that can be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.certificates import Authority
from xds.admission.sidecars import Sidecars, read_defaults
from xds.errors import SettingsError
from xds.facts import FileContent, FileProblem
from xds.flags import HostPort
from xds.injection.settings import DEFAULT_ENVOY_IMAGE
from xds.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.facts import File

SETTINGS = Settings(
    kubernetes=True,
    tls_certificate=Path("/tls/tls.crt"),
    tls_key=Path("/tls/tls.key"),
    inject_image="xds:1",
    inject_init_image="init:1",
)
PEM = Authority().certificate


def files(text: str = PEM, path: str = "/tls/ca.crt") -> Mapping[str, File]:
    """Return what the authority's file holds."""
    return {path: FileContent(text)}


def build(settings: Settings = SETTINGS, *, has_native: bool | None = True) -> Sidecars:
    """Return the sidecars of these settings, not loaded."""
    return Sidecars(settings, home="egress-system", has_native=lambda: has_native)


def test_without_further_flags_sidecars_find_the_service_and_its_authority() -> None:
    sidecars = build()
    sidecars.load(files())
    sidecar = sidecars.current()

    assert sidecar is not None
    assert (sidecar.server, sidecar.name_of_server) == (
        "egress-xds.egress-system.svc:18000",
        "egress-xds.egress-system.svc",
    )
    assert (sidecar.image, sidecar.init_image, sidecar.envoy_image) == ("xds:1", "init:1", DEFAULT_ENVOY_IMAGE)
    assert (sidecar.server_ca, sidecar.audience, sidecar.has_native_sidecars) == (PEM, "egress-xds", True)


def test_every_flag_is_in_force() -> None:
    settings = replace(
        SETTINGS,
        inject_envoy_image="envoy:1",
        inject_server=HostPort(host="fd00::1", port=443),
        inject_server_name="xds.corp.example",
        inject_ca=Path("/other/bundle.pem"),
        inject_forbid=("inject", "egress-xds/mode"),
        token_audience=("proxy", "other"),
    )
    sidecars = build(settings, has_native=False)
    sidecars.load(files(path="/other/bundle.pem"))
    sidecar = sidecars.current()

    assert sidecar is not None
    assert (sidecar.server, sidecar.name_of_server) == ("[fd00::1]:443", "xds.corp.example")
    assert (sidecar.envoy_image, sidecar.audience, sidecar.has_native_sidecars) == ("envoy:1", "proxy", False)
    assert sidecar.forbidden == {"inject", "mode"}


def test_nothing_is_made_before_all_is_known() -> None:
    unknown, unloaded = build(has_native=None), build()
    unknown.load(files())

    assert unknown.current() is None
    assert unloaded.current() is None


BROKEN: dict[str, File] = {
    "a file that is gone": FileProblem("it does not exist", "put it there"),
    "no PEM": FileContent("text"),
    "nothing": FileContent(""),
    "a key beside it": FileContent(f"{PEM}-----BEGIN PRIVATE KEY-----\nsecret\n"),
    "more than an annotation holds": FileContent(PEM * 200),
}


@pytest.mark.parametrize("found", BROKEN.values(), ids=BROKEN)
def test_an_authority_that_can_not_be_used_ends_the_start_and_is_not_shown(found: File) -> None:
    with pytest.raises(SettingsError, match=r"--inject-ca /tls/ca\.crt") as caught:
        build().load({"/tls/ca.crt": found})

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("found", BROKEN.values(), ids=BROKEN)
def test_an_authority_that_can_not_be_used_later_leaves_the_one_before(found: File) -> None:
    sidecars = build()
    sidecars.load(files())
    before = sidecars.current()
    with capture_logs() as logs:
        sidecars.reload({"/tls/ca.crt": found})

    assert sidecars.current() is before
    assert [entry["log_level"] for entry in logs] == ["error"]


def test_a_new_authority_is_that_of_new_sidecars() -> None:
    sidecars, renewed = build(), Authority("another").certificate
    sidecars.load(files())
    sidecars.reload(files(renewed))
    sidecar = sidecars.current()

    assert sidecar is not None
    assert sidecar.server_ca == renewed
    assert sidecars.current() is sidecar


@pytest.mark.parametrize("name", ["dsn", "injected"], ids=["a name that nobody knows", "one that no pod decides"])
def test_what_can_not_be_forbidden_ends_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match=f"--inject-forbid: '{name}' can't be forbidden"):
        build(replace(SETTINGS, inject_forbid=(name,)))


def test_defaults_are_annotations_with_and_without_their_prefix() -> None:
    assert read_defaults((("dns", "true"), ("egress-xds/sidecar-memory", "128Mi"))) == {
        "egress-xds/dns": "true",
        "egress-xds/sidecar-memory": "128Mi",
    }


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(("dns", "perhaps"), id="a value that can't be read"),
        pytest.param(("dsn", "true"), id="a name that nobody knows"),
        pytest.param(("inject", "false"), id="one that is for pods alone"),
    ],
)
def test_a_default_that_means_nothing_ends_the_start(given: tuple[str, str]) -> None:
    with pytest.raises(SettingsError, match=f"--inject-default: .*{given[0]}"):
        read_defaults((given,))
