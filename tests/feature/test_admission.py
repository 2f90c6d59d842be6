"""The webhook over real HTTPS: what the API server gets for its questions, in time, and with which certificate."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from tests.support.api_server import ApiServerEmulation
from tests.support.certificates import Authority
from tests.support.cluster import CLUSTER_SETTINGS, HOME, following, namespace, policy
from xds.admission.certificate import ServerCertificate
from xds.admission.policies import UNDECIDED_POLICY, PolicyReviewer, judge_documents
from xds.admission.review import Review, Verdict
from xds.admission.server import MAX_BYTES, VALIDATE_POLICY, AdmissionServer, Desk
from xds.errors import ListenError, SettingsError
from xds.facts import FileContent, FileProblem
from xds.flags import HostPort
from xds.policy.parse import Document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from xds.admission.review import Reviewer
    from xds.facts import File

RECORDED = Path(__file__).resolve().parents[1] / "data" / "kubernetes-1.36"
SERVICE = "egress-xds.egress-system.svc"
ANYWHERE = HostPort(host="127.0.0.1", port=0)
CERTIFICATE, KEY = Path("tls.crt"), Path("tls.key")
GOOD = "httpProxy: http://proxy.corp.example:3128\nhttpsProxy: http://proxy.corp.example:3128\n"


@pytest.fixture(scope="module", autouse=True)
def what_judging_loads() -> None:
    """A server has judged policies before it is asked; the first time takes seconds."""
    judge_documents((Document(source="warm.yaml", text=GOOD),), {}, now=0)


def question(name: str, text: str | None = None) -> dict[str, Any]:
    """Return a recorded question, with `text` as the policy."""
    body = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["body"]
    assert isinstance(body, dict)
    if text is not None:
        body["request"]["object"]["data"] = {"policy.yaml": text}
    return body


def files(authority: Authority, *names: str) -> Mapping[str, File]:
    """Return what the certificate's files hold."""
    issued = authority.issue(*(names or (SERVICE,)))
    return {str(CERTIFICATE): FileContent(issued.certificate), str(KEY): FileContent(issued.key)}


@dataclass
class Webhook:
    """A running server, and a client that believes its authority."""

    certificate: ServerCertificate
    authority: Authority
    port: int

    def context(self, authority: Authority | None = None) -> ssl.SSLContext:
        """Return what a client that believes `authority` connects with."""
        return ssl.create_default_context(cadata=(authority or self.authority).certificate)

    @asynccontextmanager
    async def connect(self, authority: Authority | None = None) -> AsyncIterator[aiohttp.ClientSession]:
        """Return a client that connects as the API server does: to the Service's name."""
        context = self.context(authority)
        connector = aiohttp.TCPConnector(ssl=context)
        base = f"https://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession(base, connector=connector) as session:
            yield session

    async def ask(self, body: object, *, path: str = f"{VALIDATE_POLICY}?timeout=10s") -> dict[str, Any]:
        """Ask once and return the `response` of the answer."""
        async with self.connect() as session, session.post(path, json=body, server_hostname=SERVICE) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "application/json"
            found = await answer.json()
            assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
            response = found["response"]
            assert isinstance(response, dict)
            return response

    async def send(self, body: bytes, *, path: str = VALIDATE_POLICY) -> tuple[int, str]:
        """Send bytes and return what comes back."""
        async with self.connect() as session, session.post(path, data=BytesIO(body), server_hostname=SERVICE) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def running(reviewer: Reviewer | None = None, desks: Mapping[str, Desk] | None = None) -> AsyncIterator[Webhook]:
    """Run the server with a certificate of an authority of its own; it reviews policies unless told otherwise."""
    authority = Authority()
    certificate = ServerCertificate(CERTIFICATE, KEY)
    certificate.load(files(authority))
    decides = reviewer or PolicyReviewer(home="egress-system", documents=lambda: (), clock=time.time)
    policies = {VALIDATE_POLICY: Desk(reviewer=decides, undecided=UNDECIDED_POLICY)}
    server = AdmissionServer(desks or policies, certificate)
    port = await server.start(ANYWHERE)
    try:
        yield Webhook(certificate, authority, port)
    finally:
        await server.stop()


async def test_a_good_policy_is_allowed_and_a_bad_one_refused_with_its_line() -> None:
    async with running() as webhook:
        good = await webhook.ask(question("admission-configmap-create", GOOD))
        bad = await webhook.ask(question("admission-configmap-update"))

    assert good == {"uid": question("admission-configmap-create")["request"]["uid"], "allowed": True}
    assert bad["uid"] == question("admission-configmap-update")["request"]["uid"]
    assert bad["allowed"] is False
    assert (bad["status"]["code"], bad["status"]["reason"]) == (422, "Invalid")
    assert "policy.yaml:1 noProxy[0]: error[" in bad["status"]["message"]


async def test_a_name_that_is_taken_is_refused_by_what_the_cluster_holds_now() -> None:
    held: list[Document] = []
    reviewer = PolicyReviewer(home="egress-system", documents=lambda: tuple(held), clock=time.time)
    async with running(reviewer) as webhook:
        before = await webhook.ask(question("admission-configmap-create", GOOD))
        named = f"{GOOD}name: taken\n"
        held.append(Document(source="configmap/egress-system/third/a.yaml", text=named, secrets="egress-system"))
        after = await webhook.ask(question("admission-configmap-create", named))

    assert before["allowed"] is True
    assert after["allowed"] is False


async def test_what_is_asked_about_is_not_logged() -> None:
    with capture_logs() as logs:
        async with running() as webhook:
            await webhook.ask(question("admission-configmap-update"))

    refused = [entry for entry in logs if entry["event"] == "review: refused"]
    assert [(entry["namespace"], entry["name"]) for entry in refused] == [("egress-system", "corp2")]
    assert "10.0.0.0/99" not in str(logs)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"\xff"], ids=["nothing", "half", "list", "empty", "bytes"])
async def test_what_is_no_review_is_a_bad_request_with_a_reason(body: bytes) -> None:
    async with running() as webhook:
        status, text = await webhook.send(body)

    assert status == 400
    assert text.startswith("the body ")


async def test_a_review_that_makes_no_sense_is_a_bad_request_too() -> None:
    body = question("admission-configmap-create")
    body["request"]["object"] = None
    async with running() as webhook:
        assert await webhook.send(json.dumps(body).encode()) == (400, "request.object is missing\n")


async def test_a_body_beyond_all_bounds_is_refused_and_the_largest_that_there_is_not() -> None:
    async with running() as webhook:
        status, _ = await webhook.send(b" " * (MAX_BYTES + 1))
        answer = await webhook.ask(question("admission-configmap-create", f"{GOOD}# {'x' * 1_000_000}\n"))

    assert status == 413
    assert answer["allowed"] is True


async def test_other_paths_and_methods_are_refused_and_health_is_told() -> None:
    async with running() as webhook, webhook.connect() as session:
        async with session.get("/healthz", server_hostname=SERVICE) as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get(VALIDATE_POLICY, server_hostname=SERVICE) as answer:
            assert answer.status == 405
        async with session.post("/mutate-pod", data=b"", server_hostname=SERVICE) as answer:
            assert answer.status == 404


def slow(stop: Event) -> Reviewer:
    """Return a reviewer that takes as long as a very large policy."""

    def review(_: Review) -> Callable[[], Verdict]:
        def decide() -> Verdict:
            stop.wait(30)
            return Verdict("too late")

        return decide

    return review


async def test_a_decision_that_takes_too_long_is_to_allow_in_time_and_with_a_warning() -> None:
    stop = Event()
    with capture_logs() as logs:
        async with running(slow(stop)) as webhook:
            began = time.monotonic()
            answer = await webhook.ask(question("admission-configmap-create"), path=f"{VALIDATE_POLICY}?timeout=1s")
            took = time.monotonic() - began
            stop.set()

    assert answer["allowed"] is True
    assert "did not judge it in time" in answer["warnings"][0]
    assert len(answer["warnings"][0]) <= 256
    assert 0.5 < took < 5
    assert any(entry["event"] == "review: allowed, for it took too long" for entry in logs)


async def test_slow_decisions_hold_up_no_others_beyond_their_time_nor_the_loop() -> None:
    """More questions than are ever waited for: those beyond are answered at once."""
    stop = Event()
    async with running(slow(stop)) as webhook:
        path = f"{VALIDATE_POLICY}?timeout=2s"
        asked = [asyncio.create_task(webhook.ask(question("admission-configmap-create"), path=path)) for _ in range(40)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        still_waiting = len(asked) - len(done)
        async with webhook.connect() as session, session.get("/healthz", server_hostname=SERVICE) as health:
            assert health.status == 200
        answers = await asyncio.gather(*asked)
        stop.set()

    assert still_waiting >= 2
    assert all(answer["allowed"] and answer["warnings"] for answer in answers)


async def test_a_new_certificate_is_shown_to_new_connections_and_open_ones_go_on() -> None:
    async with running() as webhook, webhook.connect() as old:
        async with old.get("/healthz", server_hostname=SERVICE) as answer:
            assert answer.status == 200
        renewed = Authority("another")
        webhook.certificate.reload(files(renewed))

        async with webhook.connect(renewed) as new, new.get("/healthz", server_hostname=SERVICE) as answer:
            assert answer.status == 200
        async with old.get("/healthz", server_hostname=SERVICE) as answer:
            assert answer.status == 200
        async with webhook.connect() as late:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await late.get("/healthz", server_hostname=SERVICE)


def broken(kind: str, authority: Authority) -> Mapping[str, File]:
    """Return files that can't be used."""
    good, other = files(authority), files(Authority("other"))
    kinds: dict[str, Mapping[str, File]] = {
        "the key of another": {**good, str(KEY): other[str(KEY)]},
        "no PEM": {**good, str(CERTIFICATE): FileContent("text")},
        "nothing": {str(CERTIFICATE): FileContent(""), str(KEY): FileContent("")},
        "a file that is gone": {**good, str(KEY): FileProblem("it does not exist", "put it there")},
    }
    return kinds[kind]


KINDS = ["the key of another", "no PEM", "nothing", "a file that is gone"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_that_cannot_be_used_leaves_the_one_before(kind: str) -> None:
    async with running() as webhook:
        with capture_logs() as logs:
            webhook.certificate.reload(broken(kind, webhook.authority))

        assert [entry["log_level"] for entry in logs] == ["error"]
        assert "PRIVATE KEY" not in str(logs)
        assert (await webhook.ask(question("admission-configmap-create", GOOD)))["allowed"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_that_cannot_be_used_ends_the_start(kind: str) -> None:
    with pytest.raises(SettingsError, match="--tls-") as caught:
        ServerCertificate(CERTIFICATE, KEY).load(broken(kind, Authority()))

    assert "PRIVATE KEY" not in str(caught.value)


def test_files_that_did_not_change_are_not_taken_anew() -> None:
    certificate, found = ServerCertificate(CERTIFICATE, KEY), files(Authority())
    assert certificate.files == frozenset(found)
    certificate.load(found)

    with capture_logs() as logs:
        certificate.reload(found)

    assert logs == []


async def test_tls_is_spoken_from_1_2_on() -> None:
    async with running() as webhook:
        context = webhook.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection("127.0.0.1", webhook.port, ssl=context, server_hostname=SERVICE)
        writer.close()
        await writer.wait_closed()

        with pytest.warns(DeprecationWarning, match="deprecated"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("127.0.0.1", webhook.port, ssl=context, server_hostname=SERVICE)


async def test_a_port_that_is_taken_is_told() -> None:
    async with running() as webhook:
        certificate = ServerCertificate(CERTIFICATE, KEY)
        certificate.load(files(webhook.authority))
        second = AdmissionServer({}, certificate)

        with pytest.raises(ListenError, match="choose another --admission-listen"):
            await second.start(HostPort(host="127.0.0.1", port=webhook.port))
        await second.stop()


async def test_a_server_that_stops_closes_its_connections() -> None:
    async with running() as webhook:
        context = webhook.context()
        reader, writer = await asyncio.open_connection("127.0.0.1", webhook.port, ssl=context, server_hostname=SERVICE)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"ok\n")

    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


async def test_a_bug_in_a_reviewer_costs_its_own_question_only() -> None:
    def stumble(_: Review) -> Callable[[], Verdict]:
        def decide() -> Verdict:
            raise KeyError("policy")

        return decide

    async with running(stumble) as webhook:
        status, text = await webhook.send(json.dumps(question("admission-configmap-create")).encode())
        async with webhook.connect() as session, session.get("/healthz", server_hostname=SERVICE) as answer:
            assert answer.status == 200

    assert status == 500
    assert "KeyError" not in text


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it() -> None:
    found = files(Authority())
    plain = found[str(KEY)]
    assert isinstance(plain, FileContent)
    key = load_pem_private_key(plain.text.encode(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")).decode()

    with pytest.raises(SettingsError, match="without a passphrase"):
        ServerCertificate(CERTIFICATE, KEY).load({**found, str(KEY): FileContent(locked)})


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with running() as webhook:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", webhook.port, ssl=webhook.context(), server_hostname=SERVICE
        )
        head = f"POST {VALIDATE_POLICY}?timeout=1s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{"
        writer.write(head.encode())

        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()


def free_port() -> int:
    """Return a port that nobody has taken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_certificate(directory: Path, authority: Authority) -> None:
    """Put a certificate and its key where the control plane looks for them."""
    for path, found in files(authority).items():
        assert isinstance(found, FileContent)
        (directory / path).write_text(found.text, encoding="utf-8")


async def test_a_control_plane_in_a_cluster_reviews_beside_what_is_there_and_follows_its_certificate(
    tmp_path: Path,
) -> None:
    authority, renewed, port = Authority(), Authority("another"), free_port()
    write_certificate(tmp_path, authority)
    settings = replace(
        CLUSTER_SETTINGS,
        admission_listen=HostPort(host="127.0.0.1", port=port),
        tls_certificate=tmp_path / CERTIFICATE,
        tls_key=tmp_path / KEY,
    )
    named = f"{GOOD}name: corp\n"
    async with ApiServerEmulation() as api:
        api.put(namespace(HOME))
        api.put(policy(HOME, "first", named))
        async with following(api, tmp_path, settings):
            certificate = ServerCertificate(CERTIFICATE, KEY)
            webhook = Webhook(certificate, authority, port)
            taken = await webhook.ask(question("admission-configmap-create", named))
            free = await webhook.ask(question("admission-configmap-create", named.replace("corp\n", "other\n")))
            write_certificate(tmp_path, renewed)
            async with asyncio.timeout(20):
                while not await is_believed(webhook, renewed):  # noqa: ASYNC110  # another connection is the only sign
                    await asyncio.sleep(0.05)

    assert taken["allowed"] is False
    assert "configmap/egress-system/first/policy.yaml" in taken["status"]["message"]
    assert free["allowed"] is True


async def is_believed(webhook: Webhook, authority: Authority) -> bool:
    """Whether the server shows a certificate of `authority` to new connections."""
    async with webhook.connect(authority) as session:
        try:
            async with session.get("/healthz", server_hostname=SERVICE) as answer:
                return answer.status == 200
        except aiohttp.ClientConnectorCertificateError:
            return False
