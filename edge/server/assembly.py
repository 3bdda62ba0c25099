"""From a configuration to a running application: what is made of what, in the order it is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge.auth.tickets import Tickets
from edge.auth.tokens import Verifier
from edge.cluster.local import LocalNode, Nodes
from edge.config.load import DEFAULT_SOURCE, ConfigError, Sources
from edge.config.schema import Config, HooksSettings, TriggerSettings
from edge.config.texts import FROM_ENVIRONMENT, parse_redis_url
from edge.core.errors import StoreUnavailable
from edge.core.hub import Hub
from edge.core.idempotency import Receipts
from edge.core.limits import Limits
from edge.diagnose.observer import HubObserver, ProjectHistory
from edge.http import routes
from edge.http.context import Context
from edge.http.routes import Application
from edge.http.source import ClientAddresses
from edge.logs.setup import get_logger
from edge.server.event_loop import EventLoopDriver
from edge.server.memory import MemoryWatch
from edge.server.metrics import exposition
from edge.store.base import MemoryStore, Store, StoreUnusableError, new_epoch
from edge.supervisor import Supervisor, end
from edge.triggers.hooks import Hooks
from edge.triggers.job import StreamTarget, Target
from edge.triggers.readiness import Readiness
from edge.triggers.webhook import WebhookTarget

_log = get_logger("server")
_TURNS_TO_CLOSE = 5
_STORE_OPEN_SECONDS = 5.0
"""How long a start waits for the store before it listens without one."""
_STORE_RETRY_SECONDS = 1.0
_RELOADABLE_LIMITS = ("max_connections", "max_connections_per_project", "max_connections_per_address", "max_projects")


async def assemble(
    config: Config, sources: Sources | None = None, fail: Callable[[StoreUnusableError], None] | None = None
) -> tuple[Application, Context]:
    """The application for `config`, on the running loop: what it does in the background starts and ends with it.

    `fail` is called when the store turns out to be unusable after the application has started. Raises ConfigError,
    for settings that can't work, naming their origin from `sources`; its start raises StoreUnusableError.
    """
    sources, limits = sources or {}, config.limits
    supervisor = Supervisor()
    verifier = verifier_of(config, sources, supervisor)
    history = ProjectHistory()
    log = HubObserver(history, supervisor, access_log=config.server.access_log)
    driver = EventLoopDriver(supervisor)
    clock = driver.clock
    driver.each_second.append(log.flush_suppressed)
    hub = driver.hub = Hub(bounds(config), boot=new_epoch(), wake=driver.wake, observer=log)
    receipts = Receipts(
        limits.max_idempotency_keys, limits.idempotency_seconds, limits.project_share(limits.max_idempotency_keys)
    )
    store: Store
    nodes: Nodes
    if config.store.url.startswith("redis"):
        from edge.cluster.store import RedisStore  # noqa: PLC0415 - redis would double the time to start

        address = parse_redis_url(config.store.url)
        store = nodes = cluster = RedisStore(address, hub, receipts, clock, supervisor, limits)
        log.connection_came.append(cluster.connection_added)
        log.connection_left.append(cluster.connection_removed)
    else:
        store = store_of(config, hub, receipts, clock, supervisor)
        readiness = Readiness(hub, clock, limits.max_waiting, limits.project_share(limits.max_waiting), supervisor)
        tickets = Tickets(limits.max_tickets, limits.project_share(limits.max_tickets), clock)
        nodes = LocalNode(hub, readiness, tickets, clock, supervisor)
    log.connection_came.append(nodes.readiness.connection_added)
    target = target_of(config, sources, store, clock)
    context = Context(config, hub, nodes, target, store, receipts, history, clock, verifier, supervisor)
    hooks = _hooks_of(context, sources, log) if config.hooks.url is not None else None
    context.exposition = exposition(context, driver, hooks)
    app = routes.build(context)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        context.verifier.start()
        running = (
            await open_store(context, fail),
            supervisor.keep_running("tick", driver.run),
            supervisor.keep_running("memory", MemoryWatch(hub, clock).run),
        )
        if hooks is not None:
            hooks.start()
        yield
        if hooks is not None:
            await hooks.close()
        for task in running:
            await end(task)
        for connection in hub.streams:
            connection.abort()
        await context.target.close()
        await context.verifier.close()
        # The store closes last: what subscribers have not acknowledged is known only when their transports are closed.
        for _ in range(_TURNS_TO_CLOSE):
            await asyncio.sleep(0)
        await store.close()

    app.lifespan = lifespan
    return app, context


async def open_store(context: Context, fail: Callable[[StoreUnusableError], None] | None) -> asyncio.Task[None]:
    """Open the store, again and again until it opens; returns the task that does. Waits for it to succeed or fail
    once, but not for long: a disk that hangs must show in `/readyz`. Raises StoreUnusableError.
    """
    context.opening = StoreUnavailable("The store is being opened; try again soon.")
    tried: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open_until_it_opens() -> None:
        while context.opening is not None:
            try:
                await context.store.open()
                context.opening = None
            except StoreUnavailable as error:
                if context.opening is None or context.opening.detail != error.detail:
                    _log.error("store_not_opened", error=error.detail, retry_seconds=_STORE_RETRY_SECONDS)
                context.opening = error
            except StoreUnusableError as error:
                if not tried.done():
                    tried.set_exception(error)
                elif fail is not None:
                    fail(error)
                return
            if not tried.done():
                tried.set_result(None)
            if context.opening is not None:
                await asyncio.sleep(_STORE_RETRY_SECONDS)

    task = context.supervisor.keep_running("store_open", open_until_it_opens)
    await asyncio.wait((tried,), timeout=_STORE_OPEN_SECONDS)
    if not tried.done():
        tried.set_result(None)
    tried.result()
    return task


def apply_settings(context: Context, config: Config, verifier: Verifier, target: Target) -> None:
    """Replace what `config` changes, while streams stay open. Raises nothing."""
    before, limits = context.config, config.limits
    context.config = config
    context.client_addresses = ClientAddresses(config.server.trusted_proxies)
    hub_limits = context.hub.limits
    for name in _RELOADABLE_LIMITS:
        setattr(hub_limits, name, getattr(limits, name))
    tickets, readiness, receipts = context.nodes.tickets, context.readiness, context.receipts
    tickets.max_tickets, tickets.max_per_project = limits.max_tickets, limits.project_share(limits.max_tickets)
    readiness.max_waiting, readiness.max_per_project = limits.max_waiting, limits.project_share(limits.max_waiting)
    receipts.max_keys, receipts.keep_seconds = limits.max_idempotency_keys, limits.idempotency_seconds
    receipts.max_keys_per_project = limits.project_share(limits.max_idempotency_keys)
    if config.auth != before.auth:
        old_verifier, context.verifier = context.verifier, verifier
        verifier.start()
        context.supervisor.start("reload", old_verifier.close())
    if config.trigger != before.trigger:
        old_target, context.target = context.target, target
        context.targets.append(target)
        context.supervisor.start("reload", _close_when_idle(old_target, context.running))
    for callback in context.on_reload:
        callback(config)
    context.openapi = None


async def _close_when_idle(target: Target, running: Collection[asyncio.Task[Any]]) -> None:
    """Close `target` when the jobs that may go to it have been dispatched."""
    if running:
        await asyncio.wait(running)
    await target.close()


def bounds(config: Config) -> Limits:
    """The core's limits, as configured."""
    sections = (config.ring, config.limits, config.stream)
    fields = {name: getattr(one, name) for one in sections for name in Limits.__struct_fields__ if hasattr(one, name)}
    return Limits(**fields)


def store_of(config: Config, hub: Hub, receipts: Receipts, clock: Callable[[], float], supervisor: Supervisor) -> Store:
    """Where history lives, by the scheme of `store.url`."""
    scheme, _, path = config.store.url.partition(":")
    if scheme == "memory":
        return MemoryStore(hub, receipts, clock)
    from edge.store.sqlite import SqliteStore  # noqa: PLC0415 - not in each start

    return SqliteStore(
        hub,
        receipts,
        clock,
        Path(path),
        commit=config.store.durability == "commit",
        flush_seconds=config.store.flush_ms / 1000,
        supervisor=supervisor,
    )


def verifier_of(config: Config, sources: Sources, supervisor: Supervisor) -> Verifier:
    """Checks tokens. Raises ConfigError."""
    keys = config.auth.jwt_jwks_url
    proxy = None if keys is None else proxy_for(keys, config.server.outbound_proxy)
    try:
        return Verifier(config.auth, supervisor, proxy)
    except ValueError as error:
        raise ConfigError("auth.jwt_key", sources.get("auth.jwt_key", DEFAULT_SOURCE), str(error)) from None


def target_of(config: Config, sources: Sources, store: Store, clock: Callable[[], float]) -> Target:
    """Where triggered jobs go: the configured webhook, or the project's own stream. Raises ConfigError."""
    trigger = config.trigger
    if trigger.url is None:
        return StreamTarget(store, clock)
    options = {"format": trigger.format, "timeout_seconds": trigger.timeout_seconds, "retries": trigger.retries}
    return _webhook("trigger", trigger, config, sources, **options)


def _webhook(
    section: str, settings: TriggerSettings | HooksSettings, config: Config, sources: Sources, **options: Any
) -> WebhookTarget:
    assert settings.url is not None
    proxy = proxy_for(settings.url, config.server.outbound_proxy)
    try:
        return WebhookTarget(settings.url, secrets=settings.secret, proxy=proxy, **options)
    except ValueError as error:
        raise ConfigError(f"{section}.url", sources.get(f"{section}.url", DEFAULT_SOURCE), str(error)) from None


def proxy_for(url: str, outbound_proxy: str | None) -> str | None:
    """The proxy through which `url` is reached, None for none. The environment (on macOS the system) is read only where
    `server.outbound_proxy` says so.
    """
    if outbound_proxy != FROM_ENVIRONMENT:
        return outbound_proxy
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - only this needs it

    target = urlsplit(url)
    if proxy_bypass(target.netloc.rpartition("@")[2]):  # NO_PROXY
        return None
    return getproxies().get(target.scheme)


def _hooks_of(context: Context, sources: Sources, log: HubObserver) -> Hooks:
    """What reports to `hooks.url`. Raises ConfigError."""
    settings = context.config.hooks
    hooks = context.nodes.hooks(_webhook("hooks", settings, context.config, sources), settings.grace_seconds)
    log.connection_came.append(hooks.connection_added)
    log.connection_left.append(hooks.connection_removed)
    log.missed.append(hooks.event_missed)
    log.dropped.append(hooks.project_dropped)
    return hooks
