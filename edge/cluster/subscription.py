"""One subscription to Redis for all that a node wants to hear; it is made again after every break.

Invariant: no message ends it. One that can't be handled, a newer node's or nonsense from outside, is counted, and its
receiver learns that it missed something.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from redis.asyncio.client import PubSub

from edge.cluster.client import ANSWER_SECONDS, BROKEN, NODE_TTL_SECONDS, RedisClient
from edge.core.errors import StoreUnavailable
from edge.logs.setup import LogDeduplicator, get_logger
from edge.supervisor import Supervisor, end

_log = get_logger("store")
_RECONNECT_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
_LOG_PERIOD_SECONDS = 10.0
_CHANNELS_AT_ONCE = 512
_MESSAGES_A_TURN = 32
_NOT_UNDERSTOOD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Receiver(Protocol):
    def receive(self, channel: str, message: dict[str, Any]) -> None:
        """A message, as redis-py gives it."""

    def rejected(self, channel: str) -> None:
        """`receive` has raised."""


@dataclass(eq=False)
class Subscription:
    """`channels` gives what to subscribe to after a break."""

    _redis: RedisClient
    _clock: Callable[[], float]
    _supervisor: Supervisor
    _channels: Callable[[], list[str]]
    _receiver: Receiver
    _pubsub: PubSub | None = None
    _listening: asyncio.Task[None] | None = None
    rejected_messages: int = 0
    problem: StoreUnavailable | None = None
    """Why nothing is heard at the moment."""
    _unheard_seconds: float | None = None
    """Since when heartbeats of this node were published and not heard."""
    _deduplicator: LogDeduplicator[str] = field(
        default_factory=lambda: LogDeduplicator(period_seconds=_LOG_PERIOD_SECONDS, max_keys=16)
    )

    async def open(self) -> None:
        with suppress(StoreUnavailable):  # then the listener tries again
            await self._connect()
        self._listening = self._supervisor.keep_running("redis_listener", self._listen)

    async def close(self) -> None:
        await end(self._listening)
        await self._disconnect()

    def check(self) -> None:
        """Raise StoreUnavailable where nothing is heard."""
        self._redis.check()
        if self.problem is not None:
            raise StoreUnavailable(self.problem.detail)

    async def add(self, channel: str) -> None:
        """Raises StoreUnavailable, or one of `BROKEN`."""
        self.check()
        assert self._pubsub is not None, "no subscription, and no problem"
        await self._pubsub.subscribe(channel)

    async def remove(self, channel: str) -> None:
        if self._pubsub is not None:
            with suppress(*BROKEN):  # a broken connection has no subscriptions
                await self._pubsub.unsubscribe(channel)

    async def _connect(self) -> None:
        pubsub = self._redis.subscription()
        try:
            channels = self._channels()
            for at in range(0, len(channels), _CHANNELS_AT_ONCE):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await pubsub.subscribe(*channels[at : at + _CHANNELS_AT_ONCE])
                await asyncio.sleep(0)
        except BROKEN as error:
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            self.problem = self._redis.explain(error)
            raise self.problem from error
        self._pubsub = pubsub
        self._unheard_seconds = None
        self.problem = None

    async def _disconnect(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with suppress(*BROKEN):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _listen(self) -> None:
        """Receive messages, and subscribe again after every break."""
        tries = messages = 0
        try:
            while True:
                if self._pubsub is None:
                    await asyncio.sleep(_RECONNECT_SECONDS[min(tries, len(_RECONNECT_SECONDS) - 1)])
                    tries += 1
                    with suppress(StoreUnavailable):
                        await self._connect()
                    continue
                try:
                    message = await self._redis.next_message(self._pubsub)
                except BROKEN as error:
                    self.problem = self._redis.explain(error)
                    await self._disconnect()
                else:
                    tries = 0
                    messages += 1
                    if messages % _MESSAGES_A_TURN == 0:  # redis-py doesn't wait while more of them are in its buffer
                        await asyncio.sleep(0)
                    self._unheard_seconds = None
                    channel = message["channel"].decode()
                    with self.guard(channel):
                        self._receiver.receive(channel, message)
        finally:
            self.problem = self.problem or StoreUnavailable("This node has no subscription in Redis; try again soon.")
            await self._disconnect()

    def heartbeat_published(self) -> None:
        """Subscribe again where not even this node's own heartbeat is heard: packets that a firewall drops raise no
        error.
        """
        if self._unheard_seconds is None:
            self._unheard_seconds = self._clock()
        elif self._clock() - self._unheard_seconds > NODE_TTL_SECONDS:
            self.break_off()

    def break_off(self) -> None:
        """The connection is useless: subscribe again."""
        connection = getattr(self._pubsub, "connection", None)
        if connection is not None:
            self._supervisor.start("redis_listener", connection.disconnect(nowait=True))

    @contextmanager
    def guard(self, channel: str) -> Iterator[None]:
        """Survive what the handling of a message raises."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the next message is handled
            self.rejected_messages += 1
            if (suppressed := self._deduplicator.admit(type(error).__name__, self._clock())) is not None:
                _log.error("message_rejected", channel=channel, error=str(error), suppressed=suppressed)
            if not isinstance(error, _NOT_UNDERSTOOD):
                self._supervisor.failed("redis_listener", error)
            self._receiver.rejected(channel)
