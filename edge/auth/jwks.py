"""The issuer's keys, fetched from `auth.jwt_jwks_url`.

Invariant: at most one fetch is under way, and none begins less than `COOLDOWN_SECONDS` after the last, whatever
tokens come in. Keys are looked up in memory; a request waits for a fetch only when it names a key that isn't known
yet, or when there are no keys to speak of. When the issuer is down, the keys it gave last stay good for a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import aiohttp
import msgspec

from edge.auth import keys
from edge.auth.keys import Key
from edge.core.errors import KeysUnavailable
from edge.logs.setup import get_logger
from edge.supervisor import Supervisor, end

REFRESH_SECONDS = 300.0
"""A key that was withdrawn is refused this much later."""
COOLDOWN_SECONDS = 10.0
STALE_SECONDS = 86_400.0
FETCH_SECONDS = 5.0
MAX_BYTES = 256 * 1024
_log = get_logger("auth")


class KeySet:
    """The keys at `url`. `clock` gives seconds; `generation` grows when the keys change."""

    def __init__(
        self, url: str, wanted: Collection[str], clock: Callable[[], float], supervisor: Supervisor, proxy: str | None
    ) -> None:
        self._proxy = proxy
        self._url = url
        self._wanted = wanted
        self._clock = clock
        self._supervisor = supervisor
        self._keys: list[Key] = []
        self._document: bytes | None = None
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self.generation = 0
        self.fetches = 0

    @property
    def fetching(self) -> bool:
        """Whether a fetch is under way."""
        return self._fetching is not None

    def start(self) -> None:
        """Fetch for the first time, in the background."""
        self._begin()

    async def close(self) -> None:
        await end(self._fetching)

    def refresh(self) -> None:
        """See to it that the keys are fresh; called for each token, waits for nothing."""
        if self._age_seconds() >= REFRESH_SECONDS:
            self._begin()

    async def find(self, kid: str | None, algorithm: str) -> list[Key]:
        """Keys a token that names `kid` may be signed with. Raises KeysUnavailable when there are none at all."""
        self.refresh()
        if self._age_seconds() >= STALE_SECONDS or not (found := self._fitting(kid, algorithm)):
            self._begin()
            if self._fetching is not None:
                # Not awaited itself: the fetch belongs to all who wait for it, and the supervisor reports its errors.
                await asyncio.wait((self._fetching,))
            found = self._fitting(kid, algorithm)
        if self._age_seconds() >= STALE_SECONDS:
            raise KeysUnavailable(
                "The keys that verify tokens are unavailable; the hub's log says why.",
                retry_after_seconds=COOLDOWN_SECONDS,
            )
        return found

    def _fitting(self, kid: str | None, algorithm: str) -> list[Key]:
        return [key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid in (kid, None))]

    def _age_seconds(self) -> float:
        return STALE_SECONDS if self._fetched_at is None else self._clock() - self._fetched_at

    def _begin(self) -> None:
        if self._fetching is not None:
            return
        if self._tried_at is not None and self._clock() - self._tried_at < COOLDOWN_SECONDS:
            return
        self._tried_at = self._clock()
        self._fetching = self._supervisor.start("jwks", self._fetch())
        self._fetching.add_done_callback(self._done)

    def _done(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        self.fetches += 1
        try:
            document = await self._read()
            found = keys.from_set(msgspec.json.decode(document), self._wanted)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            _log.warning("keys_not_fetched", reason=type(error).__name__, keys=len(self._keys))
            return
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            _log.warning("keys_not_fetched", reason=f"the answer {error}", keys=len(self._keys))
            return
        self._fetched_at = self._clock()
        if document != self._document:
            self._document, self._keys = document, found
            self.generation += 1
            _log.info("keys_fetched", keys=len(found))

    async def _read(self) -> bytes:
        """The document, bounded in time and size; nothing is followed to elsewhere."""
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        headers = {"User-Agent": "edge", "Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(
                timeout=timeout, headers=headers, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            ) as session,
            session.get(self._url, allow_redirects=False, proxy=self._proxy) as response,
        ):
            if response.status != 200:
                raise ValueError(f"has status {response.status}")
            body = bytearray()
            async for piece in response.content.iter_chunked(MAX_BYTES):
                body += piece
                if len(body) > MAX_BYTES:
                    raise ValueError(f"is longer than {MAX_BYTES} bytes")
            return bytes(body)
