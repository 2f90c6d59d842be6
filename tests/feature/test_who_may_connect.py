"""Who gets in and as whom, over real TLS and real gRPC, while files are exchanged under an open stream."""

from __future__ import annotations

import asyncio
import hmac
import json
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK
from structlog.testing import capture_logs

from tests.feature.ads_peer import METHODS, Peer
from tests.feature.test_serve_secrets import POLICY, TEAMS, encoded
from tests.support.certificates import DAY, Authority, Issued
from tests.support.control_plane import PATIENCE, SETTINGS, running_control_plane, wait_until
from tests.support.tokens import Issuer, claims, key_set, settle
from xds import names
from xds.admin.metrics import metrics_page
from xds.client import Credentials, Identity, fetch_resources
from xds.errors import UnreachableError
from xds.gen import discovery_pb2 as pb
from xds.names import NodeId
from xds.resources import ResourceType
from xds.server.services import SERVICES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.feature.ads_peer import Call
    from tests.support.control_plane import Running
    from xds.settings import Settings

NODE = "web-0.shop"
END = "egress_xds_tls_certificate_not_after_seconds"
CDS, SDS = ResourceType.CLUSTER, ResourceType.SECRET
UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@dataclass
class House:
    """A server's files, and those who sign for its callers."""

    directory: Path
    authority: Authority
    clients: Authority
    issuer: Issuer

    def write_server(self, authority: Authority | None = None) -> None:
        """Give the server a certificate of an authority."""
        issued = (authority or self.authority).issue("control-plane.example")
        (self.directory / "tls.crt").write_text(issued.certificate)
        (self.directory / "tls.key").write_text(issued.key)

    def settings(self, *, certificates: bool = False, tokens: bool = False) -> Settings:
        """Demand these of callers."""
        return replace(
            SETTINGS,
            tls_certificate=self.directory / "tls.crt",
            tls_key=self.directory / "tls.key",
            client_ca=self.directory / "clients.pem" if certificates else None,
            jwks=self.directory / "jwks.json" if tokens else None,
            token_issuer="https://kubernetes.default.svc" if tokens else "",
        )

    @asynccontextmanager
    async def connect(
        self,
        address: str,
        *headers: tuple[str, str],
        own: Issued | None = None,
        authority: Authority | None = None,
        method: str = METHODS["delta"],
    ) -> AsyncIterator[Peer]:
        """Open a stream, with a client's certificate or headers."""
        credentials = grpc.ssl_channel_credentials(
            (authority or self.authority).certificate.encode(),
            *((own.key.encode(), own.certificate.encode()) if own else ()),
        )
        options = (("grpc.ssl_target_name_override", "control-plane.example"),)
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            call: Call = channel.stream_stream(method)(metadata=headers)
            try:
                yield Peer("delta" if "Delta" in method else "sotw", call)
            finally:
                call.cancel()


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Two teams behind proxies of the same name, each with a login of its own, and the files of a server."""
    (tmp_path / "policies").mkdir()
    for team in TEAMS:
        (tmp_path / team).write_text(f"{team}:canary-of-{team}")
        text = POLICY.format(team=team, login=tmp_path / team)
        (tmp_path / "policies" / f"{team}.yaml").write_text(text)
    found = House(tmp_path, Authority("servers"), Authority("clients"), Issuer())
    found.write_server()
    (tmp_path / "clients.pem").write_text(found.clients.certificate)
    (tmp_path / "jwks.json").write_text(key_set(Issuer("other"), found.issuer))
    return found


def serving(house: House, settings: Settings) -> AbstractAsyncContextManager[Running]:
    """Serve the house's policies."""
    return running_control_plane(house.directory / "policies", settings, clock=time.time)


def bearer(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


async def verdict(peer: Peer, node: str = NODE, account: str = "") -> grpc.StatusCode:
    """Ask for clusters as `node`; return OK if there is an answer, and the status otherwise."""
    try:
        await ask_as(peer, node, account)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return await peer.call.code()
    return await outcome(peer)


async def ask_as(peer: Peer, node: str = NODE, account: str = "") -> None:
    """Ask for clusters as `node`, with a service account that it claims to have."""
    who = pb.Node(id=node)
    if account:
        who.metadata.update({"serviceAccount": account})
    await peer.send(pb.DeltaDiscoveryRequest(node=who, type_url=CDS.type_url).SerializeToString())


async def outcome(peer: Peer) -> grpc.StatusCode:
    """
    Return OK once there is an answer, and the status if the stream ends.

    Whoever writes to a stream that ends at that moment may be told INTERNAL instead: what was asked is not asked again.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await peer.call.read()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        answer = grpc.aio.EOF
    return grpc.StatusCode.OK if isinstance(answer, bytes) else await peer.call.code()


async def goes_on(peer: Peer) -> bool:
    """Ask for one type more on an open stream; tell whether it is answered."""
    await peer.ask(ResourceType.LISTENER, node=None)
    async with asyncio.timeout(PATIENCE):
        return isinstance(await peer.call.read(), bytes)


async def hear_all(peer: Peer, wanted: bytes) -> bytes:
    """Return all that comes until `wanted` has and nothing follows."""
    heard = b""
    while True:
        try:
            async with asyncio.timeout(PATIENCE if wanted not in heard else 0.3):
                answer = await peer.call.read()
        except TimeoutError:
            return heard
        assert isinstance(answer, bytes)
        heard += answer


ME = claims()
TOKENS = {
    "a token of the pod gets in": (ME, NODE, grpc.StatusCode.OK),
    "a token of the account, of no pod, gets in": (claims(pod=""), NODE, grpc.StatusCode.OK),
    "a subject is enough": ({k: v for k, v in ME.items() if k != "kubernetes.io"}, NODE, grpc.StatusCode.OK),
    "one of several audiences is enough": (claims(aud=["api", "egress-xds"]), NODE, grpc.StatusCode.OK),
    "clocks may differ by seconds": (claims(exp=timedelta(seconds=-10)), NODE, grpc.StatusCode.OK),
    "another pod is not me": (ME, "web-1.shop", PERMISSION_DENIED),
    "another namespace is not mine": (ME, "web-0.bank", PERMISSION_DENIED),
    "nor is it by an account alone": (claims(pod=""), "web-0.bank", PERMISSION_DENIED),
    "an expired token is none": (claims(exp=timedelta(seconds=-120)), NODE, UNAUTHENTICATED),
    "a token for later is none": (claims(nbf=timedelta(seconds=120)), NODE, UNAUTHENTICATED),
    "a token for others is none": (claims(aud=["api"]), NODE, UNAUTHENTICATED),
    "a token for nobody is none": ({k: v for k, v in ME.items() if k != "aud"}, NODE, UNAUTHENTICATED),
    "a token without an end is none": ({k: v for k, v in ME.items() if k != "exp"}, NODE, UNAUTHENTICATED),
    "a token from elsewhere is none": (claims(iss="https://elsewhere.example"), NODE, UNAUTHENTICATED),
    "a person is no workload": (
        {**{k: v for k, v in ME.items() if k != "kubernetes.io"}, "sub": "jane"},
        NODE,
        UNAUTHENTICATED,
    ),
    "a namespace alone is nobody": ({**ME, "kubernetes.io": {"namespace": "shop"}}, NODE, UNAUTHENTICATED),
}


@pytest.mark.parametrize(("said", "node", "expected"), TOKENS.values(), ids=TOKENS)
async def test_a_token_lets_in_whom_it_is_about(
    house: House, said: dict[str, object], node: str, expected: grpc.StatusCode
) -> None:
    async with (
        serving(house, house.settings(tokens=True)) as running,
        house.connect(running.address, bearer(house.issuer.sign(said))) as peer,
    ):
        assert await verdict(peer, node) is expected


def forge(house: House, how: str) -> tuple[tuple[str, str], ...]:
    """Return the headers of somebody who has no token of the issuer."""
    good, kid = house.issuer.sign(ME), house.issuer.kid
    body, signature = good.rpartition(".")[::2]
    ways: dict[str, Callable[[], tuple[tuple[str, str], ...]]] = {
        "nothing": lambda: (),
        "another scheme": lambda: (("authorization", f"Basic {good}"),),
        "two tokens": lambda: (bearer(good), bearer(good)),
        "no token": lambda: (bearer("no.token.this"),),
        "an empty one": lambda: (bearer(""),),
        "no signature": lambda: (bearer(jwt.encode(settle(ME), "", "none", headers={"kid": kid})),),
        "the public key as a secret": lambda: (bearer(sign_with_public_key(house)),),
        "a stranger with the key's name": lambda: (bearer(Issuer(kid).sign(ME)),),
        "a stranger": lambda: (bearer(Issuer("stranger").sign(ME)),),
        "another algorithm": lambda: (bearer(Issuer(kid, is_rsa=True).sign(ME)),),
        "a cut signature": lambda: (bearer(f"{body}.{signature[:-4]}"),),
        "another's signature": lambda: (bearer(f"{body}.{house.issuer.sign(claims(pod='x')).rpartition('.')[2]}"),),
    }
    return ways[how]()


def sign_with_public_key(house: House) -> str:
    """Return a token that a verifier would take that lets the token choose between a signature and an HMAC."""

    def encode(part: object) -> bytes:
        return urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")

    body = encode({"alg": "HS256", "typ": "JWT", "kid": house.issuer.kid}) + b"." + encode(settle(ME))
    key = PyJWK(house.issuer.jwk).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    tag = urlsafe_b64encode(hmac.digest(key, body, "sha256")).rstrip(b"=")
    return (body + b"." + tag).decode()


FORGERIES = (
    "nothing",
    "another scheme",
    "two tokens",
    "no token",
    "an empty one",
    "no signature",
    "the public key as a secret",
    "a stranger with the key's name",
    "a stranger",
    "another algorithm",
    "a cut signature",
    "another's signature",
)


@pytest.mark.parametrize("how", FORGERIES)
async def test_a_forged_token_opens_nothing_and_learns_nothing(house: House, how: str) -> None:
    headers = forge(house, how)
    with capture_logs() as logs:
        async with (
            serving(house, house.settings(tokens=True)) as running,
            house.connect(running.address, *headers) as peer,
        ):
            assert await verdict(peer) is UNAUTHENTICATED
            assert await peer.call.details() == "the caller is not authenticated"
            assert not running.parts.clients.connected()
            assert running.parts.clients.refused == {"unauthenticated": 1}

    (refusal,) = [line for line in logs if line["event"] == "caller refused"]
    assert refusal["reason"]
    for _, value in headers:
        assert value.partition(" ")[2][:40] not in repr(logs) or not value.partition(" ")[2]


async def test_a_stream_ends_with_the_token_that_opened_it(house: House) -> None:
    """A pod that is deleted has its token for a while; when it ends, so does the stream, and says why."""
    async with serving(house, house.settings(tokens=True)) as running:
        token = house.issuer.sign(claims(exp=timedelta(seconds=-28)))  # 30 s are granted to clocks
        async with house.connect(running.address, bearer(token)) as peer:
            assert await verdict(peer) is grpc.StatusCode.OK
            status, details = await peer.end()

    assert status is UNAUTHENTICATED
    assert "expired" in details


async def test_keys_are_exchanged_under_open_streams(house: House) -> None:
    """New tokens count as soon as the file has their key; a broken file changes nothing."""
    new, jwks = Issuer("new"), house.directory / "jwks.json"
    async with (
        serving(house, house.settings(tokens=True)) as running,
        house.connect(running.address, bearer(house.issuer.sign(ME))) as early,
    ):
        assert await verdict(early) is grpc.StatusCode.OK
        with capture_logs() as logs:
            jwks.write_text('{"keys": [')
            await wait_until(lambda: any(line["log_level"] == "error" for line in logs))
            async with house.connect(running.address, bearer(house.issuer.sign(ME))) as peer:
                assert await verdict(peer) is grpc.StatusCode.OK
            jwks.write_text(key_set(new))
            await wait_until(lambda: any(line["event"] == "key set for new streams" for line in logs))
        async with house.connect(running.address, bearer(new.sign(ME))) as peer:
            assert await verdict(peer) is grpc.StatusCode.OK
        async with house.connect(running.address, bearer(house.issuer.sign(ME))) as peer:
            assert await verdict(peer) is UNAUTHENTICATED
        assert await goes_on(early)


SHOP, BANK = "spiffe://corp.example/ns/shop/sa/web", "spiffe://corp.example/ns/bank/sa/web"
CERTIFICATES = {
    "the namespace and account of the pod": ((SHOP,), grpc.StatusCode.OK),
    "the pod itself": (("spiffe://corp.example/ns/shop/sa/web/pod/web-0",), grpc.StatusCode.OK),
    "a namespace": (("spiffe://corp.example/ns/shop",), grpc.StatusCode.OK),
    "another namespace": ((BANK,), PERMISSION_DENIED),
    "another pod": (("spiffe://corp.example/ns/shop/pod/web-1",), PERMISSION_DENIED),
    "a host name only": (("web-0.shop",), UNAUTHENTICATED),
    "two identities": ((SHOP, BANK), UNAUTHENTICATED),
    "an identity of another kind": (("spiffe://corp.example/workload/7",), UNAUTHENTICATED),
    "no SPIFFE ID": (("https://corp.example/ns/shop",), UNAUTHENTICATED),
}


@pytest.mark.parametrize(("identities", "expected"), CERTIFICATES.values(), ids=CERTIFICATES)
async def test_a_certificate_lets_in_whom_it_is_about(
    house: House, identities: tuple[str, ...], expected: grpc.StatusCode
) -> None:
    own = house.clients.issue(*identities)
    async with (
        serving(house, house.settings(certificates=True)) as running,
        house.connect(running.address, own=own) as peer,
    ):
        assert await verdict(peer) is expected


@pytest.mark.parametrize("who", ["nobody", "somebody of another authority"])
async def test_without_a_certificate_of_the_authority_there_is_no_connection(house: House, who: str) -> None:
    own = None if who == "nobody" else Authority("clients").issue(SHOP)
    async with (
        serving(house, house.settings(certificates=True)) as running,
        house.connect(running.address, own=own) as peer,
    ):
        assert await verdict(peer) is grpc.StatusCode.UNAVAILABLE


async def test_certificate_and_token_must_be_about_the_same(house: House) -> None:
    settings = house.settings(certificates=True, tokens=True)
    own = house.clients.issue(SHOP)
    async with serving(house, settings) as running:
        for token, expected in (
            (house.issuer.sign(ME), grpc.StatusCode.OK),
            (house.issuer.sign(claims("bank")), PERMISSION_DENIED),
            (house.issuer.sign(claims(account="other", pod="")), PERMISSION_DENIED),
        ):
            async with house.connect(running.address, bearer(token), own=own) as peer:
                assert await verdict(peer) is expected


async def test_a_new_certificate_is_for_new_connections_and_cuts_none(house: House) -> None:
    """Half of a pair is not used; the stream that was open before goes on through all of it."""
    newer = Authority("newer")
    async with serving(house, house.settings()) as running, house.connect(running.address) as early:
        assert await verdict(early) is grpc.StatusCode.OK
        with capture_logs() as logs:
            (house.directory / "tls.crt").write_text(newer.issue("control-plane.example").certificate)
            await wait_until(lambda: any("is not used" in line["event"] for line in logs))
            async with house.connect(running.address) as peer:
                assert await verdict(peer) is grpc.StatusCode.OK
            house.write_server(newer)
            await wait_until(lambda: any(line["event"] == "certificate for new connections" for line in logs))
        async with house.connect(running.address, authority=newer) as peer:
            assert await verdict(peer) is grpc.StatusCode.OK
        async with house.connect(running.address) as peer:
            assert await verdict(peer) is grpc.StatusCode.UNAVAILABLE
        assert await goes_on(early)


METHODS_OF_ALL = [
    *METHODS.values(),
    *(f"/{service.name}/{verb}{service.noun}" for service in SERVICES for verb in ("Stream", "Delta")),
]


@pytest.mark.parametrize("method", METHODS_OF_ALL)
async def test_no_request_gets_the_login_of_another_namespace(house: House, method: str) -> None:
    """Whatever a pod asks for under its own name, by any name or with a wildcard, it is its own or nothing."""
    own, others = (names.proxy_login("corp", str(house.directory / team)) for team in TEAMS)
    async with (
        serving(house, house.settings(tokens=True)) as running,
        house.connect(running.address, bearer(house.issuer.sign(ME)), method=method) as peer,
    ):
        kinds = [kind for kind in ResourceType if all(kind is s.kind for s in SERVICES if s.name in method)]
        for kind in kinds:
            await peer.ask(kind, others, own, "*")
        heard = await hear_all(peer, encoded("shop") if SDS in kinds else b"")

    assert encoded("bank") not in heard
    assert (encoded("shop") in heard) is (SDS in kinds)


async def test_a_claimed_service_account_must_be_the_proven_one(house: House) -> None:
    async with serving(house, house.settings(tokens=True)) as running:
        for account, expected in (("web", grpc.StatusCode.OK), ("admin", PERMISSION_DENIED)):
            async with house.connect(running.address, bearer(house.issuer.sign(ME))) as peer:
                assert await verdict(peer, account=account) is expected


def dump(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `xds dump` as a process, as gRPC wants a process of its own for a second loop."""
    command = [sys.executable, "-c", "from xds.cli import main; main()", "dump", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_a_dump_with_a_pods_token_shows_what_that_pod_gets(house: House) -> None:
    token = house.issuer.sign(ME)
    (house.directory / "token").write_text(token + "\n")
    (house.directory / "ca.pem").write_text(house.authority.certificate)
    believed = Credentials(server_ca=house.authority.certificate.encode(), server_name="control-plane.example")
    me, other = Identity(node_id=NodeId(NODE)), Identity(node_id=NodeId("web-0.bank"))
    async with serving(house, house.settings(tokens=True)) as running:
        good = await asyncio.to_thread(
            dump,
            *(
                "--server",
                running.address,
                "--node",
                NODE,
                "--server-name",
                "control-plane.example",
                "--timeout",
                "12s",
            ),
            *("--server-ca", house.directory / "ca.pem", "--token-file", house.directory / "token"),
        )
        with pytest.raises(UnreachableError, match="--token-file"):
            await fetch_resources(running.address, me, within=PATIENCE, credentials=believed)
        with pytest.raises(UnreachableError, match="give --node"):
            await fetch_resources(running.address, other, within=PATIENCE, credentials=replace(believed, token=token))
        with pytest.raises(UnreachableError, match="--server-ca"):
            await fetch_resources(running.address, me, within=PATIENCE, credentials=Credentials(token=token))

    assert good.returncode == 0, good.stderr
    assert names.OUTBOUND_LISTENER in good.stdout


async def test_a_token_that_ends_before_the_first_request_opens_nothing(house: House) -> None:
    """The login must not be on its way before somebody looks at the clock."""
    async with serving(house, house.settings(tokens=True)) as running:
        token = house.issuer.sign(claims(exp=timedelta(seconds=-29.2)))  # 30 s are granted to clocks
        async with house.connect(running.address, bearer(token)) as peer:
            await peer.call.initial_metadata()
            ended = time.monotonic() + 1
            await wait_until(lambda: time.monotonic() > ended)
            assert await verdict(peer) is UNAUTHENTICATED


async def test_nobody_without_a_proof_holds_a_stream_of_the_main_port(house: House) -> None:
    async with (
        serving(house, house.settings(tokens=True)) as running,
        house.connect(running.address, method="/grpc.health.v1.Health/Watch") as peer,
    ):
        assert await peer.call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metrics_tell_when_the_certificate_in_force_ends_also_after_an_exchange(house: House) -> None:
    def told(running: Running) -> str:
        text = metrics_page(running.parts.administration.observed)().body.decode()
        return next((line for line in text.splitlines() if line.startswith(f"{END}{{")), "")

    async with serving(house, house.settings()) as running:
        before = told(running)
        issued = house.authority.issue("control-plane.example", lifetime=30 * DAY)
        (house.directory / "tls.crt").write_text(issued.certificate)
        (house.directory / "tls.key").write_text(issued.key)
        await wait_until(lambda: told(running) != before)

        assert before.startswith(f'{END}{{use="streams"}}')
        assert float(told(running).split()[1]) < float(before.split()[1])
