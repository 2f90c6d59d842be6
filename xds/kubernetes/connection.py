"""
The API server, as one object that asks it: requests answered with decoded JSON, and watches as streams of events.

Where credentials come from, and how they are renewed, is the business of the package `kubernetes`; what is answered
is decoded here, by the standard library: the package's models would cost several times the memory and the time.
Nothing here tries again, but for credentials that were refused: they are read anew, and the request is made once more.

Invariant: no error's text, no log line and no `repr` holds a token, a key or the body of an object. Texts of
the package are not passed on, for those about a kubeconfig quote parts of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import yarl
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import incluster_config, kube_config

from xds.errors import REDACTED, SettingsError, quote_value, redact_logins

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping

METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
"""What to accept in a list of which only the metadata matters; a watch of it accepts `METADATA_EVENTS`."""

METADATA_EVENTS = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

MALFORMED = "Malformed"
"""The `reason` of an answer that is no JSON, or not the JSON that was asked for."""

SILENT = "Silent"
"""The `reason` of a server that takes a connection and says nothing for too long."""

UNREACHABLE = "Unreachable"
"""The `reason` of a connection that can't be made, or breaks."""

_CONNECT_TIMEOUT = 10.0
_ANSWER_TIMEOUT = 30.0
_LONGEST_EVENT = 16 * 2**20  # etcd takes objects of 1.5 MiB; JSON and managed fields come on top
_LONGEST_MESSAGE = 500
_LONGEST_WAIT = 86_400
_BUFFER = 2**16
_UNAUTHORIZED = 401
_OK = 200
_ERRORS = 300
_TOKEN = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(\.[\w-]*)?|(?i:bearer)\s+\S+")
_TELLABLE = re.compile(r"Invalid kube-config file\. Expected (key [\w-]+|object with name \S+) in ")


class ApiError(Exception):
    """
    A request that the API server refused, or did not answer.

    `status` is the HTTP status, None if there was no answer. `reason` is the one word of the server's Status object
    (`NotFound`, `Conflict`, `Expired`, …) or one of this module's. `message` is for people and fit for a log.
    `retry_after` is the number of seconds that the server asks us to wait.
    """

    def __init__(
        self,
        status: int | None,
        reason: str,
        message: str,
        retry_after: float | None = None,
        causes: tuple[str, ...] = (),
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = _tellable(message)
        self.retry_after = retry_after
        self.causes = causes
        """The reasons among the Status object's details, as `ResourceVersionTooLarge`."""
        super().__init__(self.message)

    @classmethod
    def from_status(cls, status: Mapping[str, object], code: int, retry_after: float | None = None) -> ApiError:
        """Read a Status object: the body of a refused request, or the object of a watch's ERROR event."""
        details = status.get("details")
        details = details if isinstance(details, dict) else {}
        causes = details.get("causes")
        reasons = (
            [cause.get("reason") for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []
        )
        seconds = details.get("retryAfterSeconds")
        if retry_after is None and isinstance(seconds, int) and 0 <= seconds < _LONGEST_WAIT:
            retry_after = float(seconds)
        reason, message = status.get("reason"), status.get("message")
        return cls(
            code,
            reason if isinstance(reason, str) else "",
            message if isinstance(message, str) and message else f"The API server answers with status {code}.",
            retry_after,
            tuple(reason for reason in reasons if isinstance(reason, str)),
        )


class ApiServer:
    """
    The API server with the credentials of one identity; made by `connect`.

    `namespace` is that of the credentials: the pod's own, or the kubeconfig context's. `host` is the server's name or
    address without brackets, `port` its port, `url` all of it.
    """

    def __init__(
        self, configuration: Configuration, namespace: str, renew: Callable[[Configuration], Awaitable[None]]
    ) -> None:
        # The environment's proxy is for the applications' egress, so only a kubeconfig's `proxy-url` counts. Each
        # watch keeps a connection, so their number is not limited.
        configuration.client_session_kwargs = {"trust_env": False, "read_bufsize": _BUFFER}
        configuration.connection_pool_maxsize = 0
        address = urlsplit(configuration.host)
        self.namespace = namespace
        self.url: str = configuration.host
        self.host = address.hostname or ""
        self.port = address.port or (443 if address.scheme == "https" else 80)
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._renew = renew
        self._renewing = asyncio.Lock()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 10.0,  # noqa: ASYNC109 - of one request, part of what is asked for
    ) -> dict[str, object]:
        """
        Ask once and return the decoded answer. `timeout` is in seconds, for the whole of it.

        A `content_type` of a patch decides its kind: `application/apply-patch+yaml` takes the JSON of `body` too.
        Raises ApiError.
        """
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, _CONNECT_TIMEOUT))
        headers = {"Accept": accept, "Content-Type": content_type}
        with _translated(UNREACHABLE, timeout):
            async with self._answer(method, path, query or {}, headers, limits, body) as answer:
                return _decode(await answer.read())

    async def watch(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        silence: float,
        accept: str = "application/json",
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[dict[str, object]]:
        """
        Yield the events of a watch, decoded, until the server ends it; ERROR events are yielded as they came.

        `opened` is called once the server took the watch. A server that then sends no byte for `silence` seconds
        counts as gone (`SILENT`). Raises ApiError, also for a line that is no JSON and for a stream that ends
        within a line.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=min(silence, _CONNECT_TIMEOUT), sock_read=silence)
        with _translated(SILENT, silence):
            async with self._answer("GET", path, {**query, "watch": "true"}, {"Accept": accept}, limits) as answer:
                if opened is not None:
                    opened()
                async for line in _lines(answer.content):
                    yield _decode(line)

    async def open_socket(self, path: str, query: Mapping[str, str], protocol: str) -> aiohttp.ClientWebSocketResponse:
        """Open a web socket that speaks `protocol`; whoever opens it closes it. Raises ApiError."""
        url = yarl.URL(f"{self.url}{quote(path)}?{urlencode(query)}", encoded=True)
        with _translated(UNREACHABLE, _ANSWER_TIMEOUT):
            authorization = await self._authorization()
            try:
                return await self._upgrade(url, protocol, authorization)
            except aiohttp.WSServerHandshakeError as error:
                if error.status != _UNAUTHORIZED:
                    raise _no_socket(error) from error
            await self._renew_once(authorization)
            try:
                return await self._upgrade(url, protocol, await self._authorization())
            except aiohttp.WSServerHandshakeError as error:
                raise _no_socket(error) from error

    async def _upgrade(
        self, url: yarl.URL, protocol: str, authorization: Mapping[str, str]
    ) -> aiohttp.ClientWebSocketResponse:
        rest = self._client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()  # noqa: SLF001  # else made by a first request, and only so
        session: aiohttp.ClientSession = rest.pool_manager
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            socket = await session.ws_connect(
                url,
                protocols=(protocol,),
                headers={"User-Agent": "egress-xds", **authorization},
                proxy=self._configuration.proxy or None,
                server_hostname=self._configuration.tls_server_name or None,
                max_msg_size=0,
            )
        if socket.protocol != protocol:
            await socket.close()
            raise ApiError(None, MALFORMED, f"The API server does not speak {protocol}.")
        return socket

    async def close(self) -> None:
        """End all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # no types are published

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
        body: object = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        address = f"{self.url}{quote(path)}" + (f"?{urlencode(query)}" if query else "")
        for is_last in (False, True):
            authorization = await self._authorization()
            sent = {"User-Agent": "egress-xds", **headers, **authorization}
            async with await self._send(method, yarl.URL(address, encoded=True), sent, limits, body) as answer:
                if answer.status == _UNAUTHORIZED and not is_last:
                    await self._renew_once(authorization)
                    continue
                if not _OK <= answer.status < _ERRORS:
                    raise _refusal(answer, await answer.read())
                yield answer
                return

    async def _send(
        self, method: str, url: yarl.URL, headers: Mapping[str, str], limits: aiohttp.ClientTimeout, body: object
    ) -> aiohttp.ClientResponse:
        """Return the answer as soon as it begins, which that of a watch does at once."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                sent = await self._client.rest_client.request(  # type: ignore[no-untyped-call]  # no types are published
                    method, url, headers=dict(headers), body=body, _request_timeout=limits
                )
        except aiohttp.ConnectionTimeoutError:
            raise
        except TimeoutError as error:
            raise ApiError(None, UNREACHABLE, "The API server takes a request and does not answer it.") from error
        response: aiohttp.ClientResponse = sent.response
        return response

    async def _authorization(self) -> dict[str, str]:
        try:
            value = await self._configuration.get_api_key_with_prefix("BearerToken")
        except (config.ConfigException, OSError) as error:
            raise ApiError(None, "NoCredentials", "The file of the service account's token can't be read.") from error
        # A file may end with a line break, which is no part of a token.
        return {"Authorization": value.strip()} if value else {}

    async def _renew_once(self, refused: Mapping[str, str]) -> None:
        """Read the credentials anew, unless another request that was refused has just done so."""
        async with self._renewing:
            if self._configuration.api_key.get("BearerToken", "").strip() != refused.get("Authorization", ""):
                return
            try:
                await self._renew(self._configuration)
            except SettingsError as error:
                raise ApiError(_UNAUTHORIZED, "Unauthorized", str(error)) from error
            if self._configuration.cert_file:
                context = self._client.rest_client.ssl_context
                context.load_cert_chain(self._configuration.cert_file, self._configuration.key_file)


async def connect(kubeconfig: Path | tuple[Path, ...] | None, context: str = "") -> ApiServer:
    """
    Return the API server that a kubeconfig's context names, or the one of the cluster that this runs in.

    Of several kubeconfigs the first that says something decides, as with kubectl, and those that are not there do not
    count. An empty `context` is the kubeconfig's current one. No request is made. Raises SettingsError.
    """
    configuration = Configuration()
    if kubeconfig is None:
        await _load_in_cluster(configuration)
        return ApiServer(configuration, _own_namespace(), _load_in_cluster)
    load = _Kubeconfig((kubeconfig,) if isinstance(kubeconfig, Path) else kubeconfig, context)
    await load(configuration)
    return ApiServer(configuration, load.namespace, load)


async def _load_in_cluster(configuration: Configuration) -> None:
    try:
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # no types are published
    except (config.ConfigException, OSError) as error:
        # These texts of the package are constant, or name a file.
        raise SettingsError(
            f"The credentials of a pod can't be had: {error} Outside a cluster, name a kubeconfig: --kubeconfig"
            f" FILE; in a pod, `automountServiceAccountToken` must not be false."
        ) from error


def _own_namespace() -> str:
    file = Path(incluster_config.SERVICE_TOKEN_FILENAME).with_name("namespace")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{file}, which names the pod's namespace, can't be read: {type(error).__name__}."
        ) from error


@dataclass(slots=True)
class _Kubeconfig:
    """Reads one context of kubeconfigs into a configuration; an exec plugin is run anew each time."""

    files: tuple[Path, ...]
    context: str
    namespace: str = "default"

    async def __call__(self, configuration: Configuration) -> None:
        file = os.pathsep.join(str(path) for path in self.files if path.is_file())
        if not file:
            raise SettingsError(
                f"There is no kubeconfig {os.pathsep.join(map(str, self.files))}; name yours: --kubeconfig FILE, or in"
                " KUBECONFIG, which all but `xds serve` read. In a pod, none is needed."
            )
        # Those who load may log what an exec plugin prints, and they leave what they do not find as it was.
        kube_config.logger.disabled = True
        fresh = Configuration()
        try:
            loader = await config.load_kube_config(  # type: ignore[no-untyped-call]  # no types are published
                file, self.context or _find_context(file), fresh, persist_config=False
            )
            chosen = loader.current_context["context"]
            self.namespace = str(chosen.get("namespace") or "default")
            has_plugin = "exec" in (loader._user or ())  # noqa: SLF001  # nothing public tells that a plugin failed
        except _UNUSABLE as error:
            raise SettingsError(
                f"The kubeconfig {file} can't be used: {_reason(error)}.{self._remedy()}"
            ) from None  # the error quotes the file
        if has_plugin and not fresh.api_key and not fresh.cert_file:
            raise SettingsError(
                f"The kubeconfig {file} gets credentials from a plugin (`exec`), which gave none; see what"
                f" `KUBECONFIG={file} kubectl version` says."
            )
        for name in _CREDENTIALS:
            setattr(configuration, name, getattr(fresh, name))

    def _remedy(self) -> str:
        if self.context:
            return (
                f" It was asked for the context {quote_value(self.context)}; `kubectl config get-contexts` lists all."
            )
        return " Name a context, or set the current one with `kubectl config use-context`."


def _find_context(files: str) -> str | None:
    """Return the first current context of several files; those who merge them would take the last, unlike kubectl."""
    read = kube_config.KubeConfigMerger(files).config_files.values()  # type: ignore[no-untyped-call]  # no types
    return next((str(given["current-context"]) for given in read if given.get("current-context")), None)


_CREDENTIALS = ("host", "api_key", "ssl_ca_cert", "cert_file", "key_file", "verify_ssl", "tls_server_name", "proxy")

_UNUSABLE = (
    config.ConfigException,
    kube_config.yaml.YAMLError,  # type: ignore[attr-defined]  # what the package reads the file with
    aiohttp.ClientError,
    OSError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)
"""What loading a kubeconfig of any content raises."""


def _reason(error: BaseException) -> str:
    text = str(error)
    if known := _TELLABLE.match(text):
        return f"it has no {known[1]}"
    if isinstance(error, config.ConfigException) and text.startswith("File does not exists: "):
        return f"there is no file {text.partition(': ')[2]}"
    if isinstance(error, OSError):
        return f"{error.strerror or type(error).__name__}"
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1} is no YAML" if mark is not None else "it is not of the expected shape"


@contextmanager
def _translated(late: str, seconds: float) -> Iterator[None]:
    """Turn what the HTTP library raises into ApiError; `late` is the reason of one that takes too long."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ApiError(None, UNREACHABLE, "The API server takes no connection.") from error
    except TimeoutError as error:
        raise ApiError(None, late, f"The API server says nothing for {seconds:g} s.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ApiError(
            None, UNREACHABLE, f"No connection to the API server: {str(error) or type(error).__name__}"
        ) from error
    except ValueError as error:
        raise ApiError(None, UNREACHABLE, f"The request can't be sent ({type(error).__name__}).") from error


def _refusal(answer: aiohttp.ClientResponse, data: bytes) -> ApiError:
    wait = answer.headers.get("Retry-After", "")
    try:
        status = _decode(data)
    except ApiError:  # what stands between us and the server answers in words of its own
        status = {}
    return ApiError.from_status(status, answer.status, float(wait) if wait.isdecimal() else None)


def _no_socket(error: aiohttp.WSServerHandshakeError) -> ApiError:
    """Return why there is no socket; the library reads no body, so that the server's own words are lost."""
    return ApiError(error.status, "", f"The API server answers with status {error.status}.")


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes | bytearray]:
    # The library's own lines have a limit that one large object can exceed.
    rest = bytearray()
    async for chunk in stream.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for line in filter(bytearray.strip, lines):
                yield line
        if len(rest) > _LONGEST_EVENT:
            raise ApiError(_OK, MALFORMED, "The API server sends an event without an end.")
    if rest.strip():
        yield rest


def _decode(data: bytes | bytearray) -> dict[str, object]:
    try:
        value = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        # The cause would quote what was answered.
        raise ApiError(_OK, MALFORMED, "The API server answers with something that is no JSON object.")
    return value


def _tellable(message: str) -> str:
    text = " ".join(redact_logins(_TOKEN.sub(REDACTED, message)).split())
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"
