"""From a configuration to a running application: what is made of what, in the order it is made."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edge.auth.tokens import Verifier
from edge.config.redis_url import parse_redis_url
from edge.config.schema import Config, value_of
from edge.core.hub import Hub, base36
from edge.core.idempotency import Receipts
from edge.core.limits import Limits
from edge.diagnose.history import ProjectHistory
from edge.diagnose.observer import HubObserver
from edge.http import routes
from edge.http.context import Context
from edge.http.routes import Application
from edge.metrics.busiest import BusiestProjects
from edge.metrics.collector import LIMITS, Exposition, Watched
from edge.server.event_loop import EventLoopDriver
from edge.store.base import Store
from edge.store.memory import MemoryStore
from edge.store.sqlite import SqliteStore
from edge.supervisor import Supervisor, end
from edge.triggers.job import Target
from edge.triggers.project_stream import StreamTarget
from edge.triggers.readiness import Readiness
from edge.triggers.webhook import WebhookTarget

if TYPE_CHECKING:  # redis is imported only where it is used: it would double the time to start
    from edge.cluster.readiness import ClusterReadiness
    from edge.cluster.store import RedisStore

_TURNS_TO_LEAVE = 5


async def assemble(config: Config) -> tuple[Application, Context]:
    """The application for `config`, on the running loop. Its beat starts and ends with it.

    Raises ValueError for a target that can't work, StoreUnavailable for a store that can't be read.
    """
    supervisor = Supervisor()
    verifier = Verifier(config.auth, supervisor)
    history = ProjectHistory()
    log = HubObserver(history, supervisor, access_log=config.server.access_log)
    driver = EventLoopDriver(supervisor)
    driver.each_second.append(log.flush_suppressed)
    hub = Hub(bounds(config), boot=new_boot(), wake=driver.wake, observer=log)
    driver.hub = hub
    receipts = Receipts(config.limits.max_idempotency_keys, config.limits.idempotency_seconds)
    here = Readiness(hub, driver.clock, config.limits.max_waiting, supervisor)
    readiness: Readiness | ClusterReadiness = here
    cluster = None
    if config.store.url.startswith("redis"):
        cluster = cluster_of(config, hub, driver, here, log, supervisor)
        readiness = cluster.readiness
    store = cluster if cluster is not None else store_of(config, hub, receipts, driver)
    log.connection_came.append(readiness.connection_added)
    await store.open()
    target = target_of(config, store, driver)
    context = Context(config, hub, readiness, target, store, receipts, history, driver.clock, verifier, supervisor)
    context.cluster = cluster
    context.exposition = Exposition(watched(context, driver))
    app = routes.build(context)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        verifier.start()
        ticking = supervisor.keep_running("tick", driver.run)
        yield
        await end(ticking)
        for connection in list(hub.connections.values()):
            connection.abort()
        await context.target.close()
        await verifier.close()
        # The store closes last: what the readers had not acknowledged is known when their transports are gone.
        for _ in range(_TURNS_TO_LEAVE):
            await asyncio.sleep(0)
        await store.close()

    app.lifespan = lifespan
    return app, context


def bounds(config: Config) -> Limits:
    """The core's limits, as configured."""
    ring, limits, stream = config.ring, config.limits, config.stream
    return Limits(
        max_events=ring.max_events,
        max_bytes=ring.max_bytes,
        max_age_seconds=ring.max_age_seconds,
        total_bytes=ring.total_bytes,
        max_connections=limits.max_connections,
        max_connections_per_project=limits.max_connections_per_project,
        max_connections_per_address=limits.max_connections_per_address,
        max_projects=limits.max_projects,
        heartbeat_seconds=stream.heartbeat_seconds,
        dead_after_seconds=stream.dead_after_seconds,
        retry_ms=stream.retry_ms,
    )


def store_of(config: Config, hub: Hub, receipts: Receipts, driver: EventLoopDriver) -> Store:
    """Where history lives, by the scheme of `store.url`."""
    scheme, _, path = config.store.url.partition(":")
    if scheme == "memory":
        return MemoryStore(hub)
    return SqliteStore(
        Path(path),
        hub,
        receipts,
        driver.clock,
        commit=config.store.durability == "commit",
        flush_seconds=config.store.flush_ms / 1000,
        keep_receipts_seconds=config.limits.idempotency_seconds,
    )


def cluster_of(
    config: Config,
    hub: Hub,
    driver: EventLoopDriver,
    readiness: Readiness,
    log: HubObserver,
    supervisor: Supervisor,
) -> RedisStore:
    """This node of several: the store they share, and what only all of them together know."""
    from edge.cluster.store import RedisStore  # noqa: PLC0415 - see the imports above

    store = RedisStore(
        parse_redis_url(config.store.url),
        hub,
        driver.clock,
        readiness,
        supervisor,
        new_epoch=new_boot,
        keep_receipts_seconds=config.limits.idempotency_seconds,
        max_tickets=config.limits.max_tickets,
        max_tickets_per_project=config.limits.project_share(config.limits.max_tickets),
    )
    log.connection_came.append(store.connection_added)
    log.connection_left.append(store.connection_removed)
    return store


def target_of(config: Config, store: Store, driver: EventLoopDriver) -> Target:
    """Where triggered jobs go: the configured webhook, or the project's own stream."""
    trigger = config.trigger
    if trigger.url is None:
        return StreamTarget(store, driver.clock, config.limits.max_event_bytes)
    return WebhookTarget(
        trigger.url,
        format=trigger.format,
        secret=trigger.secret,
        timeout_seconds=trigger.timeout_seconds,
        retries=trigger.retries,
    )


def watched(context: Context, driver: EventLoopDriver) -> Watched:
    """What `/metrics` shows."""
    config, target = context.config, context.target
    top = None
    if config.metrics.top_projects:
        top = BusiestProjects(context.hub, config.metrics.top_projects)
        driver.each_second.append(top.look)
    return Watched(
        clock=context.clock,
        hub=context.hub,
        triggers=context.triggers,
        receipts=context.receipts,
        waiting=lambda: context.readiness.waiting,
        webhook=lambda: (target.attempts, target.retries) if isinstance(target, WebhookTarget) else (0, 0),
        store=lambda: (context.store.problem is None, context.store.errors),
        rejected_messages=lambda: context.cluster.rejected_messages if context.cluster is not None else 0,
        task_failures=context.supervisor.failures,
        loop_lag_seconds=driver.lag_seconds,
        limits={key: cast(float, value_of(config, key)) for key in LIMITS},
        top=top,
    )


def new_boot() -> str:
    """A name for this life of the process, later ones sorting behind: milliseconds and a little chance, in base 36."""
    number = time.time_ns() // 1_000_000 * 36**3 + secrets.randbelow(36**3)
    return base36(number)
