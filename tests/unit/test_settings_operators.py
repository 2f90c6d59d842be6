"""The settings that operators' ports and canaries have."""

from __future__ import annotations

from pathlib import Path

import pytest

from xds.errors import SettingsError
from xds.flags import HostPort, Share
from xds.settings import DEFAULT_ADMIN, DEFAULT_HTTP, read_settings


def test_the_ports_for_operators_are_loopback_unless_somebody_says_otherwise() -> None:
    settings = read_settings({}, {})

    assert (settings.admin_listen, settings.http_listen) == (DEFAULT_ADMIN, DEFAULT_HTTP)
    assert {DEFAULT_ADMIN.host, DEFAULT_HTTP.host} == {"127.0.0.1"}


def test_a_port_for_operators_is_switched_off_by_nothing() -> None:
    settings = read_settings({"admin_listen": ""}, {"EGRESS_XDS_HTTP_LISTEN": ""})

    assert (settings.admin_listen, settings.http_listen) == (None, None)


def test_a_port_for_operators_can_be_moved() -> None:
    settings = read_settings({"http_listen": "0.0.0.0:9090"}, {})

    assert settings.http_listen == HostPort(host="0.0.0.0", port=9090)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", None),
        ("3", Share(number=3)),
        ("5%", Share(number=5, is_percent=True)),
        ("100%", Share(number=100, is_percent=True)),
    ],
)
def test_canaries_are_a_number_or_a_part(text: str, share: Share | None) -> None:
    assert read_settings({"canary": text}, {}).canary == share


@pytest.mark.parametrize("text", ["0", "0%", "101%", "-1", "few", "5 %", "%", "1.5", "٣", "9" * 30])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="as in 3 or 5%"):
        read_settings({"canary": text}, {})


def test_without_the_option_there_are_no_canaries() -> None:
    assert read_settings({}, {}).canary is None


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("1s", 1), ("90s", 90), ("1500ms", 1.5), ("1440m", 86_400)])
def test_a_time_to_live_is_between_a_second_and_a_day(text: str, seconds: float | None) -> None:
    assert read_settings({"resource_ttl": text}, {}).resource_ttl == seconds


@pytest.mark.parametrize("text", ["999ms", "0", "-5s", "1441m", "inf", "soon"])
def test_what_is_no_time_to_live_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--resource-ttl is .*as in"):
        read_settings({"resource_ttl": text}, {})


def test_resources_last_unless_told_otherwise() -> None:
    assert read_settings({}, {}).resource_ttl is None


IN_A_CLUSTER = {"kubernetes": "on", "namespace": "egress-system", "admission_listen": "0.0.0.0:8443"}
WITH_TLS = {**IN_A_CLUSTER, "tls_certificate": "tls.crt", "tls_key": "tls.key"}
IMAGES = {"inject_image": "registry.corp.example:5000/xds@sha256:" + "0" * 64, "inject_init_image": "init:1"}


def test_an_authority_of_those_who_ask_needs_an_address_where_they_ask() -> None:
    flags = {**WITH_TLS, "admission_client_ca": "ca.crt"}

    assert read_settings(flags, {}).admission_client_ca == Path("ca.crt")
    with pytest.raises(SettingsError, match="add --admission-listen"):
        read_settings({**flags, "admission_listen": ""}, {})
    with pytest.raises(SettingsError, match="without --kubernetes"):
        read_settings({"admission_client_ca": "ca.crt"}, {})


def test_pods_are_injected_where_images_are_given() -> None:
    assert read_settings({**WITH_TLS, **IMAGES}, {}).injects
    assert not read_settings(WITH_TLS, {}).injects


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(
            {**WITH_TLS, "inject_image": "a"}, "--inject-image and --inject-init-image", id="one image of two"
        ),
        pytest.param({**WITH_TLS, **IMAGES, "admission_listen": ""}, "add --admission-listen", id="nobody asks"),
        pytest.param({"inject_image": "a", "inject_init_image": "b"}, "without --kubernetes", id="no cluster"),
        pytest.param({**WITH_TLS, "inject_image": "an image"}, "it must be an image", id="two words"),
        pytest.param({**WITH_TLS, "inject_default": ("dns",)}, "it must be NAME=VALUE", id="a default without a value"),
        pytest.param({**WITH_TLS, "inject_server": "xds:0"}, "from 1 to 65535", id="a port that nobody reaches"),
    ],
)
def test_half_of_injection_is_refused(flags: dict[str, str | tuple[str, ...]], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(flags, {})


def test_defaults_of_pods_are_repeated_and_split_in_a_variable() -> None:
    expected = (("sidecar-memory", "128Mi"), ("exclude-ports", "22,25"))
    text = "sidecar-memory=128Mi exclude-ports=22,25"

    assert read_settings({**WITH_TLS, "inject_default": tuple(text.split())}, {}).inject_default == expected
    assert read_settings(WITH_TLS, {"EGRESS_XDS_INJECT_DEFAULT": text}).inject_default == expected
