"""Envoy and control plane prove to each other who they are, and all of it is exchanged while traffic flows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    API,
    SERVER,
    World,
    hold,
    open_lab,
    render_policy,
    start_broker,
    start_embedded,
    start_origins,
)
from tests.support.certificates import Authority
from tests.support.tokens import Issuer, claims, key_set
from xds.demo.cast import NODE, apply_capture, save_policy, start_control_plane, start_envoy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.demo.lab import Lab

pytestmark = pytest.mark.e2e

NAME = "control-plane.corp.example"
POD, _, NAMESPACE = NODE.rpartition(".")
DENY = f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]"


class Material:
    """The files of both sides, each exchanged as a mounted volume is: whole, by a rename."""

    def __init__(self, lab: Lab) -> None:
        self._directory = lab.directory / "credentials"
        self._directory.mkdir()
        self.inside = lab.inside / "credentials"

    def write(self, name: str, text: str) -> None:
        """Exchange one file."""
        draft = self._directory / f".{name}.draft"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._directory / name)

    def issue(self, servers: Authority, clients: Authority, tokens: Issuer) -> None:
        """Give the server a certificate, and the pod a certificate and a token."""
        server = servers.issue(NAME)
        self.write("tls.key", server.key)
        self.write("tls.crt", server.certificate)
        pod = clients.issue(f"spiffe://corp.example/ns/{NAMESPACE}/sa/web")
        self.write("pod.key", pod.key)
        self.write("pod.crt", pod.certificate)
        self.write("token", tokens.sign(claims(NAMESPACE, "web", POD)))

    def trust(self, servers: tuple[Authority, ...], clients: tuple[Authority, ...], tokens: tuple[Issuer, ...]) -> None:
        """Say on both sides whom to believe."""
        self.write("servers.pem", "".join(authority.certificate for authority in servers))
        self.write("clients.pem", "".join(authority.certificate for authority in clients))
        self.write("jwks.json", key_set(*tokens))

    @property
    def server_options(self) -> tuple[str, ...]:
        """What `xds serve` is told."""
        files = {"tls-certificate": "tls.crt", "tls-key": "tls.key", "client-ca": "clients.pem", "jwks": "jwks.json"}
        return tuple(word for flag, name in files.items() for word in (f"--{flag}", str(self.inside / name)))

    @property
    def envoy_options(self) -> tuple[str, ...]:
        """What `xds bootstrap` is told."""
        files = {"server-ca": "servers.pem", "client-certificate": "pod.crt", "client-key": "pod.key"}
        files["token-file"] = "token"
        named = (word for flag, name in files.items() for word in (f"--{flag}", str(self.inside / name)))
        return (*named, "--server-name", NAME)


Parties = tuple[Authority, Authority, Issuer]


@pytest.fixture
def guarded() -> Iterator[tuple[World, Material, Parties]]:
    """A world whose control plane believes nobody without a certificate and a token."""
    old = (Authority("servers"), Authority("clients"), Issuer("old"))
    with open_lab() as lab:
        proxy = start_embedded(lab)
        start_origins(lab)
        save_policy(lab, "policy.yaml", render_policy())
        material = Material(lab)
        material.issue(*old)
        material.trust((old[0],), (old[1],), (old[2],))
        control_plane = start_control_plane(lab, SERVER, *material.server_options)
        sidecar = start_envoy(lab, SERVER, bootstrap_options=material.envoy_options)
        sidecar.wait_until_live()
        apply_capture(lab)
        start_broker(lab)
        yield World(lab, proxy, control_plane, sidecar, lab.leaked_packets()), material, old


def test_everything_that_is_proven_is_exchanged_without_a_gap(
    guarded: tuple[World, Material, Parties],
) -> None:
    """New authorities on both sides and a new issuer: no stream ends, and the next one is opened with what is new."""
    world, material, old = guarded
    world.curl(f"https://{API}/").expect()
    new = (Authority("new servers"), Authority("new clients"), Issuer("new"))

    material.trust((old[0], new[0]), (old[1], new[1]), (old[2], new[2]))
    world.control_plane.wait_for("key set for new streams")
    material.issue(*new)
    hold(lambda: "stream closed" not in world.control_plane.text(), "the exchange ended a stream", 1)

    world.control_plane.kill()
    material.trust((new[0],), (new[1],), (new[2],))
    save_policy(world.lab, "policy.yaml", render_policy(DENY))
    start_control_plane(world.lab, SERVER, *material.server_options)
    deadline = time.monotonic() + 40
    while world.curl(f"https://{API}/").exit_code != 35:
        assert time.monotonic() < deadline, "Envoy did not come back with what is new"
