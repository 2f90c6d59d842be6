"""The annotations: each is understood, or refused with its name, its place and what to write instead."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from xds.capture import Family, UdpRejection
from xds.errors import InjectionError
from xds.injection.annotations import ANNOTATIONS, NAMESPACE, POD, Wishes, read_wishes, render_annotations_table
from xds.policy.model import Mode


def test_nothing_said_is_nothing_wished() -> None:
    assert read_wishes({}, {"example/owner": "x", "egressxds/mode": "y"}) == Wishes()


def test_every_annotation_is_read() -> None:
    wishes = read_wishes(
        {
            "egress-xds/mode": "explicit",
            "egress-xds/policy": "corporate",
            "egress-xds/exclude-ports": "9092,5432,5432",
            "egress-xds/exclude-cidrs": " 192.0.2.7/24 ,fd00::/8",
            "egress-xds/exclude-uids": "0",
            "egress-xds/dns": "true",
            "egress-xds/reject-udp": "none",
            "egress-xds/family": "ipv6",
            "egress-xds/trusted-ca": "true",
            "egress-xds/native-sidecar": "false",
            "egress-xds/sidecar-cpu": "0.5",
            "egress-xds/sidecar-cpu-limit": "none",
            "egress-xds/sidecar-memory": "64Mi",
            "egress-xds/sidecar-memory-limit": "1G",
            "egress-xds/run-as-user": "2000",
        },
        {},
    )

    assert wishes == Wishes(
        mode=Mode.EXPLICIT,
        policy="corporate",
        exclude_ports=(5432, 9092),
        exclude_networks=(ip_network("192.0.2.0/24"), ip_network("fd00::/8")),
        exclude_uids=(0,),
        dns=True,
        reject_udp=UdpRejection.NONE,
        families=(Family.IPV6,),
        trusted_ca=True,
        native_sidecar=False,
        cpu="0.5",
        cpu_limit="none",
        memory="64Mi",
        memory_limit="1G",
        run_as_user=2000,
        places=wishes.places,
    )


def test_what_the_pod_says_beats_what_its_namespace_says() -> None:
    wishes = read_wishes(
        {"egress-xds/mode": "env", "egress-xds/exclude-ports": ""},
        {"egress-xds/mode": "explicit", "egress-xds/exclude-ports": "22", "egress-xds/dns": "true"},
    )

    assert (wishes.mode, wishes.exclude_ports, wishes.dns) == (Mode.ENV, (), True)
    assert wishes.places == {"mode": POD, "exclude-ports": POD, "dns": NAMESPACE}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mode", "transparant", "none of transparent, explicit, env"),
        ("inject", "maybe", "none of true, false"),
        ("exclude-ports", "http", "no list of ports"),
        ("exclude-ports", "0", "port 0"),
        ("exclude-ports", "65536", "65536"),
        ("exclude-ports", "²", "no list of ports"),
        ("exclude-ports", ",".join(["1"] * 101), "at most 100"),
        ("exclude-cidrs", "10.0.0.0/33", "no network|not an IP network"),
        ("exclude-cidrs", "0.0.0.0/0", "every IPv4 address"),
        ("exclude-uids", "-1", "no list of user ids"),
        ("dns", "yes", "none of true, false"),
        ("reject-udp", "some", "none of quic, all, none"),
        ("family", "4", "none of ipv4, ipv6, both"),
        ("trusted-ca", "1", "none of true, false"),
        ("native-sidecar", "", "none of true, false"),
        ("sidecar-cpu", "fast", "no amount of processor time"),
        ("sidecar-cpu", "0m", "no amount of processor time"),
        ("sidecar-cpu-limit", "None", "no amount of processor time"),
        ("sidecar-memory", "128mb", "no amount of memory"),
        ("sidecar-memory-limit", "0", "no amount of memory"),
        ("run-as-user", "root", "no user id"),
        ("run-as-user", "0", "no user id"),
        ("run-as-user", "4294967295", "no user id"),
    ],
)
@pytest.mark.parametrize("place", [POD, NAMESPACE])
def test_a_value_that_can_not_be_read_is_refused_wherever_it_stands(
    name: str, value: str, words: str, place: str
) -> None:
    pod, namespace = ({f"egress-xds/{name}": value}, {}) if place == POD else ({}, {f"egress-xds/{name}": value})
    if name == "inject" and place == NAMESPACE:
        words = "a namespace opts in by the label"

    with pytest.raises(InjectionError, match=words) as refusal:
        read_wishes(pod, namespace)

    (problem,) = refusal.value.problems
    assert problem.startswith(f"the annotation egress-xds/{name} of {place}")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InjectionError) as refusal:
        read_wishes({"egress-xds/mode": "a", "egress-xds/dns": "b"}, {"egress-xds/family": "c", "egress-xds/mode": "d"})

    assert len(refusal.value.problems) == 4


@pytest.mark.parametrize(
    ("key", "remedy"),
    [("egress-xds/modus", "did you mean egress-xds/mode"), ("egress-xds/colour-of-the-sky", "remove it")],
)
def test_an_annotation_that_nobody_knows_is_refused(key: str, remedy: str) -> None:
    with pytest.raises(InjectionError, match=remedy):
        read_wishes({key: "x"}, {})
    with pytest.raises(InjectionError, match="of its namespace is not known"):
        read_wishes({}, {key: "x"})


def test_what_the_injector_writes_is_for_pods_only() -> None:
    read_wishes({"egress-xds/injected": "anything", "egress-xds/server-ca": "anything"}, {})

    with pytest.raises(InjectionError, match="is for pods only"):
        read_wishes({}, {"egress-xds/injected": "true"})


def test_a_login_in_a_value_is_not_repeated() -> None:
    with pytest.raises(InjectionError) as refusal:
        read_wishes({"egress-xds/mode": "http://user:secret@proxy"}, {})

    assert "secret" not in str(refusal.value)


def test_the_table_has_a_row_for_every_annotation() -> None:
    rows = render_annotations_table().splitlines()

    assert len(rows) == 2 + len(ANNOTATIONS)
    assert all(
        f"| `egress-xds/{annotation.name}` |" in row for annotation, row in zip(ANNOTATIONS, rows[2:], strict=True)
    )
    assert {row.count("|") for row in rows} == {5}
