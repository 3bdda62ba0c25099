"""From a configuration to a running application: what is made of what, in the order it is made."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aiohttp import web

from edge.auth.tokens import Verifier
from edge.config.schema import Config, value_of
from edge.core.hub import Hub, base36
from edge.core.idempotency import Receipts
from edge.core.limits import Bounds
from edge.diagnose.history import Chronicle
from edge.diagnose.observer import HubLog
from edge.http import routes as http_app
from edge.http.context import Service
from edge.metrics.busiest import TopProjects
from edge.metrics.collector import LIMITS, Exposition, Watched
from edge.server.event_loop import Pulse
from edge.store.base import Store
from edge.store.memory import MemoryStore
from edge.store.sqlite import SqliteStore
from edge.triggers.job import Target
from edge.triggers.project_stream import StreamTarget
from edge.triggers.readiness import Readiness
from edge.triggers.webhook import WebhookTarget

if TYPE_CHECKING:  # redis is imported only where it is used: it would double the time to start
    from edge.cluster.readiness import ClusterReadiness
    from edge.cluster.store import RedisStore

_TURNS_TO_LEAVE = 5


async def assemble(config: Config) -> tuple[web.Application, Service]:
    """The application for `config`, on the running loop. Its beat starts and ends with it.

    Raises ValueError for a target that can't work, StoreUnavailable for a store that can't be read.
    """
    verifier = Verifier(config.auth)
    chronicle = Chronicle()
    log = HubLog(chronicle, access_log=config.server.access_log)
    pulse = Pulse()
    pulse.each_second.append(log.tell_folded)
    hub = Hub(bounds(config), boot=new_boot(), wake=pulse.wake, observer=log)
    pulse.hub = hub
    receipts = Receipts(config.limits.max_idempotency_keys, config.limits.idempotency_seconds)
    here = Readiness(hub, pulse.clock, config.limits.max_waiting)
    readiness: Readiness | ClusterReadiness = here
    cluster = None
    if config.store.url.startswith("redis"):
        cluster, readiness = cluster_of(config, hub, pulse, here, log)
    store = cluster if cluster is not None else store_of(config, hub, receipts, pulse)
    log.connection_came.append(readiness.connection_added)
    await store.open()
    target = target_of(config, store, pulse)
    service = Service(config, hub, readiness, target, store, receipts, chronicle, pulse.clock, verifier)
    service.cluster = cluster
    service.exposition = Exposition(watched(service, pulse))
    app = http_app.build(service)

    async def life(_app: web.Application) -> AsyncIterator[None]:
        verifier.start()
        beating = asyncio.create_task(pulse.beat())
        yield
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        for connection in list(hub.connections.values()):
            connection.abort()
        await service.target.close()
        await verifier.close()
        # The store closes last: what the readers had not acknowledged is known when their transports are gone.
        for _ in range(_TURNS_TO_LEAVE):
            await asyncio.sleep(0)
        await store.close()

    app.cleanup_ctx.append(life)
    return app, service


def bounds(config: Config) -> Bounds:
    """The core's limits, as configured."""
    ring, limits, stream = config.ring, config.limits, config.stream
    return Bounds(
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


def store_of(config: Config, hub: Hub, receipts: Receipts, pulse: Pulse) -> Store:
    """Where history lives, by the scheme of `store.url`."""
    scheme, _, path = config.store.url.partition(":")
    if scheme == "memory":
        return MemoryStore(hub)
    return SqliteStore(
        Path(path),
        hub,
        receipts,
        pulse.clock,
        commit=config.store.durability == "commit",
        flush_seconds=config.store.flush_ms / 1000,
        keep_receipts_seconds=config.limits.idempotency_seconds,
    )


def cluster_of(
    config: Config, hub: Hub, pulse: Pulse, readiness: Readiness, log: HubLog
) -> tuple[RedisStore, ClusterReadiness]:
    """This node of several: the store they share, and what waits for readers on all of them."""
    from edge.cluster.readiness import ClusterReadiness  # noqa: PLC0415 - see the imports above
    from edge.cluster.store import RedisStore  # noqa: PLC0415

    store = RedisStore(
        config.store.url,
        hub,
        pulse.clock,
        new_epoch=new_boot,
        keep_receipts_seconds=config.limits.idempotency_seconds,
        max_tickets=config.limits.max_tickets,
    )
    log.connection_came.append(store.connection_came)
    log.connection_left.append(store.connection_left)
    return store, ClusterReadiness(readiness, store, pulse.clock)


def target_of(config: Config, store: Store, pulse: Pulse) -> Target:
    """Where triggered jobs go: the configured webhook, or the project's own stream."""
    trigger = config.trigger
    if trigger.url is None:
        return StreamTarget(store, pulse.clock, config.limits.max_event_bytes)
    return WebhookTarget(
        trigger.url,
        format=trigger.format,
        secret=trigger.secret,
        timeout_seconds=trigger.timeout_seconds,
        retries=trigger.retries,
    )


def watched(service: Service, pulse: Pulse) -> Watched:
    """What `/metrics` shows."""
    config, target = service.config, service.target
    top = None
    if config.metrics.top_projects:
        top = TopProjects(service.hub, config.metrics.top_projects)
        pulse.each_second.append(top.look)
    return Watched(
        hub=service.hub,
        triggers=service.triggers,
        receipts=service.receipts,
        waiting=lambda: service.readiness.waiting,
        webhook=lambda: (target.attempts, target.retries) if isinstance(target, WebhookTarget) else (0, 0),
        store=lambda: (service.store.problem is None, service.store.errors),
        loop_lag_seconds=pulse.lag_seconds,
        limits={key: cast(float, value_of(config, key)) for key in LIMITS},
        top=top,
    )


def new_boot() -> str:
    """A name for this life of the process, later ones sorting behind: milliseconds and a little chance, in base 36."""
    number = time.time_ns() // 1_000_000 * 36**3 + secrets.randbelow(36**3)
    return base36(number)
