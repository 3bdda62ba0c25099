"""The way to Redis: its keys, its scripts, and what becomes of its errors.

Each script in `scripts/` is one atomic step; the names of keys are made here and nowhere else. Invariant: whatever goes
wrong on the way is a StoreUnavailable, at most `ANSWER_SECONDS` later, and `problem` says so until something has worked
again. Once Redis was found gone, only the node's beat looks for it: everybody else is refused at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from edge.core.errors import StoreUnavailable
from edge.logs.setup import get_logger

_log = get_logger("store")
_SCRIPTS = (
    "append",
    "beat",
    "claim",
    "delete",
    "follow",
    "fork",
    "gap_told",
    "intend",
    "orphaned",
    "readers",
    "recovered",
    "settle",
    "ticket",
    "use_ticket",
    "view",
)
ANSWER_SECONDS = 5.0
"""Redis has so long to answer, a free connection included: a cut cable costs a publisher this and no more."""
NODE_HEARTBEAT_SECONDS = 1.0
NODE_TTL_SECONDS = 3.0
"""A node that has not beaten for so long is gone; its readers don't count any more."""
_CONNECT_SECONDS = 2.0
"""A lost SYN is sent again after one second; whoever waits for longer waits for a cable that may be back."""
_CONNECTIONS = 8
_CANCEL_AGAIN_SECONDS = 0.1
_RETRY_AFTER_SECONDS = 1

_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        # What was sent and not acknowledged is given up: else it arrives when the cable is mended, long after the node
        # has said something else.
        ("TCP_USER_TIMEOUT", int(ANSWER_SECONDS * 1000)),
    )
    if hasattr(socket, name)
}

BROKEN = (RedisError, OSError, RuntimeError)
"""What comes out of a connection that has broken. RuntimeError is what uvloop says where something is written to one
that is closed already (asyncio writes nothing and says nothing)."""

Call = tuple[str, list[str], list[Any]]
"""A script's name, its keys and its arguments."""


class Keys:
    """The names of keys under one prefix. A project's keys share a hash tag."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes = f"{prefix}nodes"
        self.projects = f"{prefix}projects"
        self.pending = f"{prefix}pending"
        """How many misses are pending in each project, and under '' in all."""
        self.aging = f"{prefix}aging"
        """When each of those projects missed something last."""
        self.asks = f"{prefix}asks"
        """The channel on which a node asks all others for confirmed readers."""

    def of(self, project: str, *kinds: str) -> list[str]:
        return [f"{self.prefix}{{{project}}}:{kind}" for kind in kinds]

    def channel(self, project: str) -> str:
        return f"{self.prefix}{{{project}}}"

    def told(self, node: str) -> str:
        """The number of the last thing a node has told."""
        return f"{self.prefix}told:{node}"

    def node(self, node: str) -> str:
        """The set of projects a node follows, and the channel on which it is spoken to."""
        return f"{self.prefix}node:{node}"


class RedisClient:
    """A small pool of connections to one Redis."""

    def __init__(self, url: str, *, prefix: str = "edge:", answer_seconds: float = ANSWER_SECONDS) -> None:
        self.keys = Keys(prefix)
        self.answer_seconds = answer_seconds
        self.client = _client(url, answer_seconds, redis.asyncio.BlockingConnectionPool, _CONNECTIONS)
        # Silence is normal for a subscriber; redis-py takes the socket's time-out for the longest silence.
        self.listener = _client(url, None, redis.asyncio.ConnectionPool, 2)
        self._texts: dict[str, str] = {}
        self._shas: dict[str, str] = {}
        self.problem: StoreUnavailable | None = None
        self.errors = 0
        self._gone = False
        """The last one who asked got no answer."""

    async def open(self) -> None:
        """Read the scripts."""
        self._texts = await asyncio.to_thread(_read_scripts)
        self._shas = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self._texts.items()
        }

    async def run(self, name: str, keys: list[str], *args: Any) -> Any:
        """One script. Raises StoreUnavailable."""
        (answer,) = await self.run_all([(name, keys, list(args))])
        if isinstance(answer, RedisError):
            raise self.failed(answer)
        return answer

    async def run_all(self, calls: list[Call], *, probing: bool = False) -> list[Any]:
        """Many scripts in one round trip; for each what it returned, or its RedisError. Raises StoreUnavailable."""
        async with self.asking(probing=probing) as client:
            answers = await self._send(calls)
            unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                for text in self._texts.values():
                    await client.script_load(text)
                for place, answer in zip(unknown, await self._send([calls[place] for place in unknown]), strict=True):
                    answers[place] = answer
        return answers

    @asynccontextmanager
    async def asking(self, *, probing: bool = False) -> AsyncIterator[redis.asyncio.Redis]:
        """The client, for one question. Raises StoreUnavailable: at once where Redis is known to be gone, unless this
        is to find out whether it still is.
        """
        if not probing:
            self.check()
        try:
            async with asyncio.timeout(self.answer_seconds):
                yield self.client
        except BROKEN as error:
            self._gone = isinstance(error, (RedisConnectionError, OSError, RedisTimeoutError, RuntimeError))
            raise self.failed(error) from error
        self.worked()

    def check(self) -> None:
        """Raise StoreUnavailable where Redis is known to be gone."""
        if self._gone and self.problem is not None:
            raise self._refusal(self.problem.detail)

    async def _send(self, calls: Iterable[Call]) -> list[Any]:
        async with self.client.pipeline(transaction=False) as pipeline:
            for name, keys, args in calls:
                pipeline.evalsha(self._shas[name], len(keys), *keys, *args)
            return list(await pipeline.execute(raise_on_error=False))

    def failed(self, error: Exception) -> StoreUnavailable:
        """Note that Redis can't be used, and how to say so."""
        self.errors += 1
        refusal = self._refusal(
            f"Redis can't be used ({type(error).__name__}), so nothing published now could be kept; try again soon."
        )
        if self.problem is None:
            _log.error("store_error", error=f"{type(error).__name__}: {error}")
        self.problem = refusal
        return refusal

    @staticmethod
    def _refusal(detail: str) -> StoreUnavailable:
        return StoreUnavailable(detail, retry_after_seconds=_RETRY_AFTER_SECONDS)

    def worked(self) -> None:
        self._gone = False
        if self.problem is not None:
            self.problem = None
            _log.info("store_recovered")

    async def start_over(self) -> None:
        """Let go of connections that nobody uses: after a break they are as dead as the one that was in use."""
        # Not `pool.disconnect`: it waits, and who takes the connection meanwhile has it closed under his hands.
        for connection in list(self.client.connection_pool._available_connections):
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        await self.client.aclose()
        await self.listener.aclose()


async def end(task: asyncio.Task[None]) -> None:
    """Cancel `task` until it has ended. redis-py sends with `asyncio.wait_for`, which before Python 3.12 swallows a
    cancellation that comes when all is sent (measured: 9 of 1,500 that came in the milliseconds of a reconnect).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_CANCEL_AGAIN_SECONDS)


def _client(
    url: str, socket_timeout: float | None, pool: type[redis.asyncio.ConnectionPool], max_connections: int
) -> redis.asyncio.Redis:
    """A client that never sends anything twice by itself: what got no answer may have been done."""
    return redis.asyncio.Redis.from_pool(
        pool.from_url(
            url,
            socket_timeout=socket_timeout,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_keepalive_options=_KEEPALIVE,
            max_connections=max_connections,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=DriverInfo(lib_version="edge"),  # or each connection asks the package metadata, on disk
        )
    )


def _read_scripts() -> dict[str, str]:
    folder = resources.files("edge.cluster") / "scripts"
    common = (folder / "common.lua").read_text()
    return {name: common + (folder / f"{name}.lua").read_text() for name in _SCRIPTS}
