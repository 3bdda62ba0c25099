"""The processes of a round, a hub or two and a Redis, and what can be done to each from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import aiohttp

from tests.faultcheck.records import Broken, History, Started
from tests.ports import free_port

START_SECONDS = 60.0
LEAVE_SECONDS = 60.0
ROOT = Path(__file__).parent.parent.parent
SUSPECT = ("Traceback", "unexpected_error", "never awaited", "never retrieved")


class Node:
    """One `edge serve`, always on the same port."""

    def __init__(self, name: str, folder: Path, settings: dict[str, str], history: History, began: float) -> None:
        self.name = name
        self.life = 0
        self.expected_down = True
        """False while it is to be there: an end is a violation then."""
        self.log = folder / f"{name}.log"
        self.port = free_port()
        self._settings = settings
        self._history = history
        self._began = began
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> bool:
        """Until it listens. False when it ended instead, which is written down."""
        self.life += 1
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "edge", "serve", "--port", str(self.port)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environ | self._settings,
                cwd=ROOT,
            )
        self._process = process
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            line = await process.stdout.readline()
        if b"listening" not in line:
            await process.wait()
            last = self.log.read_text().strip().splitlines()[-1:]
            self._broken("start", f"{self.name} ended at its start with status {process.returncode}: {last}")
            return False
        self.expected_down = False
        self._history.add(Started(time.monotonic() - self._began, self.name, self.life))
        self._watching = asyncio.create_task(self._watch(process))
        return True

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        if not self.expected_down:
            self._broken("exit", f"{self.name} ended by itself with status {status}")

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)  # Popen.send_signal would reap it behind the loop

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int | None:
        """SIGTERM; its exit status, None if it had to be killed."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int | None:
        if self._process is None:
            return None
        self.expected_down = True
        self.send(number)
        self.send(signal.SIGCONT)
        status: int | None
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                status = await self._process.wait()
        except TimeoutError:
            self._broken("exit", f"{self.name} did not end within {LEAVE_SECONDS:g} s of {number.name}")
            self.send(signal.SIGKILL)
            await self._process.wait()
            status = None
        if self._watching is not None:
            await self._watching
        with contextlib.suppress(AttributeError):
            self._process._transport.close()  # type: ignore[attr-defined]  # or it warns when it is collected
        self._process = None
        return status

    async def ready(self, client: aiohttp.ClientSession) -> bool:
        try:
            async with client.get(self.url + "/readyz", timeout=aiohttp.ClientTimeout(total=5)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    def _broken(self, rule: str, text: str) -> None:
        self._history.add(Broken(time.monotonic() - self._began, rule, text))

    def suspect_lines(self) -> list[str]:
        """Lines of its log that no fault from outside excuses."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if any(word in line for word in SUSPECT)]


class Redis:
    """One `redis-server` that keeps what it acknowledged over a kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
            *("--appendonly", "yes", "--appendfsync", "always", "--dir", str(self._folder)),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_SECONDS):
            while (await self._ask("PING")) != b"+PONG\r\n":
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            with contextlib.suppress(AttributeError):
                self._process._transport.close()  # type: ignore[attr-defined]  # or it warns when it is collected
            self._process = None

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    async def limit_memory(self, size_bytes: int) -> None:
        """Further writes are refused when it holds more than this; 0 is no limit."""
        await self._ask(f"CONFIG SET maxmemory {size_bytes}")

    def keep_copy(self, copy: Path) -> None:
        """What is on its disk now; it stands still meanwhile."""
        self.send(signal.SIGSTOP)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder, copy)
        self.send(signal.SIGCONT)

    def replace(self, copy: Path | None) -> None:
        """It is down; it comes back with what the copy has, or with nothing."""
        shutil.rmtree(self._folder)
        if copy is None:
            self._folder.mkdir()
        else:
            shutil.copytree(copy, self._folder)

    async def _ask(self, command: str) -> bytes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return b""
        try:
            writer.write(command.encode() + b"\r\n")
            return await reader.readline()
        except OSError:
            return b""
        finally:
            writer.transport.abort()
