"""Where a setting comes from, and what is said about one that can't be used."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from xds.errors import SettingsError
from xds.flags import DirectAddress, HostPort, parse_seconds
from xds.settings import OPTIONS, Settings, load_settings, read_settings


def test_without_flags_and_variables_everything_has_its_default() -> None:
    assert read_settings({}, {}) == Settings()


def test_a_flag_wins_over_its_variable_and_the_variable_over_the_default() -> None:
    environ = {"EGRESS_XDS_LISTEN": "127.0.0.2:1", "EGRESS_XDS_LOG_FORMAT": "json"}

    settings = read_settings({"listen": "127.0.0.3:2", "log_format": None}, environ)

    assert settings.listen == HostPort(host="127.0.0.3", port=2)
    assert settings.log_format == "json"


def test_a_repeatable_flag_that_was_not_given_leaves_its_variable_in_force() -> None:
    environ = {"EGRESS_XDS_ALWAYS_DIRECT": "dns=10.0.0.10/32:53  192.0.2.0/24"}

    settings = read_settings({"always_direct": ()}, environ)

    assert [str(item.network) for item in settings.always_direct] == ["10.0.0.10/32", "192.0.2.0/24"]
    assert len(read_settings({"always_direct": ("10.1.0.0/16",)}, environ).always_direct) == 1


def test_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGRESS_XDS_LISTEN", "[::1]:18001")

    assert load_settings({}).listen == HostPort(host="::1", port=18001)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("127.0.0.1:0", "127.0.0.1:0", id="port 0 lets the kernel choose"),
        pytest.param("[::]:18000", "[::]:18000", id="IPv6 has brackets"),
        pytest.param("xds.example:80", "xds.example:80", id="a name"),
        pytest.param("[fe80::1%eth0]:80", "[fe80::1%eth0]:80", id="a link-local address of one interface"),
    ],
)
def test_an_address_is_read_and_shown(text: str, expected: str) -> None:
    assert str(read_settings({"listen": text}, {}).listen) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("dns=10.0.0.10/32:53", DirectAddress(reason="dns", network=ip_network("10.0.0.10"), ports=(53,)),
                     id="name, network and port"),
        pytest.param("10.1.2.3/8", DirectAddress(reason="always direct by setting", network=ip_network("10.0.0.0/8")),
                     id="host bits are masked"),
        pytest.param("v6=[fd00::/8]:53", DirectAddress(reason="v6", network=ip_network("fd00::/8"), ports=(53,)),
                     id="IPv6 with a port"),
        pytest.param("[fd00::]/8", DirectAddress(reason="always direct by setting", network=ip_network("fd00::/8")),
                     id="the prefix may stand behind the bracket"),
        pytest.param("fd00::1", DirectAddress(reason="always direct by setting", network=ip_network("fd00::1")),
                     id="a bare IPv6 address is no port"),
    ],
)  # fmt: skip
def test_an_always_direct_address_is_read(text: str, expected: DirectAddress) -> None:
    assert read_settings({"always_direct": (text,)}, {}).always_direct == (expected,)


def test_the_ranges_of_the_cluster_are_read() -> None:
    settings = read_settings({}, {"EGRESS_XDS_CLUSTER_CIDR": "10.96.0.1/12 fd00:10::/56"})

    assert [str(network) for network in settings.cluster_cidr] == ["10.96.0.0/12", "fd00:10::/56"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5.0), ("1m", 60.0), ("0.5", 0.5)],
    ids=["milliseconds", "seconds", "minutes", "a bare number is seconds"],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        pytest.param("listen", "18000", id="no host"),
        pytest.param("listen", ":18000", id="an empty host"),
        pytest.param("listen", "localhost", id="no port"),
        pytest.param("listen", "::1:18000", id="IPv6 without brackets"),
        pytest.param("listen", "[10.0.0.1:18000", id="half a pair of brackets"),
        pytest.param("listen", "[fd00::g]:18000", id="no IPv6 address in the brackets"),
        pytest.param("listen", "http://10.0.0.1:18000", id="a URL"),
        pytest.param("listen", "10.0.0.1 :18000", id="a space"),
        pytest.param("listen", "127.0.0.1:65536", id="a port out of range"),
        pytest.param("listen", f"127.0.0.1:{'1' * 5000}", id="a port longer than Python reads"),
        pytest.param("listen", "a..b:18000", id="a name with an empty label"),
        pytest.param("listen", f"{'a' * 64}.example:18000", id="a name with a label of 64 characters"),
        pytest.param("listen", "127.0.0.1:\N{ARABIC-INDIC DIGIT ONE}", id="a digit that is not ASCII"),
        pytest.param("always_direct", "10.0.0.0/33", id="a prefix too long"),
        pytest.param("always_direct", "=10.0.0.0/8", id="an empty name"),
        pytest.param("always_direct", "0.0.0.0/0", id="every IPv4 address"),
        pytest.param("always_direct", "all=1.2.3.4/0", id="every IPv4 address, with host bits"),
        pytest.param("always_direct", "[::/0]", id="every IPv6 address"),
        pytest.param("always_direct", "10.0.0.0/8:0", id="port 0"),
        pytest.param("always_direct", "example.com", id="a name instead of a network"),
        pytest.param("cluster_cidr", "::/0", id="a cluster that is everywhere"),
        pytest.param("cluster_cidr", "10.96.0.0/12:443", id="a range with a port"),
        pytest.param("debounce_quiet", "0s", id="no time at all"),
        pytest.param("debounce_quiet", "-1s", id="a negative time"),
        pytest.param("debounce_quiet", "inf", id="for ever"),
        pytest.param("debounce_quiet", "soon", id="not a time"),
        pytest.param("log_level", "loud", id="not a level"),
    ],
)
def test_an_unusable_value_names_where_it_came_from_and_the_alternative(field: str, text: str) -> None:
    option = next(option for option in OPTIONS if option.field == field)

    with pytest.raises(SettingsError) as of_flag:
        read_settings({field: text}, {})
    with pytest.raises(SettingsError) as of_variable:
        read_settings({}, {option.variable: text})

    assert str(of_flag.value).startswith(f"{option.flag} is ")
    assert option.variable in str(of_flag.value)
    assert str(of_variable.value).startswith(f"{option.variable} is ")
    assert option.flag in str(of_variable.value)


def test_a_wait_for_quiet_that_outlasts_its_maximum_is_refused() -> None:
    with pytest.raises(SettingsError, match="--debounce-max"):
        read_settings({"debounce_quiet": "2s", "debounce_max": "1s"}, {})


def test_kubernetes_tells_where_its_api_server_is() -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}

    assert read_settings({}, environ).api_server == HostPort(host="10.96.0.1", port=6443)
    assert str(read_settings({"api_server": "10.0.0.1:443"}, environ).api_server) == "10.0.0.1:443"
    with pytest.raises(SettingsError, match="KUBERNETES_SERVICE_PORT"):
        read_settings({}, {**environ, "KUBERNETES_SERVICE_PORT": "https"})


def test_a_port_of_every_address_is_not_everything() -> None:
    (direct,) = read_settings({"always_direct": ("dns=0.0.0.0/0:53",)}, {}).always_direct

    assert (str(direct.network), direct.ports) == ("0.0.0.0/0", (53,))


def test_an_empty_path_switches_a_file_off() -> None:
    assert read_settings({"resolv_conf": ""}, {}).resolv_conf is None
    assert read_settings({}, {"EGRESS_XDS_RESOLV_CONF": "/tmp/r"}).resolv_conf == Path("/tmp/r")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("xds", False)],
)
def test_only_addresses_of_this_host_alone_are_loopback(host: str, expected: bool) -> None:
    assert HostPort(host=host, port=1).is_loopback is expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tls_certificate": "c"}, "--tls-key"),
        ({"client_ca": "c"}, "--tls-certificate"),
        ({"jwks": "j", "listen": "0.0.0.0:1"}, "--tls-certificate"),
        ({"token_issuer": "https://issuer.example"}, "--jwks"),
        ({"token_audience": ("somebody",)}, "--jwks"),
        ({"jwks": ""}, "--jwks"),
        ({"client_ca": ""}, "--client-ca"),
        ({"max_connection_age": "100000m"}, "--max-connection-age"),
        ({"max_connection_age": "0.1ms"}, "--max-connection-age"),
        ({"max_streams_per_node": "0"}, "--max-streams-per-node"),
    ],
)
def test_a_demand_that_could_not_be_met_is_refused_by_its_flag(
    flags: dict[str, str | tuple[str, ...]], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        read_settings(flags, {})


def test_a_variable_that_nobody_filled_switches_no_demand_off() -> None:
    with pytest.raises(SettingsError, match="EGRESS_XDS_JWKS"):
        read_settings({}, {"EGRESS_XDS_JWKS": ""})


_KUBE = {"HOME": "/h/me", "EGRESS_XDS_KUBERNETES": "on"}


@pytest.mark.parametrize(
    ("environ", "flags", "kubeconfig", "namespace"),
    [
        pytest.param({}, {}, Path("/h/me/.kube/config"), "egress-system", id="the one of the home directory"),
        pytest.param({"KUBECONFIG": ""}, {}, Path("/h/me/.kube/config"), "egress-system", id="an empty variable"),
        pytest.param({"KUBECONFIG": "/a:/b"}, {}, (Path("/a"), Path("/b")), "egress-system", id="several files"),
        pytest.param({"KUBECONFIG": "/a"}, {"kubeconfig": "/c"}, Path("/c"), "egress-system", id="a flag wins"),
        pytest.param({"EGRESS_XDS_KUBECONFIG": "/d", "KUBECONFIG": "/a"}, {}, Path("/d"), "egress-system",
                     id="the project's own variable is a flag"),
        pytest.param({}, {"namespace": "ours"}, Path("/h/me/.kube/config"), "ours", id="another namespace"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {}, None, "", id="a pod has its own"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"context": "x"}, Path("/h/me/.kube/config"),
                     "egress-system", id="a pod has no contexts"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBECONFIG": "/a"}, {}, (Path("/a"),), "egress-system",
                     id="a kubeconfig that is named comes before a pod's own"),
    ],
)  # fmt: skip
def test_operators_find_the_cluster_as_kubectl_does(
    environ: dict[str, str], flags: dict[str, str | tuple[str, ...] | None], kubeconfig: object, namespace: str
) -> None:
    settings = read_settings(flags, _KUBE | environ, is_operator=True)

    assert (settings.kubeconfig, settings.namespace) == (kubeconfig, namespace)


def test_a_server_takes_no_kubeconfig_that_it_was_not_told_of() -> None:
    assert read_settings({}, _KUBE | {"KUBECONFIG": "/a"}).kubeconfig is None
    with pytest.raises(SettingsError, match="--kubeconfig needs --namespace"):
        read_settings({"kubeconfig": "/a"}, _KUBE)
    with pytest.raises(SettingsError, match="--context names one of a kubeconfig; add --kubeconfig"):
        read_settings({"context": "x"}, _KUBE)


def test_an_operator_without_a_cluster_needs_none() -> None:
    assert read_settings({}, {"HOME": "/h/me", "KUBECONFIG": "/a"}, is_operator=True) == Settings()
