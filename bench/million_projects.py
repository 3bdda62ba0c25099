"""A million project names, and what they cost: `python -m bench.million_projects [NAMES]`.

Publishes one event to each name, a batch of requests at a time over one connection, and prints how many were taken, how
many were refused, and how much memory the hub holds, every tenth of the way. Past `limits.max_projects` nothing should
grow.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

_BATCH = 200
_BODY = b'{"data":{"percent":50}}'
_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d)")


def main(names: int) -> None:
    hub = subprocess.Popen(
        [sys.executable, "-m", "edge", "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert hub.stdout is not None
    try:
        port = int(hub.stdout.readline().rsplit(b":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as sock:
            print("names\ttaken\trefused\tRSS (MB)\tnames/s")
            _ask(sock, names, hub.pid)
    finally:
        hub.terminate()
        hub.wait()


def _ask(sock: socket.socket, names: int, pid: int) -> None:
    taken = refused = 0
    began = time.perf_counter()
    for first in range(0, names, _BATCH):
        batch = range(first, min(first + _BATCH, names))
        sock.sendall(b"".join(_request(number) for number in batch))
        for status in _answers(sock, len(batch)):
            taken, refused = (taken + 1, refused) if status == 202 else (taken, refused + 1)
        done = batch.stop
        if done * 10 // names != first * 10 // names:
            rate = done / (time.perf_counter() - began)
            print(f"{done}\t{taken}\t{refused}\t{_rss_mb(pid):.0f}\t{rate:.0f}", flush=True)


def _request(number: int) -> bytes:
    head = "POST /projects/project-%d/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    return (head % (number, len(_BODY))).encode() + _BODY


def _answers(sock: socket.socket, count: int) -> list[int]:
    """The statuses of the next `count` answers. Each ends with the line end behind its JSON."""
    raw = b""
    while raw.count(b"}\n") < count:
        data = sock.recv(1 << 20)
        if not data:
            raise ConnectionError("the hub closed the connection")
        raw += data
    return [int(status) for status in _STATUS.findall(raw)]


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
