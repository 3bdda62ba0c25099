"""The load generator's other end: one `bench/load.c`, pinned away from the server, controlled line by line."""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import Any

import msgspec

from bench import process
from bench.peers import BUILT, LOAD_CORE, Server

DATA_BYTES = 100


class Load:
    """Readers and publishers of one server. Each method returns what the load generator measured."""

    def __init__(self, server: Server, data_bytes: int = DATA_BYTES, subscribe: str | None = None) -> None:
        peer = server.peer
        self._window = peer.connect_window
        arguments = [
            "127.0.0.1",
            str(server.port),
            subscribe or peer.subscribe,
            str(server.port + peer.control_port),
            peer.publish,
            peer.content_type,
            peer.before,
            peer.after,
            str(data_bytes),
        ]
        self._process = subprocess.Popen(
            ["taskset", "--cpu-list", str(LOAD_CORE), BUILT / "load", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def open(
        self, count: int, projects: int = 1, *, window: int | None = None, replay: int = 0, suffix: str = ""
    ) -> Any:
        return self._do(f"open {count} {projects} {window or self._window} {replay} {suffix}")

    def post(
        self,
        count: int,
        projects: int = 1,
        *,
        conns: int = 1,
        depth: int = 1,
        group: int = 0,
        rate: float = 0,
        lines: int = 1,
    ) -> Any:
        return self._do(f"post {count} {projects} {conns} {depth} {group} {rate} {lines}")

    def trigger(self, count: int) -> Any:
        return self._do(f"trigger {count}")

    def hold(self, seconds: float) -> Any:
        return self._do(f"hold {round(seconds * 1000)}")

    def shut(self) -> Any:
        return self._do("shut")

    def cpu_seconds(self) -> float:

        return process.cpu_seconds([self._process.pid])

    def _do(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the load generator has ended at: {command}")
        return msgspec.json.decode(answer)
