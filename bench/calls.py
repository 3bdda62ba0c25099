"""How many Python calls of `edge`, in how many of its files, an ordinary request takes.

    python -m bench.calls [--list NAME]

The hub runs in this process on uvloop; `sys.setprofile` counts what it calls from the request's first byte until the
answer is there (and, for a stream, its hello; for a publish, the delivery to one subscriber). Nothing is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec
import uvloop

import edge
from edge.config.schema import Config
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.listening import listen

HERE = str(Path(edge.__file__).parent)
BODY = b'{"type":"progress","data":{"step":1}}'
TOKEN = "static-token-of-the-bench"


class Way(NamedTuple):
    """A request, and how many calls and files it may take."""

    name: str
    line: str
    headers: str
    body: bytes
    most_calls: int
    most_files: int


JSON = "Content-Type: application/json\r\n"
TRACE = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
PUBLISH = "POST /projects/p/events"
WAYS = (
    Way("subscribe", "GET /projects/p/events", "", b"", 70, 18),
    Way("publish", PUBLISH, JSON, BODY, 45, 14),
    Way("publish, any header", PUBLISH, JSON + TRACE, BODY, 50, 15),
    Way("publish, query", f"{PUBLISH}?require=0", JSON, BODY, 50, 15),
    Way("trigger", "POST /projects/p/trigger", JSON, b'{"name":"job","data":1}', 120, 22),
)


async def counted(way: Way, sections: dict[str, Any] | None = None) -> Counter[tuple[str, str]]:
    """Calls by file and function, with one subscriber there."""
    app, _ = await assemble(msgspec.convert(sections or {"stream": {"heartbeat_seconds": 600}}, Config))
    runner = HubRunner(app, shutdown_timeout_seconds=0.1)
    await runner.setup()
    [sock] = listen("127.0.0.1", 0)
    await runner.listen_on(sock)
    port = sock.getsockname()[1]
    subscriber = await connected(port)
    await asyncio.get_running_loop().sock_sendall(subscriber, bytes_of(WAYS[0]))
    await asyncio.sleep(0.05)
    caller = await connected(port)
    loop = asyncio.get_running_loop()
    calls: Counter[tuple[str, str]] = Counter()
    for warm in (True, True, False):
        if way.name == "subscribe" and not warm:
            caller.close()
            caller = await connected(port)
        elif way.name == "subscribe":
            continue
        await asyncio.sleep(0.05)
        with counting(Counter() if warm else calls):
            await loop.sock_sendall(caller, bytes_of(way))
            await asyncio.sleep(0.1)
        answer = await loop.sock_recv(caller, 65536)
        if not answer.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(answer)
    caller.close()
    subscriber.close()
    await runner.cleanup()
    return calls


@contextmanager
def counting(calls: Counter[tuple[str, str]]) -> Iterator[None]:
    """Count the calls of `edge` in this thread. What a flush delivers is the next turn's, whatever publish it is of;
    what background tasks do meanwhile is theirs.
    """
    seen: set[FrameType] = set()
    others: set[FrameType] = set()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(HERE):
            return
        if code.co_name in ("_flush", "_keep_running"):
            (others.add if event == "call" else others.discard)(frame)
        # A coroutine that goes on is called again.
        elif event == "call" and not others and frame not in seen:
            seen.add(frame)
            calls[code.co_filename[len(HERE) + 1 :], code.co_qualname] += 1

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def bytes_of(way: Way) -> bytes:
    length = f"Content-Length: {len(way.body)}\r\n" if way.body else ""
    return f"{way.line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{way.headers}{length}\r\n".encode() + way.body


async def connected(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", default="", help="show every call of this request")
    wanted = parser.parse_args().list
    failed = 0
    for way in WAYS:
        calls = uvloop.run(counted(way))
        files = {file for file, _ in calls}
        within = calls.total() <= way.most_calls and len(files) <= way.most_files
        failed += not within
        most = f"(at most {way.most_calls} in {way.most_files})"
        print(f"{'ok  ' if within else 'over'} {way.name:20} {calls.total():4} calls in {len(files):3} files {most}")
        if way.name == wanted:
            for (file, function), count in sorted(calls.items()):
                print(f"       {count:3} {file:32} {function}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
