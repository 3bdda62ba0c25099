"""Subscribers that keep to the rules: they note each id when they read it and come back with it, and write down all."""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import socket
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.faultcheck.processes import Node
from tests.faultcheck.records import Caught, Ended, Gap, Hello, History, Opened, Seen
from tests.faultcheck.wire import EventLines, Frame, read_head, reset, token_of

PAUSE_SECONDS = 0.05
SLOW_BYTES = 100
"""A subscriber that reads so little at a time is slow, too: the hub has to wait for it."""


class Subscriber:
    """Reads one project on any of the nodes until it is stopped.

    `since` is where it starts; with `missed` it never resumes by id. A restless one is cut again and again.
    """

    def __init__(
        self,
        name: str,
        project: str,
        nodes: list[Node],
        history: History,
        clock: Callable[[], float],
        dice: random.Random,
        *,
        since: str,
        restless: bool = False,
    ) -> None:
        self.name = name
        self.project = project
        self.restless = restless
        self.since = since
        self.last_token = ""
        """With it the project ends: when it has come, the subscriber has seen all it will."""
        self.caught = asyncio.Event()
        self._nodes = nodes
        self._history = history
        self._clock = clock
        self._dice = dice
        self._noted = ""
        self._tokens: set[str] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._lines: EventLines | None = None
        self._frame = Frame()
        self._taken = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def expect(self, token: str) -> None:
        """From now on it is to come to this event, and isn't cut any more."""
        self.restless = False
        self.last_token = token
        self._check()

    async def drop(self) -> None:
        """Close with RST when all is read that the kernel has: while the hub stands still, so that no more can come."""
        writer = self._writer
        if writer is None:
            return
        sock = writer.get_extra_info("socket")
        unread = bytearray(4)
        while sock.fileno() >= 0 and not writer.is_closing():
            await asyncio.sleep(0.01)
            fcntl.ioctl(sock.fileno(), termios.FIONREAD, unread)
            if not int.from_bytes(unread, sys.byteorder):
                break
        await asyncio.sleep(0.01)
        reset(writer)

    async def _run(self) -> None:
        while True:
            how = "refused"
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                how = await self._read_once()
            self._end(how)
            await asyncio.sleep(PAUSE_SECONDS * (1 + self._dice.random()))

    async def _read_once(self) -> str:
        node = self._dice.choice(self._nodes)
        sock = socket.socket()
        sock.setblocking(False)
        if self._dice.random() < 0.3:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", node.port))
        except BaseException:
            sock.close()
            raise
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        try:
            return await self._follow(reader, writer)
        finally:
            self._writer = None
            writer.transport.abort()

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        asked = "" if self.since == "missed" else self._noted
        version = self._dice.choice(["1.1", "1.1", "1.0"])
        resume = f"Last-Event-ID: {asked}\r\n" if asked else ""
        writer.write(f"GET {self._target(asked)} HTTP/{version}\r\nHost: 127.0.0.1\r\n{resume}\r\n".encode())
        self._open(asked)
        patience, size, abrupt = (
            self._dice.uniform(0.02, 2.0),
            self._dice.choice([65536, 65536, 37]),
            self._dice.random(),
        )
        try:
            async with asyncio.timeout(patience if self.restless else None):
                status, headers = await read_head(reader)
                if status != 200:
                    return f"refused: {status}"
                self._frame, self._taken = Frame(), False
                self._lines = EventLines(chunked=headers.get("transfer-encoding") == "chunked")
                self._writer = writer
                while some := await reader.read(size):
                    self._take(some)
                    if self.restless and size < SLOW_BYTES:
                        await asyncio.sleep(PAUSE_SECONDS / 20)
        except TimeoutError:
            if abrupt:
                reset(writer)
            return "cut by the subscriber"
        return "closed by the hub"

    def _target(self, asked: str) -> str:
        query = "" if asked or self.since == "missed" else f"?since={self.since}"
        return f"/projects/{self.project}/events{query}"

    def _open(self, asked: str) -> None:
        self._history.add(Opened(self._clock(), self.name, self.project, asked, self.since))

    def _take(self, some: bytes) -> None:
        assert self._lines is not None
        for line in self._lines.feed(some):
            name, _, value = line.partition(": ")
            if not line:
                self._complete()
            elif name == "event":
                self._frame.type = value
            elif name == "data":
                self._frame.data.append(value)
            elif name == "id":
                self._frame.id = value
                self._noted = value
                # An id behind its data means that the event is here; one in front of it means nothing yet.
                if self._frame.data and not self._frame.type.startswith("edge."):
                    self._seen()

    def _complete(self) -> None:
        frame, taken = self._frame, self._taken
        if frame.data and frame.type in {"edge.hello", "edge.gap"}:
            data = json.loads(frame.text)
            oldest, newest = data["oldest"] or "", data["newest"] or ""
            if frame.type == "edge.hello":
                self._history.add(Hello(self._clock(), self.name, self.project, frame.id, oldest, newest))
            else:
                fields = (data["asked"] or "", oldest, newest, data["lost"], data["reason"])
                self._history.add(Gap(self._clock(), self.name, self.project, *fields))
        elif frame.data and frame.id and not taken and not frame.type.startswith("edge."):
            self._seen()
        self._frame, self._taken = Frame(), False

    def _seen(self) -> None:
        self._taken = True
        token = token_of(self._frame.text)
        self._tokens.add(token)
        self._history.add(Seen(self._clock(), self.name, self.project, self._frame.id, token))
        self._check()

    def _check(self) -> None:
        if self.last_token in self._tokens and not self.caught.is_set():
            self._history.add(Caught(self._clock(), self.name, self.project))
            self.caught.set()

    def _end(self, how: str) -> None:
        self._history.add(Ended(self._clock(), self.name, self.project, how))


class WideSubscriber(Subscriber):
    """Reads several projects over one stream, always restless. For each project a subscriber keeps what was read, and
    says when it is to become steady; those are never started.
    """

    def __init__(self, name: str, each: list[Subscriber], *args: Any, **options: Any) -> None:
        self.each = {one.project: one for one in each}
        super().__init__(name, "", *args, **options)
        self.caught.set()

    @property
    def restless(self) -> bool:
        return all(one.restless for one in self.each.values())

    @restless.setter
    def restless(self, restless: bool) -> None:
        """Those of the projects say."""

    def _target(self, asked: str) -> str:
        del asked  # a project that it doesn't name starts at `since`
        return f"/events?{'&'.join(f'project={name}' for name in self.each)}&prefix=true&since={self.since}"

    def _open(self, asked: str) -> None:
        for name, one in self.each.items():
            one._open(_place(asked, name))

    def _complete(self) -> None:
        frame = self._frame
        if frame.data and frame.type in {"edge.hello", "edge.gap"}:
            name = json.loads(frame.text)["project"]
            one = self.each[name]
            one._frame = Frame(_place(frame.id, name), frame.type, frame.data)
            one._complete()
        self._frame, self._taken = Frame(), False

    def _seen(self) -> None:
        name, _, event_type = self._frame.type.partition("/")
        one = self.each[name]
        one._frame = Frame(_place(self._frame.id, name), event_type, self._frame.data)
        one._seen()
        one._frame = Frame()

    def _end(self, how: str) -> None:
        for one in self.each.values():
            one._end(how)


def _place(event_id: str, project: str) -> str:
    """What the id of a stream of several projects says of one."""
    return dict(place.split(":") for place in event_id.split(",") if place).get(project, "")
