"""The connection to Redis: its keys and channels, its scripts, and how its errors are reported.

Each script in `scripts/` is one atomic step. The names of keys and channels are made here and nowhere else. All that
depends on redis-py beyond its documentation is in this file, with a test each in tests/cluster/test_client.py.

Invariant: every error is a StoreUnavailable, at most `ANSWER_SECONDS` later. `problem` says why Redis takes no writes,
until it does again. While it is unreachable only heartbeats try it; other requests are refused at once.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo

from edge.config.texts import RedisAddress
from edge.core.errors import StoreUnavailable
from edge.logs.setup import LogDeduplicator, get_logger

_log = get_logger("store")
ANSWER_SECONDS = 5.0
"""How long Redis may take to answer, the wait for a free connection included: what a cut cable costs a publisher."""
NODE_HEARTBEAT_SECONDS = 1.0
NODE_TTL_SECONDS = 3.0
"""A node without a heartbeat for this long is gone, and its connections no longer count."""
_CONNECT_SECONDS = 2.0
"""A lost SYN is sent again after one second."""
_MAX_CONNECTIONS = 8
_LOG_PERIOD_SECONDS = 60.0

_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        # Or data that was never acknowledged arrives once the cable is mended, long after the publisher got a 503.
        ("TCP_USER_TIMEOUT", int(ANSWER_SECONDS * 1000)),
    )
    if hasattr(socket, name)
}

BROKEN = (exceptions.RedisError, OSError, RuntimeError)
"""What a broken connection raises. uvloop raises RuntimeError on a write to a closed one (asyncio is silent)."""
_UNREACHABLE = (exceptions.ConnectionError, OSError, exceptions.TimeoutError, RuntimeError)
_REFUSED = (exceptions.OutOfMemoryError, exceptions.ReadOnlyError, exceptions.NoPermissionError)
_SCRIPT_REFUSED = "The user executing the script can't"
_WRITES_REFUSED = ("NOREPLICAS", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", _SCRIPT_REFUSED)

Call = tuple[str, list[Any]]
"""A script's name and its arguments."""


class Keys:
    """The names of keys under one prefix, and of channels. scripts/common.lua says what is in them.

    A project's keys share a hash tag. Pub/sub knows no databases, so the names of channels carry it; in database 0 they
    are those of version 0.1.
    """

    def __init__(self, prefix: str, database: int) -> None:
        self.prefix = prefix
        self.channels = f"{prefix}@{database}:" if database else prefix
        self.nodes, self.projects, self.hooks = f"{prefix}nodes", f"{prefix}projects", f"{prefix}hooks"
        self.pending, self.aging, self.totals = f"{prefix}pending", f"{prefix}aging", f"{prefix}totals"
        self.questions = f"{self.channels}asks"
        """The channel of questions to all nodes."""

    def of(self, project: str, *kinds: str) -> list[str]:
        return [f"{self.prefix}{{{project}}}:{kind}" for kind in kinds]

    def channel(self, project: str) -> str:
        return f"{self.channels}{{{project}}}"

    def project(self, channel: str) -> str:
        """The inverse of `channel`."""
        return channel.partition("{")[2][:-1]

    def inbox(self, node: str) -> str:
        """The channel of messages to one node."""
        return f"{self.channels}node:{node}"


class RedisClient:
    """At most `_MAX_CONNECTIONS` connections to one Redis, and one for subscriptions.

    `constants` are what scripts know besides the names of keys, and the same on all nodes. `node` is this one's name.
    """

    def __init__(self, address: RedisAddress, **constants: float) -> None:
        self.address = address
        self.node = secrets.token_hex(6)
        self.keys = Keys(address.prefix, address.database)
        self._constants = {**constants, "TTL_SECONDS": NODE_TTL_SECONDS}
        self._client = _connect(address, ANSWER_SECONDS)
        # Silence is normal for a subscriber; redis-py takes the socket's timeout for the longest silence.
        self._subscriber = _connect(address, None)
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._texts: dict[str, str] = {}
        self._shas: dict[str, str] = {}
        self.problem: StoreUnavailable | None = None
        self.errors = 0
        self.ahead_seconds = 0.0
        """How far Redis's clock is ahead of the hub's, as of the last heartbeat."""
        self.unreachable = False
        """The last exchange got no answer."""
        self._logged_problem = False
        self._deduplicator: LogDeduplicator[str] = LogDeduplicator(period_seconds=_LOG_PERIOD_SECONDS, max_keys=16)

    async def open(self) -> None:
        """Read the scripts."""
        self._texts = await asyncio.to_thread(_read_scripts)
        self._shas = dict.fromkeys(self._texts, "0" * 40)  # not loaded

    async def run(self, script: str, *args: Any, probing: bool = False) -> Any:
        """Run one script. Raises StoreUnavailable."""
        (answer,) = await self.run_all([(script, list(args))], probing=probing)
        if isinstance(answer, StoreUnavailable):
            raise answer
        return answer

    async def run_all(self, calls: list[Call], *, probing: bool = False, together: bool = False) -> list[Any]:
        """Run scripts in one round trip; for each its result, or its StoreUnavailable. Raises StoreUnavailable.

        `together`: in one transaction, in which either all run or none does.
        """
        async with self.use(probing=probing) as client:
            answers = await self._send(client, calls, together=together)
            unknown = [place for place, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)]
            if unknown:
                await self._load(client)
                again = await self._send(client, [calls[place] for place in unknown], together=together)
                for place, answer in zip(unknown, again, strict=True):
                    answers[place] = answer
        return [self.failed(answer) if isinstance(answer, exceptions.RedisError) else answer for answer in answers]

    async def _send(self, client: redis.asyncio.Redis, calls: list[Call], *, together: bool) -> list[Any]:
        async with client.pipeline(transaction=together) as pipeline:
            for script, args in calls:
                pipeline.evalsha(self._shas[script], 0, *args)
            return list(await pipeline.execute(raise_on_error=False))

    async def _load(self, client: redis.asyncio.Redis) -> None:
        """Load the scripts. They name the Redis process, so that those of an earlier process are never used in it."""
        loaded_into = None
        names = f"local PREFIX, CHANNELS = '{self.keys.prefix}', '{self.keys.channels}'\n"
        lines = names + "".join(f"local {name} = {value}\n" for name, value in self._constants.items())
        while (run := await _run_id(client)) != loaded_into:
            loaded_into = run
            constants = f"local RUN = '{run}'\n{lines}"
            self._shas = {name: await client.script_load(constants + text) for name, text in self._texts.items()}

    @asynccontextmanager
    async def use(self, *, probing: bool = False) -> AsyncIterator[redis.asyncio.Redis]:
        """The client, for one exchange. Raises StoreUnavailable: at once where Redis is known to be unreachable, unless
        this is `probing` whether it still is.
        """
        if not probing:
            self.check()
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._slots:
                yield self._client
        except BROKEN as error:
            self.unreachable = isinstance(error, _UNREACHABLE)
            raise self.failed(error) from error
        if self.unreachable:
            self.unreachable = False
            self.recovered()

    def check(self) -> None:
        """Raise StoreUnavailable where Redis is known to be unreachable."""
        if self.unreachable and self.problem is not None:
            raise StoreUnavailable(self.problem.detail)

    def subscription(self) -> PubSub:
        return self._subscriber.pubsub()

    @staticmethod
    async def next_message(pubsub: PubSub) -> dict[str, Any]:
        """Wait for a message, for ever. Raises one of `BROKEN`."""
        message: dict[str, Any] | None = await pubsub.get_message(timeout=None)
        if message is None:
            # redis-py takes the kernel's ETIMEDOUT for its own timeout, and returns None at once, again and again.
            raise ConnectionError("the kernel gave the connection up")
        return message

    def failed(self, error: Exception) -> StoreUnavailable:
        """As `explain`; a `problem` from now on where Redis refuses every write, and not just this one."""
        refusal = self.explain(error)
        if isinstance(error, (*_UNREACHABLE, *_REFUSED)) or str(error).startswith(_WRITES_REFUSED):
            self.problem = refusal
        return refusal

    def explain(self, error: Exception) -> StoreUnavailable:
        """Count and log an error; the refusal to raise for it."""
        self.errors += 1
        refusal = StoreUnavailable(f"Redis {_explain(error, self.address)}. Nothing was stored.")
        if (suppressed := self._deduplicator.admit(refusal.detail, time.monotonic())) is not None:
            self._logged_problem = True
            text = f"{type(error).__name__}: {error}"
            _log.error("store_error", detail=refusal.detail, error=text, suppressed=suppressed)
        return refusal

    def recovered(self) -> None:
        """Redis takes writes."""
        self.problem = None
        if self._logged_problem:
            self._logged_problem = False
            _log.info("store_recovered")

    async def check_eviction(self) -> None:
        """Warn where Redis evicts keys when it is full. Raises StoreUnavailable."""
        async with self.use() as client:
            try:
                policy = (await client.info("memory")).get("maxmemory_policy", "noeviction")
            except exceptions.ResponseError:  # a user that may not ask
                return
        if policy != "noeviction":
            _log.warning(
                "redis_evicts",
                maxmemory_policy=policy,
                advice="set maxmemory-policy noeviction, or Redis drops history silently when it is full",
            )

    async def start_over(self) -> None:
        """Connect anew: after a break, idle connections are as dead as the one that was in use."""
        # A new pool, because `disconnect` on the one in use would close a connection that another task is just taking.
        old, self._client = self._client, _connect(self.address, ANSWER_SECONDS)
        await _close(old)

    async def close(self) -> None:
        await _close(self._client)
        await _close(self._subscriber)


async def _run_id(client: redis.asyncio.Redis) -> str:
    """Of the Redis process; empty for a user that may not ask."""
    try:
        return str((await client.info("server")).get("run_id", ""))
    except exceptions.ResponseError:
        return ""


_NO_PERMISSION = "does not permit this user all that edge needs: docs/scaling.md has the ACL"
_Kinds = tuple[type[BaseException], ...]
_SENTENCES: tuple[tuple[type[BaseException] | _Kinds | str, str], ...] = (
    (ssl.SSLCertVerificationError, "has a certificate that is not trusted: set ca=FILE in store.url, or SSL_CERT_FILE"),
    (ssl.SSLError, "does not speak TLS at this address: correct its port, or write redis:// for rediss://"),
    (socket.gaierror, "has a host name that can't be resolved: check store.url and DNS"),
    (ConnectionRefusedError, "refuses connections at this address: start it, or correct store.url"),
    (FileNotFoundError, "has no socket (or certificate) at this path: start it, or correct store.url"),
    (PermissionError, "has a socket that this user may not use: add the user to the socket's group"),
    (MasterNotFoundError, "has no primary that a Sentinel knows: check the service and the Sentinels in store.url"),
    (exceptions.AuthenticationError, "does not accept the user and password of store.url"),
    (exceptions.NoPermissionError, _NO_PERMISSION),
    (_SCRIPT_REFUSED, _NO_PERMISSION),
    (exceptions.OutOfMemoryError, "is full: raise its maxmemory, or lower ring.* and wait until events expire"),
    (exceptions.ReadOnlyError, "is a read-only replica: let store.url name the primary, or the Sentinels"),
    (exceptions.BusyLoadingError, "is still loading its data"),
    ((exceptions.TimeoutError, TimeoutError), f"did not answer within {ANSWER_SECONDS:g} s%s"),
    ("NOREPLICAS", "has fewer replicas in reach than its min-replicas-to-write"),
    ("MISCONF", "can't save its data (MISCONF): look at its disk and its log"),
)
"""By the type of an error or of one of its causes, or by how its text begins."""


def _explain(error: Exception, address: RedisAddress) -> str:
    """What is wrong and what to do; follows "Redis". Never the error's own text, which could hold a secret."""
    causes = list(_causes(error))
    for kind, sentence in _SENTENCES:
        if str(error).startswith(kind) if isinstance(kind, str) else any(isinstance(cause, kind) for cause in causes):
            # A server without TLS waits for the rest of what it takes for a command.
            return sentence.replace("%s", "; if it has no TLS, write redis:// for rediss://" if address.tls else "")
    if address.service and str(error).startswith("unknown command"):
        return "is not a Sentinel at this address: correct store.url"
    if isinstance(error, exceptions.ConnectionError) and not address.tls:
        return "closed the connection: look at its log; if it expects TLS, write rediss:// for redis://"
    return f"can't be used ({type(error).__name__}): look at its log"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _connect(address: RedisAddress, socket_timeout: float | None) -> redis.asyncio.Redis:
    """A client that never sends anything twice by itself: what got no answer may have been done."""
    options: dict[str, Any] = {
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": DriverInfo(lib_version="edge"),  # or each connection asks the package metadata, on disk
    }
    tls: dict[str, Any] = {"ssl_ca_certs": address.ca_file} if address.tls else {}
    tcp = options | {"socket_keepalive_options": _KEEPALIVE}
    login: dict[str, Any] = {"db": address.database, "username": address.username, "password": address.password}
    if address.path:
        return redis.asyncio.Redis(unix_socket_path=address.path, **options, **login)
    if address.service:
        to_sentinels = tcp | tls | {"ssl": address.tls, "password": address.sentinel_password}
        to_sentinels["socket_timeout"] = _CONNECT_SECONDS
        sentinel = Sentinel(address.hosts, sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call]
        client: redis.asyncio.Redis = sentinel.master_for(address.service, ssl=address.tls, **tcp, **tls, **login)
        return client
    ((host, port),) = address.hosts
    return redis.asyncio.Redis(host=host, port=port, ssl=address.tls, **tcp, **tls, **login)


async def _close(client: redis.asyncio.Redis) -> None:
    pool = client.connection_pool
    await client.aclose()
    if isinstance(pool, SentinelConnectionPool):
        await pool.sentinel_manager.aclose()


def _read_scripts() -> dict[str, str]:
    folder = resources.files("edge.cluster") / "scripts"
    texts = {path.name.removesuffix(".lua"): path.read_text() for path in folder.iterdir()}
    common = texts.pop("common")
    return {name: common + text for name, text in texts.items()}
