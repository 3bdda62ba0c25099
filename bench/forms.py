"""What a request costs in each form it comes in, beside a naive aiohttp handler: processor time of the server.

    python -m bench.forms [--rounds 40]

Requests go out on 16 keep-alive connections, one at a time on each. All forms are measured in turns, and the cheapest
round of each counts: noise only ever adds. A connect is a new connection that asks for a stream; the naive handler gets
the plain POST.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jwt

from bench.peers import EDGE, LOAD_CORE, Peer, Server

CONNECTIONS = 16
_WARM_UP = 64
_WARM_UP_STREAMS = 192
"""The first hundred connections of a second have a log line each when they come, and one when they go."""
TOKEN, KEY = "static-token-of-the-bench", "key-of-the-bench-that-is-long-enough"
BODY = b'{"type":"progress","data":{"step":1,"of":17,"text":"' + b"x" * 50 + b'"}}'
TRACE = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROXIED = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: hub.example.org"
OPEN: Mapping[str, str] = {}
AUTH = {"EDGE_AUTH_TOKEN": TOKEN, "EDGE_AUTH_JWT_KEY": KEY}
JWT = jwt.encode({"edge": {"publish": ["p*"], "subscribe": ["p*"]}, "exp": int(time.time()) + 7200}, KEY, "HS256")


def _naive(_directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    return [[sys.executable, "bench/naive.py", str(port)]]


NAIVE = Peer("naive aiohttp", _naive, "", "", "", "", "")


class Form(NamedTuple):
    """One row: a request, and what it is compared with."""

    name: str
    line: str
    headers: str = ""
    body: bytes = b""
    env: Mapping[str, str] = OPEN
    unlike: bool = False
    """Each request differs: `{n}` is its number, or for a stream its ticket."""
    stream: bool = False


POST, EVENTS = "POST /projects/p/events", "GET /projects/pc/events"
JSON = "Content-Type: application/json"
FORMS = (
    Form("POST plain", POST, JSON, BODY),
    Form("POST traceparent", POST, f"{JSON}\r\n{TRACE}", BODY),
    Form("POST own header", POST, f"{JSON}\r\nX-Request-ID: 0123456789", BODY),
    Form("POST X-Forwarded-*", POST, f"{JSON}\r\n{PROXIED}", BODY, {"EDGE_SERVER_TRUSTED_PROXIES": "127.0.0.1"}),
    Form("POST query", f"{POST}?require=0", JSON, BODY),
    Form("POST text/plain", f"{POST}?type=progress", "Content-Type: text/plain", BODY),
    Form("POST static token", POST, f"{JSON}\r\nAuthorization: Bearer {TOKEN}", BODY, AUTH),
    Form("POST JWT", POST, f"{JSON}\r\nAuthorization: Bearer {JWT}", BODY, AUTH),
    Form("POST Idempotency-Key", POST, f"{JSON}\r\nIdempotency-Key: k{{n}}", BODY, OPEN, True),
    Form("GET status", "GET /projects/p"),
    Form("GET ready, refused", "GET /projects/q/ready?timeout=0"),
    Form("POST trigger, refused", "POST /projects/q/trigger?timeout=0", JSON, b'{"name":"x"}'),
    Form("POST refused (415)", POST, "Content-Type: text/xml", BODY),
    Form("GET healthz", "GET /healthz"),
    Form("connect", EVENTS, stream=True),
    Form("connect JWT", EVENTS, f"Authorization: Bearer {JWT}", env=AUTH, stream=True),
    Form("connect cookie", EVENTS, f"Cookie: edge_token={JWT}", env=AUTH, stream=True),
    Form("connect ticket", f"{EVENTS}?ticket={{n}}", env=AUTH, stream=True, unlike=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=320)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    forms = [form for form in FORMS if options.only in form.name]
    servers: dict[tuple[str, frozenset[tuple[str, str]]], Server] = {(NAIVE.name, frozenset()): Server(NAIVE)}
    for form in forms:
        if (EDGE.name, frozenset(form.env.items())) not in servers:
            servers[EDGE.name, frozenset(form.env.items())] = Server(EDGE, env=form.env)
    costs: dict[str, float] = {}
    try:
        time.sleep(1)
        for turn in range(options.rounds + 1):
            for name, server, form in [
                ("naive aiohttp", servers[NAIVE.name, frozenset()], FORMS[0]),
                *((form.name, servers[EDGE.name, frozenset(form.env.items())], form) for form in forms),
            ]:
                cost = measured(server, form, options.requests // (4 if form.stream else 1), turn)
                if turn:  # the first round warms up
                    costs[name] = min(cost, costs.get(name, cost))
    finally:
        for server in servers.values():
            server.stop()
    rows = [["form", "µs of the server", "x naive", "x the first of its kind"], ["---", "---:", "---:", "---:"]]
    naive, first = costs.pop("naive aiohttp"), dict[str, float]()
    rows.append(["naive aiohttp", f"{naive:.1f}", "1.00", ""])
    for form in forms:
        cost = costs[form.name]
        plain = first.setdefault(form.name.partition(" ")[0], cost)
        rows.append([form.name, f"{cost:.1f}", f"{cost / naive:.2f}", f"{cost / plain:.2f}"])
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


def measured(server: Server, form: Form, count: int, turn: int) -> float:
    """Microseconds of processor time a request. Some unmeasured ones come first: another server had the caches."""
    given = tickets(server.port, count + _WARM_UP_STREAMS) if form.stream and form.unlike else []
    if form.stream:
        connect_each(server.port, form, _WARM_UP_STREAMS, given[count:])
    else:
        ask_each(server.port, form, _WARM_UP, -turn * _WARM_UP)
    cpu = server.cpu_seconds()
    if form.stream:
        connect_each(server.port, form, count, given)
    else:
        ask_each(server.port, form, count, turn * count)
    return (server.cpu_seconds() - cpu) / count * 1e6


def tickets(port: int, count: int) -> list[str]:
    """As many tickets for streams of the project."""
    request = (
        f"POST /projects/pc/ticket HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {JWT}\r\nContent-Length: 0\r\n\r\n"
    )
    found = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for _ in range(count):
            sock.sendall(request.encode())
            found.append(sock.recv(65536).decode().partition('"ticket":"')[2].partition('"')[0])
    return found


def bytes_of(form: Form, number: int | str) -> bytes:
    headers = form.headers.replace("{n}", str(number))
    length = f"Content-Length: {len(form.body)}\r\n" if form.line.startswith("POST") else ""
    line = form.line.replace("{n}", str(number))
    head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    return f"{head}{headers}{chr(13) + chr(10) if headers else ''}{length}\r\n".encode() + form.body


def ask_each(port: int, form: Form, count: int, first: int) -> None:
    """`count` requests, each behind the answer to the one before it on its connection."""
    requests = (bytes_of(form, first + number) for number in range(count)) if form.unlike else None
    same = bytes_of(form, 0)
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    try:
        for _ in range(count // CONNECTIONS):
            for sock in sockets:
                sock.sendall(same if requests is None else next(requests))
            for sock in sockets:
                read_answer(sock)
    finally:
        for sock in sockets:
            sock.close()


def read_answer(sock: socket.socket) -> None:
    data = sock.recv(65536)
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        if found:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                return
        data += sock.recv(65536)


def connect_each(port: int, form: Form, count: int, given: Sequence[str]) -> None:
    """`count` streams, 64 on their way at a time; each is closed once its hello is there."""
    for turn in range(count // 64):
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
        for place, sock in enumerate(sockets, turn * 64):
            sock.sendall(bytes_of(form, given[place] if given else 0))
        for sock in until_readable(sockets):
            answer = sock.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer)
        for sock in sockets:
            sock.close()


def until_readable(sockets: list[socket.socket]) -> Iterator[socket.socket]:
    waiting = set(sockets)
    while waiting:
        readable, _, _ = select.select(waiting, [], [], 10)
        if not readable:
            raise RuntimeError("no answer")
        waiting.difference_update(readable)
        yield from readable


if __name__ == "__main__":
    main()
