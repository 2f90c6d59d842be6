"""
Many Envoys in one process: streams that say what a real Envoy said, and time what they hear.

Each stream is a TCP connection of its own with one HTTP/2 stream on it. Frames are written and read by hand, because
the generator must cost less than what it measures: of a message only its length, its head and its tail are looked at.
It speaks to servers of this repository on loopback and to no other.

Orders come as lines of JSON on standard input; answers go, in the same form, to standard output. Times are seconds of
the monotonic clock, which all processes of a machine share.

Invariant: a stream sends less than HTTP/2's first flow-control window (64 KiB) in its life, so none is accounted for.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import selectors
import socket
import struct
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Variant = Literal["sotw", "delta"]

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "data" / "envoy-1.40"
RECORDED_ID = b"sidecar~10.0.0.1~app-7d9c6b5f4d-abcde.ns1~ns1.svc.cluster.local"
METHODS = {"sotw": "StreamAggregatedResources", "delta": "DeltaAggregatedResources"}

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY = 0, 1, 3, 4, 6, 7
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_FRAME_HEADER, _MESSAGE_PREFIX = 9, 5
_MAX_FRAME = 16_384
_LARGEST_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_KEPT = 256
"""Bytes kept of the head and the tail of a message: enough for its version, type and nonce."""
_TYPE = re.compile(rb"\x22([\x20-\x7f])type\.googleapis\.com/")
_NONCE = re.compile(rb"\x2a[\x01-\x20]([0-9]+)")
_READ = 1 << 20
_FIRST_ANSWERS = 2
"""Messages after which a stream is served: clusters and listeners."""
_IN_FLIGHT = 1000
"""Connections that wait to be accepted at one time; a listener's queue is 4,096 long."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Build an HTTP/2 frame (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message_frames(body: bytes) -> bytes:
    """Build the DATA frames of one gRPC message."""
    whole = struct.pack(">BI", 0, len(body)) + body
    return b"".join(frame(_DATA, 0, 1, whole[at : at + _MAX_FRAME]) for at in range(0, len(whole), _MAX_FRAME))


def opening(variant: Variant) -> bytes:
    """
    Build what a client says before its first message: preface, settings, a large window, the request's headers.

    The headers are literals without indexing (RFC 7541, 6.2.2), names by their index in the static table.
    """

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    path = f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{METHODS[variant]}"
    headers = b"".join(
        (
            b"\x83\x86\x04" + text(path),
            b"\x01" + text("127.0.0.1"),
            b"\x0f\x10" + text("application/grpc"),
            b"\x00" + text("te") + text("trailers"),
        )
    )
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _LARGEST_WINDOW)),
            frame(8, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)),
            frame(_HEADERS, _END_HEADERS, 1, headers),
        )
    )


def field(number: int, value: bytes) -> bytes:
    """Encode a short length-delimited protobuf field."""
    return bytes([number << 3 | 2, len(value)]) + value


def acknowledge(variant: Variant, type_url: bytes, version: bytes, nonce: bytes) -> bytes:
    """Encode the ACK that an Envoy sends: SotW with the version, delta without."""
    if variant == "sotw":
        return field(1, version) + field(4, type_url) + field(5, nonce)
    return field(2, type_url) + field(6, nonce)


def node_id(index: int, policies: int) -> bytes:
    """Return `<pod>.<namespace>`, as long as the recorded id, so that nothing else of the recording changes."""
    namespace = f".ns{index % max(policies, 1):04d}"
    return f"app-{index:0{len(RECORDED_ID) - len(namespace) - 4}d}{namespace}".encode()


def check_recording(variant: Variant) -> None:
    """Prove that what is said here is what the recorded Envoy said: AssertionError if not."""
    kinds = (b"cluster.v3.Cluster", b"listener.v3.Listener")
    for number, kind in enumerate(kinds, start=1):
        recorded = (RECORDED / f"{variant}-request-{number + 2}.bin").read_bytes()
        type_url = b"type.googleapis.com/envoy.config." + kind
        assert acknowledge(variant, type_url, b"1", str(number).encode()) == recorded


class Stream:
    """One connection with one ADS stream."""

    __slots__ = (
        "_control",
        "_frame_left",
        "_head",
        "_header",
        "_kind",
        "_message_left",
        "_prefix",
        "_tail",
        "_variant",
        "began",
        "heard",
        "is_ended",
        "last",
        "socket",
    )

    def __init__(self, variant: Variant, connection: socket.socket, began: float) -> None:
        self._variant: Variant = variant
        self.socket = connection
        self.began = began
        self.heard = 0
        self.last = 0.0
        self.is_ended = False
        self._header = self._control = self._prefix = self._head = self._tail = b""
        self._frame_left = self._message_left = 0
        self._kind = (0, 0)

    def take(self, data: memoryview) -> None:
        """Take in what came from the server."""
        at = 0
        while at < len(data):
            if not self._frame_left:
                at = self._start_frame(data, at)
                continue
            part = data[at : at + self._frame_left]
            at += len(part)
            self._frame_left -= len(part)
            if self._kind[0] == _DATA:
                self._take_data(part)
            else:
                self._control += bytes(part)
                if not self._frame_left:
                    self._obey()

    def _start_frame(self, data: memoryview, at: int) -> int:
        part = bytes(data[at : at + _FRAME_HEADER - len(self._header)])
        self._header += part
        if len(self._header) == _FRAME_HEADER:
            self._frame_left = int.from_bytes(self._header[:3])
            self._kind = self._header[3], self._header[4]
            self._header = self._control = b""
            if not self._frame_left:
                self._obey()
        return at + len(part)

    def _take_data(self, part: memoryview) -> None:
        while part:
            if not self._message_left:
                missing = _MESSAGE_PREFIX - len(self._prefix)
                self._prefix += bytes(part[:missing])
                part = part[missing:]
                if len(self._prefix) < _MESSAGE_PREFIX:
                    return
                self._message_left = int.from_bytes(self._prefix[1:])
                self._prefix = self._head = self._tail = b""
                continue
            body = part[: self._message_left]
            part = part[len(body) :]
            self._message_left -= len(body)
            if len(self._head) < _KEPT:
                self._head += bytes(body[:_KEPT])
            self._tail = (self._tail + bytes(body[-_KEPT:]))[-_KEPT:]
            if not self._message_left:
                self._answer()

    def _answer(self) -> None:
        self.heard += 1
        self.last = time.monotonic()
        *_, found = _TYPE.finditer(self._tail)
        kind = self._tail[found.end(1) : found.end(1) + found[1][0]]
        nonce = _NONCE.findall(self._tail)[-1]
        version = self._head[2 : 2 + self._head[1]]
        self.socket.sendall(message_frames(acknowledge(self._variant, kind, version, nonce)))

    def _obey(self) -> None:
        kind, flags = self._kind
        if kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(frame(_PING, _ACK, 0, self._control))
        elif kind in {_RESET, _GO_AWAY} or (kind == _HEADERS and flags & _END_STREAM):
            self.is_ended = True


class Load:
    """All streams of this process, and the loop that reads them."""

    def __init__(self, variant: Variant, port: int, policies: int) -> None:
        self._variant: Variant = variant
        self._port = port
        self._policies = policies
        self._selector = selectors.EpollSelector()
        self._selector.register(0, selectors.EVENT_READ, None)
        self._streams: deque[Stream] = deque()
        check_recording(variant)
        self._opening = opening(variant)
        first, second = ((RECORDED / f"{variant}-request-{number}.bin").read_bytes() for number in (1, 2))
        self._first, self._second = first, message_frames(second)
        self._buffer = memoryview(bytearray(_READ))
        self._index = 0
        self._orders: deque[dict[str, int]] = deque()
        self._ended = 0
        self._served = 0

    def run(self) -> None:
        """Obey orders until the end of standard input or `quit`."""
        actions: dict[str, Callable[[dict[str, int]], object]] = {
            "connect": self._connect,
            "expect": self._expect,
            "deafen": self._deafen,
            "churn": self._churn,
        }
        while True:
            while not self._orders:
                self._poll(1.0)
            order = self._orders.popleft()
            for word, action in actions.items():
                if word in order:
                    say(action(order))

    def _poll(self, patience: float) -> None:
        for key, events in self._selector.select(patience):
            if key.data is None:
                lines = os.read(0, 65_536)
                if not lines:
                    raise SystemExit
                self._orders.extend(json.loads(line) for line in lines.splitlines())
            elif events & selectors.EVENT_WRITE:
                key.data()
            else:
                self._read(key.data)

    def _read(self, stream: Stream) -> None:
        try:
            size = stream.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size:
            before = stream.heard
            stream.take(self._buffer[:size])
            self._served += before < _FIRST_ANSWERS <= stream.heard
        if not size or stream.is_ended:
            self._ended += 1
            self._selector.unregister(stream.socket)
            stream.socket.close()

    def _open(self, index: int) -> Stream:
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)  # noqa: FBT003 - the name says what it is
        connection.connect_ex(("127.0.0.1", self._port))
        stream = Stream(self._variant, connection, time.monotonic())
        first = self._first.replace(RECORDED_ID, node_id(index, self._policies), 1)
        said = self._opening + message_frames(first) + self._second
        self._selector.register(connection, selectors.EVENT_WRITE, partial(self._say, stream, [said]))
        return stream

    def _say(self, stream: Stream, rest: list[bytes]) -> None:
        rest[0] = rest[0][stream.socket.send(rest[0]) :]
        if not rest[0]:
            self._selector.modify(stream.socket, selectors.EVENT_READ, stream)

    def _connect(self, order: dict[str, int]) -> object:
        """Open streams; answer once each has heard its clusters and its listeners."""
        began = time.monotonic()
        fresh: list[Stream] = []
        self._served = 0
        while self._served < order["connect"] and not self._ended:
            while len(fresh) < order["connect"] and len(fresh) - self._served < _IN_FLIGHT:
                fresh.append(self._open(order["first"] + len(fresh) * order["step"]))
            self._poll(1.0)
        self._streams.extend(fresh)
        self._index = order["first"] + len(fresh) * order["step"]
        return {"began": began, "heard": [stream.last for stream in fresh], "ended": self._ended}

    def _expect(self, order: dict[str, int]) -> object:
        """Wait for one message on each stream; `seconds` is the patience."""
        for stream in self._streams:
            stream.heard = 0
        say({"waiting": len(self._streams)})
        deadline = time.monotonic() + order["expect"]
        waiting = deque(self._streams)
        while waiting and time.monotonic() < deadline and not self._ended:
            self._poll(0.2)
            while waiting and waiting[0].heard:
                waiting.popleft()
        return {"heard": [stream.last for stream in self._streams if stream.heard], "ended": self._ended}

    def _deafen(self, order: dict[str, int]) -> object:
        """Read none of the streams any more, nor let the kernel take in more than a little."""
        del order
        for stream in self._streams:
            self._selector.unregister(stream.socket)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return {"deaf": len(self._streams)}

    def _churn(self, order: dict[str, int]) -> object:
        """Replace `churn` streams a second for `seconds`: the oldest goes, a new one comes."""
        began = time.monotonic()
        fresh: list[Stream] = []
        wanted = order["churn"] * order["seconds"]
        while len(fresh) < wanted or not all(stream.heard >= _FIRST_ANSWERS for stream in fresh[-_IN_FLIGHT:]):
            due = min(wanted, int((time.monotonic() - began) * order["churn"]) + 1)
            for _ in range(due - len(fresh)):
                oldest = self._streams.popleft()
                self._selector.unregister(oldest.socket)
                oldest.socket.close()
                fresh.append(self._open(self._index))
                self._streams.append(fresh[-1])
                self._index += order["step"]
            self._poll(0.005)
            if self._ended:
                break
        took = [stream.last - stream.began for stream in fresh if stream.heard >= _FIRST_ANSWERS]
        return {"took": took, "ended": self._ended, "seconds": time.monotonic() - began}


def say(answer: object) -> None:
    """Write one line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=("sotw", "delta"))
    parser.add_argument("port", type=int)
    parser.add_argument("--policies", type=int, default=0)
    options = parser.parse_args()
    # What lives, lives until the end; a collection would stop the clock of all streams.
    gc.disable()
    Load(options.variant, options.port, options.policies).run()


if __name__ == "__main__":
    main()
