"""The way to Redis: its keys, its scripts, and what becomes of its errors.

Each script in `scripts/` is one atomic step; the names of keys are made here and nowhere else. Invariant: whatever goes
wrong on the way is a StoreUnavailable, and `problem` says so until something has worked again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from importlib import resources
from typing import Any

import redis.asyncio
from redis.driver_info import DriverInfo
from redis.exceptions import NoScriptError, RedisError

from edge.core.errors import StoreUnavailable
from edge.log import get_logger

_log = get_logger("store")
_SCRIPTS = (
    "append",
    "beat",
    "claim",
    "delete",
    "follow",
    "intend",
    "join",
    "left",
    "recovered",
    "settle",
    "view",
)
_TIMEOUT_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 1

Call = tuple[str, list[str], list[Any]]
"""A script's name, its keys and its arguments."""


class Keys:
    """The names of keys under one prefix. A project's keys share a hash tag."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes = f"{prefix}nodes"
        self.projects = f"{prefix}projects"
        self.asks = f"{prefix}asks"
        """The channel on which a node asks all others for confirmed readers."""

    def of(self, project: str, *kinds: str) -> list[str]:
        return [f"{self.prefix}{{{project}}}:{kind}" for kind in kinds]

    def channel(self, project: str) -> str:
        return f"{self.prefix}{{{project}}}"

    def node(self, node: str) -> str:
        """The set of projects a node follows, and the channel on which it is spoken to."""
        return f"{self.prefix}node:{node}"


class Wire:
    """A small pool of connections to one Redis."""

    def __init__(self, url: str, *, prefix: str = "edge:", timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        self.keys = Keys(prefix)
        self.client = _client(url, socket_timeout=timeout_seconds, max_connections=8)
        # Silence is normal for a subscriber; redis-py takes the socket's time-out for the longest silence.
        self.listener = _client(url, socket_timeout=None, max_connections=2)
        self._texts: dict[str, str] = {}
        self._shas: dict[str, str] = {}
        self.problem: StoreUnavailable | None = None
        self.errors = 0

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

    async def run_all(self, calls: list[Call]) -> list[Any]:
        """Many scripts in one round trip; for each what it returned, or its RedisError. Raises StoreUnavailable."""
        try:
            answers = await self._send(calls)
            unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                for text in self._texts.values():
                    await self.client.script_load(text)
                for place, answer in zip(unknown, await self._send([calls[place] for place in unknown]), strict=True):
                    answers[place] = answer
        except (RedisError, OSError) as error:
            raise self.failed(error) from error
        self.worked()
        return answers

    async def _send(self, calls: Iterable[Call]) -> list[Any]:
        async with self.client.pipeline(transaction=False) as pipeline:
            for name, keys, args in calls:
                pipeline.evalsha(self._shas[name], len(keys), *keys, *args)
            return list(await pipeline.execute(raise_on_error=False))

    def failed(self, error: Exception) -> StoreUnavailable:
        """Note that Redis can't be used, and how to say so."""
        self.errors += 1
        refusal = StoreUnavailable(
            f"Redis can't be used ({type(error).__name__}), so nothing published now could be kept; try again soon.",
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        )
        if self.problem is None:
            _log.error("store_error", error=f"{type(error).__name__}: {error}")
        self.problem = refusal
        return refusal

    def worked(self) -> None:
        if self.problem is not None:
            self.problem = None
            _log.info("store_recovered")

    async def close(self) -> None:
        await self.client.aclose()
        await self.listener.aclose()


def _client(url: str, *, socket_timeout: float | None, max_connections: int) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=socket_timeout,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        max_connections=max_connections,
        protocol=2,
        driver_info=DriverInfo(lib_version="edge"),  # or each connection asks the package metadata, on disk
    )


def _read_scripts() -> dict[str, str]:
    folder = resources.files("edge.cluster") / "scripts"
    common = (folder / "common.lua").read_text()
    return {name: common + (folder / f"{name}.lua").read_text() for name in _SCRIPTS}
