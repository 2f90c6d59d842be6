"""Credentials, answers and refusals of the API server, on loopback; recorded answers byte for byte where there are."""

from __future__ import annotations

import asyncio
import json
import ssl
import stat
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.aio.config import incluster_config
from structlog.testing import capture_logs

from tests.support.api_server import ApiServerEmulation, render_kubeconfig
from tests.support.certificates import Authority
from tests.support.following import IMPATIENT, connected, connection, following, pod
from xds.errors import SettingsError
from xds.kubernetes.connection import MALFORMED, SILENT, UNREACHABLE, ApiError, connect
from xds.kubernetes.reflector import Collection

if TYPE_CHECKING:
    from kmock import RawHandler

DATA = Path(__file__).parents[1] / "data" / "kubernetes-1.36"
CANARY = "canary-4d1f"


def recording(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return found


def recorded_bytes(name: str) -> bytes:
    """Return the body as it travelled; of a watch, one event per line."""
    found = recording(name)
    if "events" in found:
        return b"".join(json.dumps(event).encode() + b"\n" for event in found["events"])
    return json.dumps(found["body"]).encode()


def kubeconfig(directory: Path, text: str) -> Path:
    path = directory / "kubeconfig"
    path.write_text(text, encoding="utf-8")
    return path


# --- recorded answers


@pytest.mark.parametrize(
    ("name", "reason", "retry_after", "causes"),
    [
        ("unauthorized-401", "Unauthorized", None, ()),
        ("forbidden-403", "Forbidden", None, ()),
        ("not-found-404", "NotFound", None, ()),
        ("conflict-409", "Conflict", None, ()),
        ("pods-list-expired-continue", "BadRequest", None, ()),
        ("list-future-resource-version", "Timeout", 1.0, ("ResourceVersionTooLarge",)),
    ],
)
async def test_a_recorded_refusal_is_told_in_the_servers_words(
    kmock: RawHandler, tmp_path: Path, name: str, reason: str, retry_after: float | None, causes: tuple[str, ...]
) -> None:
    recorded = recording(name)
    headers = {
        header: recorded["headers"][header]
        for header in ("Content-Type", "Retry-After")
        if header in recorded["headers"]
    }
    kmock["/"] << recorded["status"] << headers << recorded_bytes(name)
    async with connection(kubeconfig(tmp_path, render_kubeconfig(str(kmock.url)))) as api:
        with pytest.raises(ApiError) as caught:
            await api.request("GET", "/")
    error = caught.value
    assert (error.status, error.reason) == (recorded["status"], reason)
    assert error.message == recorded["body"]["message"]
    assert (error.retry_after, error.causes) == (retry_after, causes)


async def test_recorded_pages_and_events_become_what_they_tell(kmock: RawHandler, tmp_path: Path) -> None:
    pages = [recording("pods-list-page-1"), recording("pods-list-page-2")]
    del pages[1]["body"]["metadata"]["continue"]
    bodies = {page["request"]["path"].partition("continue=")[2]: json.dumps(page["body"]).encode() for page in pages}
    path = "/api/v1/namespaces/payments/pods"
    watches: list[bytes] = [recorded_bytes("pods-watch")]
    kmock["list pods"] << (lambda request: bodies[request.params.get("continue", "")])
    kmock["watch pods"] << (lambda _: watches.pop(0) if watches else b"")
    api = await connect(kubeconfig(tmp_path, render_kubeconfig(str(kmock.url))))

    def phase(item: Any) -> str:  # noqa: ANN401  # any JSON
        return str(item["status"]["phase"])

    async with following(api, Collection(path), phase, IMPATIENT) as seen:
        await seen.until(lambda: seen.reflector.watches >= 2)
        assert seen.told[1:] == [
            {("payments", "late"): "Pending"},
            {("payments", "checkout-1"): "Running"},
            {("payments", "late"): None},
        ]
        assert seen.names == dict.fromkeys(["checkout-0", "checkout-1"], "Running") | {
            f"checkout-{number}": "Pending" for number in (2, 3, 4, 5)
        }
        assert seen.reflector.lists == 1
    await api.close()
    asked = [request.params.get("resourceVersion") for request in kmock if request.params.get("watch")]
    assert asked[:2] == ["284", "289"], "the second watch goes on from the bookmark"


async def test_a_recorded_410_leads_to_a_list(kmock: RawHandler, tmp_path: Path) -> None:
    page = recording("pods-list-page-1")
    del page["body"]["metadata"]["continue"]
    kmock["list pods"] << json.dumps(page["body"]).encode()
    kmock["watch pods"] << recorded_bytes("pods-watch-410")
    api = await connect(kubeconfig(tmp_path, render_kubeconfig(str(kmock.url))))
    with capture_logs() as logs:
        async with following(api, Collection("/api/v1/namespaces/payments/pods")) as seen:
            await seen.until(lambda: seen.reflector.lists >= 3)
            assert len(seen.told) == 1
    await api.close()
    assert logs == []


# --- answers


async def test_a_change_travels_there_and_back(tmp_path: Path) -> None:
    recorded = recording("configmap-status-annotation")["request"]
    path = recorded["path"].partition("?")[0]
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        await api.request("POST", path.rpartition("/")[0], body=recording("configmap-created")["request"]["body"])
        applied = await api.request(
            "PATCH",
            path,
            query={"fieldManager": "egress-xds-status", "force": "true"},
            body=recorded["body"],
            content_type="application/apply-patch+yaml",
        )
        assert applied["metadata"]["annotations"] == {"egress-xds/status": "accepted"}  # type: ignore[index]  # any JSON
        await api.request("DELETE", path)
        with pytest.raises(ApiError, match='configmaps "corp" not found'):
            await api.request("GET", path)


async def test_names_and_selectors_arrive_as_they_were_meant(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        await api.request("GET", "/api/v1/configmaps", query={"labelSelector": "egress-xds/policy=true,a!=b c+d"})
        assert server.requests[-1].query == {"labelSelector": "egress-xds/policy=true,a!=b c+d"}


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"a":', b"\xff"], ids=["a page", "a list", "a part", "no text"])
async def test_an_answer_that_is_no_object_is_malformed_and_not_quoted(
    kmock: RawHandler, tmp_path: Path, body: bytes
) -> None:
    kmock["get /api/v1/pods"] << body
    async with connection(kubeconfig(tmp_path, render_kubeconfig(str(kmock.url)))) as api:
        with pytest.raises(ApiError) as caught:
            await api.request("GET", "/api/v1/pods")
    assert caught.value.reason == MALFORMED
    assert "html" not in caught.value.message


async def test_what_stands_between_us_and_the_server_may_refuse_in_its_own_words(
    kmock: RawHandler, tmp_path: Path
) -> None:
    kmock["get /api/v1/pods"] << 503 << {"Retry-After": "7", "Content-Type": "text/html"} << b"<html>no backend</html>"
    async with connection(kubeconfig(tmp_path, render_kubeconfig(str(kmock.url)))) as api:
        with pytest.raises(ApiError) as caught:
            await api.request("GET", "/api/v1/pods")
    assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (503, "", 7.0)
    assert caught.value.message == "The API server answers with status 503."


async def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        await server.go_away()
        with pytest.raises(ApiError) as caught:
            await api.request("GET", "/version")
    assert (caught.value.status, caught.value.reason) == (None, UNREACHABLE)
    assert str(server.port) in caught.value.message


async def test_a_request_ends_after_its_time(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.faults.silent = True
        with pytest.raises(ApiError) as caught:
            await api.request("GET", "/version", timeout=0.1)
    assert (caught.value.status, caught.value.reason) == (None, UNREACHABLE)


async def test_a_silent_watch_ends(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        server.faults.silent_watches = True
        opened: list[bool] = []
        stream = api.watch("/api/v1/pods", {}, silence=0.1, opened=lambda: opened.append(True))
        with pytest.raises(ApiError) as caught:
            async with aclosing(stream) as events:
                await anext(events)
    assert (caught.value.reason, opened) == (SILENT, [True])


async def test_an_event_of_many_megabytes_arrives(tmp_path: Path) -> None:
    async with ApiServerEmulation() as server, connected(server, tmp_path) as api:
        big = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "big"}, "data": {"a": "x" * 5_000_000}}
        server.put(big)
        async with aclosing(api.watch("/api/v1/configmaps", {}, silence=5)) as events:
            event = await anext(events)
    assert len(event["object"]["data"]["a"]) == 5_000_000  # type: ignore[index]  # any JSON


# --- credentials


class Pod:
    """The files that a pod has, and a server whose certificate they prove."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        authority = Authority()
        issued = authority.issue("localhost")
        (directory / "server.pem").write_text(issued.certificate + issued.key, encoding="utf-8")
        (directory / "ca.crt").write_text(authority.certificate, encoding="utf-8")
        (directory / "namespace").write_text("egress-system\n", encoding="utf-8")
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(directory / "server.pem")
        self.directory = directory
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(directory / "token"))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(directory / "ca.crt"))
        self._environment = monkeypatch

    def write_token(self, token: str) -> None:
        (self.directory / "token").write_text(token, encoding="utf-8")

    def announce(self, server: ApiServerEmulation) -> None:
        self._environment.setenv("KUBERNETES_SERVICE_HOST", "localhost")
        self._environment.setenv("KUBERNETES_SERVICE_PORT", str(server.port))


async def test_in_a_cluster_a_rotated_token_is_read_as_soon_as_the_old_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Pod(tmp_path, monkeypatch)
    home.write_token("first\n")
    async with ApiServerEmulation(tls=home.tls) as server:
        server.faults.tokens = {"first"}
        home.announce(server)
        api = await connect(None)
        assert (api.namespace, api.host, api.port) == ("egress-system", "localhost", server.port)
        await api.request("GET", "/api/v1/pods")
        home.write_token("second")
        server.faults.tokens = {"second"}
        await asyncio.gather(*(api.request("GET", "/api/v1/pods") for _ in range(3)))
        asked = [request.headers["Authorization"] for request in server.requests]
        assert asked.count("bearer first") == 1 + 3
        assert asked.count("bearer second") == 3
        home.write_token("third")
        server.faults.tokens = {"third"}
        async with aclosing(api.watch("/api/v1/pods", {}, silence=5)) as events:
            server.put(pod("a"))
            assert (await anext(events))["type"] == "ADDED"
        await api.close()


async def test_a_token_that_stays_refused_is_told_after_one_more_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Pod(tmp_path, monkeypatch)
    home.write_token(CANARY)
    async with ApiServerEmulation(tls=home.tls) as server:
        server.faults.tokens = {"another"}
        home.announce(server)
        api = await connect(None)
        with pytest.raises(ApiError) as caught:
            await api.request("GET", "/api/v1/pods")
        (tmp_path / "token").unlink()
        with pytest.raises(ApiError) as without:
            await api.request("GET", "/api/v1/pods")
        await api.close()
        assert (caught.value.status, server.count("list")) == (401, 3)
    for text in (str(caught.value), repr(caught.value), str(without.value), repr(api), repr(vars(api))):
        assert CANARY not in text
    assert "automountServiceAccountToken" in str(without.value)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_the_environments_proxy_is_not_for_the_api_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home = Pod(tmp_path, monkeypatch)
    home.write_token("t")
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with ApiServerEmulation(tls=home.tls) as server:
        home.announce(server)
        api = await connect(None)
        await api.request("GET", "/version")
        await api.close()


async def test_a_kubeconfigs_proxy_is_used_and_its_login_is_not_told(tmp_path: Path) -> None:
    given = json.loads(render_kubeconfig("http://api.example:6443"))
    given["clusters"][0]["cluster"]["proxy-url"] = f"http://alice:{CANARY}@127.0.0.1:9"
    api = await connect(kubeconfig(tmp_path, json.dumps(given)))
    with pytest.raises(ApiError) as caught:
        await api.request("GET", "/version")
    await api.close()
    assert "127.0.0.1:9" in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        pytest.param("environment", "Service host/port is not set.", id="nothing says where the server is"),
        pytest.param("token", "Service token file does not exist.", id="no token"),
        pytest.param("ca.crt", "Service certification file does not exist.", id="no authority"),
        pytest.param("namespace", "which names the pod's namespace, can't be read", id="no namespace"),
    ],
)
async def test_outside_a_cluster_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    home = Pod(tmp_path, monkeypatch)
    home.write_token(CANARY)
    async with ApiServerEmulation() as server:
        if missing == "environment":
            monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        else:
            home.announce(server)
            (tmp_path / missing).unlink()
    with pytest.raises(SettingsError) as caught:
        await connect(None)
    assert message in str(caught.value)
    assert CANARY not in str(caught.value)


async def test_a_kubeconfigs_context_decides_over_server_and_namespace(tmp_path: Path) -> None:
    given = json.loads(render_kubeconfig("http://one.example:1", namespace="ns-one"))
    given["clusters"].append({"name": "two", "cluster": {"server": "https://[2001:db8::2]"}})
    given["contexts"].append({"name": "two", "context": {"cluster": "two", "user": "tester"}})
    file = kubeconfig(tmp_path, json.dumps(given))
    one, two = await connect(file), await connect(file, "two")
    assert (one.host, one.port, one.namespace) == ("one.example", 1, "ns-one")
    assert (two.host, two.port, two.namespace) == ("2001:db8::2", 443, "default")
    await one.close()
    await two.close()


async def test_of_several_kubeconfigs_the_first_that_says_something_decides(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        given = json.loads(render_kubeconfig(f"http://{name}.example:1", namespace=f"ns-{name}"))
        given["contexts"][0]["name"] = given["current-context"] = name
        given["clusters"][0]["name"] = given["contexts"][0]["context"]["cluster"] = name
        files.append(tmp_path / name)
        files[-1].write_text(json.dumps(given), encoding="utf-8")
    absent = tmp_path / "absent"
    one, two = await connect((absent, *files)), await connect((*files, absent), "two")
    assert (one.host, one.namespace) == ("one.example", "ns-one")
    assert (two.host, two.namespace) == ("two.example", "ns-two")
    await one.close()
    await two.close()


def _broken(change: str) -> str:
    given = json.loads(render_kubeconfig("https://api.example", token=CANARY))
    match change:
        case "no current context":
            del given["current-context"]
        case "no cluster":
            given["clusters"] = []
        case "no authority":
            given["clusters"][0]["cluster"]["certificate-authority"] = "missing.crt"
        case "no base64":
            given["clusters"][0]["cluster"]["certificate-authority-data"] = CANARY + "!"
        case "users of another shape":
            given["users"] = [{"user": {"token": CANARY}}]
        case "contexts of another shape":
            given["contexts"] = {"a": CANARY}
        case "no YAML":
            return f"a: [\n{CANARY}: }}\n"
        case "a text":
            return CANARY
        case _:
            raise AssertionError(change)
    return json.dumps(given)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("no current context", "it has no key current-context"),
        ("no cluster", "it has no object with name emulation"),
        ("no authority", "there is no file "),
        ("no base64", "it is not of the expected shape"),
        ("users of another shape", "it is not of the expected shape"),
        ("contexts of another shape", "it is not of the expected shape"),
        ("no YAML", "line 2 is no YAML"),
        ("a text", "it is not of the expected shape"),
    ],
)
async def test_a_kubeconfig_that_is_no_use_is_named_and_never_quoted(
    tmp_path: Path, change: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = kubeconfig(tmp_path, _broken(change))
    with pytest.raises(SettingsError) as caught:
        await connect(file)
    assert f"The kubeconfig {file} can't be used: {reason}" in str(caught.value)
    assert CANARY not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None


async def test_an_unknown_context_and_a_missing_file_are_named(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, render_kubeconfig("http://a.example"))
    with pytest.raises(SettingsError, match=r"no object with name other.*context 'other'.*get-contexts"):
        await connect(file, "other")
    with pytest.raises(SettingsError, match=r"There is no kubeconfig .*nowhere"):
        await connect(tmp_path / "nowhere")


def _with_plugin(directory: Path, url: str, script: str) -> Path:
    plugin = directory / "plugin"
    plugin.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    given = json.loads(render_kubeconfig(url))
    given["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    return kubeconfig(directory, json.dumps(given))


async def test_a_plugin_is_asked_again_when_its_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "now").write_text("one", encoding="utf-8")
    answer = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}'
    async with ApiServerEmulation() as server:
        server.faults.tokens = {"one"}
        file = _with_plugin(tmp_path, server.url, f"printf '{answer}' \"$(cat {tmp_path}/now)\"")
        api = await connect(file)
        await api.request("GET", "/api/v1/pods")
        (tmp_path / "now").write_text("two", encoding="utf-8")
        server.faults.tokens = {"two"}
        await api.request("GET", "/api/v1/pods")
        await api.close()
        assert [request.headers["Authorization"] for request in server.requests] == [
            "Bearer one",
            "Bearer one",
            "Bearer two",
        ]


async def test_a_plugin_that_fails_is_told_without_its_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = _with_plugin(tmp_path, "http://127.0.0.1:9", f"echo {CANARY} >&2; exit 1")
    with pytest.raises(SettingsError, match=r"plugin .*which gave none; see what .*kubectl"):
        await connect(file)
    assert CANARY not in caplog.text


def test_no_message_holds_a_token_or_a_login() -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
    error = ApiError(
        400, "BadRequest", f"bad token {token}, Bearer abc.def at http://alice:{CANARY}@proxy:1 {'x' * 900}"
    )
    for secret in (token, "c2lnbmF0dXJl", "abc.def", CANARY):
        assert secret not in f"{error} {error!r} {error.message}"
    assert len(error.message) <= 501
