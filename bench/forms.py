"""What a request costs in each form it comes in, beside a naive aiohttp handler: processor time of the server.

    python -m bench.forms [--rounds 3]

Requests go out on 16 keep-alive connections, one at a time on each; the cheapest of the rounds counts. A connect is a
new connection that asks for a stream; the naive handler has none.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jwt

from bench.peers import EDGE, LOAD_CORE, Peer, Server

CONNECTIONS = 16
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
    """Each request differs: `{n}` in the headers is its number."""
    stream: bool = False


POST, EVENTS = "POST /projects/p/events", "GET /projects/p/events"
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
)
ASKED_OF_NAIVE = {"POST": "POST plain", "GET": "GET status"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    forms = [form for form in FORMS if options.only in form.name]
    naive = {
        method: measured(NAIVE, next(form for form in FORMS if form.name == name), options.rounds, options.requests)
        for method, name in ASKED_OF_NAIVE.items()
    }
    rows = [
        ["naive aiohttp, POST", f"{naive['POST']:.1f}", "", ""],
        ["naive aiohttp, GET", f"{naive['GET']:.1f}", "", ""],
    ]
    plain: dict[str, float] = {}
    for form in forms:
        kind = "connect" if form.stream else form.line.partition(" ")[0]
        cost = measured(EDGE, form, options.rounds, options.requests)
        first = plain.setdefault(kind, cost)
        against = "" if form.stream else f"{cost / naive[kind]:.2f}"
        rows.append([form.name, f"{cost:.1f}", against, f"{cost / first:.2f}"])
    rows.insert(0, ["form", "µs of the server", "x naive", "x the first of its kind"])
    rows.insert(1, ["---", "---:", "---:", "---:"])
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


def measured(peer: Peer, form: Form, rounds: int, requests: int) -> float:
    """The cheapest round's microseconds of processor time a request."""
    server = Server(peer, env=form.env)
    try:
        time.sleep(0.3)
        each = connect_each if form.stream else ask_each
        count = requests // 4 if form.stream else requests
        each(server.port, form, count // 4, 0)
        costs = []
        for turn in range(rounds):
            cpu = server.cpu_seconds()
            each(server.port, form, count, (turn + 1) * count)
            costs.append((server.cpu_seconds() - cpu) / count * 1e6)
        return min(costs)
    finally:
        server.stop()


def bytes_of(form: Form, number: int) -> bytes:
    headers = form.headers.replace("{n}", str(number))
    length = f"Content-Length: {len(form.body)}\r\n" if form.line.startswith("POST") else ""
    head = f"{form.line} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n"
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


def connect_each(port: int, form: Form, count: int, _first: int) -> None:
    """`count` streams, 64 on their way at a time; each is closed once its hello is there."""
    request = bytes_of(form, 0)
    for _ in range(count // 64):
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
        for sock in sockets:
            sock.sendall(request)
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
