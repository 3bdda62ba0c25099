"""Subscribers over TLS, for the rows that `load.c`, which speaks none, can't measure."""

from __future__ import annotations

import selectors
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

_DIRECTORY = Path(tempfile.gettempdir()) / "edge-bench-tls"
ENV = {"EDGE_SERVER_TLS_CERT": str(_DIRECTORY / "cert.pem"), "EDGE_SERVER_TLS_KEY": str(_DIRECTORY / "key.pem")}
_BODY = b'{"data":"' + b"x" * 100 + b'"}'


class Readers:
    """Open streams of project `p`, each a socket that is read until the event it waits for is there."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=ENV["EDGE_SERVER_TLS_CERT"])
        self._context.check_hostname = False
        self._sockets: list[ssl.SSLSocket] = []
        self._publisher: ssl.SSLSocket | None = None

    def _connect(self) -> ssl.SSLSocket:
        return self._context.wrap_socket(socket.create_connection(("127.0.0.1", self._port)))

    def open(self, count: int) -> None:
        for _ in range(count):
            sock = self._connect()
            sock.sendall(b"GET /projects/p/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            heard = b""
            while b"edge.hello" not in heard:
                heard += sock.recv(65536)
            self._sockets.append(sock)

    def publish(self, events: int) -> None:
        """Publish, each event when the one before it has reached all."""
        publisher = self._publisher = self._publisher or self._connect()
        request = b"POST /projects/p/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
        with selectors.DefaultSelector() as selector:
            for sock in self._sockets:
                selector.register(sock, selectors.EVENT_READ)
            for _ in range(events):
                publisher.sendall(request + _BODY)
                waiting = set(self._sockets)
                while waiting:
                    for key, _ in selector.select(10):
                        readable = key.fileobj
                        assert isinstance(readable, ssl.SSLSocket)
                        readable.recv(65536)
                        waiting.discard(readable)
                publisher.recv(65536)

    def close(self) -> None:
        for sock in (*self._sockets, *([self._publisher] if self._publisher else [])):
            sock.close()


def prepare() -> None:
    """Make a certificate, once."""
    if not Path(ENV["EDGE_SERVER_TLS_CERT"]).exists():
        _DIRECTORY.mkdir(exist_ok=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
             "-subj", "/CN=localhost", "-keyout", ENV["EDGE_SERVER_TLS_KEY"], "-out", ENV["EDGE_SERVER_TLS_CERT"]],
            check=True,
            capture_output=True,
        )  # fmt: skip
