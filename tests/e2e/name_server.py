"""
A name server that knows little: the names of a network without external DNS.

Runs as `python name_server.py ADDRESS NAME=ADDRESS[,ADDRESS]…` and answers questions for IPv4 addresses of these names,
which last for a second; all other names do not exist (RFC 1035). It says what it was asked for, a line per question. It
must work with nothing but the standard library.
"""

from __future__ import annotations

import socket
import sys

PORT = 53
_A = 1
_NO_SUCH_NAME = 3
_TIME_TO_LIVE = 1


def read_question(data: bytes) -> tuple[str, int, int]:
    """Return the name, the type and where the question ends."""
    labels, at = [], 12
    while size := data[at]:
        labels.append(data[at + 1 : at + 1 + size].decode("ascii"))
        at += size + 1
    return ".".join(labels).lower(), int.from_bytes(data[at + 1 : at + 3], "big"), at + 5


def build_answer(identity: bytes, question: bytes, kind: int, addresses: list[str] | None) -> bytes:
    """Build an answer: the addresses, nothing for another type, or that there is no such name."""
    head = b"\xc0\x0c\x00\x01\x00\x01" + _TIME_TO_LIVE.to_bytes(4, "big") + b"\x00\x04"
    records = [head + socket.inet_aton(address) for address in addresses or () if kind == _A]
    code = _NO_SUCH_NAME if addresses is None else 0
    counts = b"\x00\x01" + len(records).to_bytes(2, "big") + b"\x00\x00\x00\x00"
    return identity + (0x8180 | code).to_bytes(2, "big") + counts + question + b"".join(records)


def serve(address: str, table: dict[str, list[str]]) -> None:
    """Serve until the process is ended."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((address, PORT))
        say("name server: ready")
        while True:
            data, client = taken.recvfrom(4096)
            name, kind, end = read_question(data)
            say(f"asked for {name} {kind}")
            taken.sendto(build_answer(data[:2], data[12:end], kind, table.get(name)), client)


def say(line: str) -> None:
    """Log a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    pairs = (pair.split("=") for pair in sys.argv[2:])
    serve(sys.argv[1], {name: addresses.split(",") for name, addresses in pairs})
