"""
Opens connections inside a network namespace for a test outside of it.

Runs in the pod. A test connects to the unix socket, sends a JSON object with `host`, `port` and `timeout`, and
receives either `ok` with the connected socket, or the reason why there is none. It must work with nothing but the
standard library.
"""

from __future__ import annotations

import json
import socket
import sys
import threading


def main(path: str) -> None:
    """Serve on the unix socket `path` until the process is ended."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    sys.stdout.write("broker: ready\n")
    sys.stdout.flush()
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_serve, args=(client,), daemon=True).start()


def _serve(client: socket.socket) -> None:
    with client:
        wanted = json.loads(client.recv(65536))
        try:
            connected = socket.create_connection((wanted["host"], wanted["port"]), timeout=wanted["timeout"])
        except OSError as error:
            client.sendall(str(error).encode() or b"failed")
            return
        with connected:
            connected.settimeout(None)
            socket.send_fds(client, [b"ok"], [connected.fileno()])


if __name__ == "__main__":
    main(sys.argv[1])
