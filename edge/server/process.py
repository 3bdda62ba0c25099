"""The life of one process, top to bottom: sockets, event loop, serving, reloading, shutting down.

Invariant: the process ends within `server.drain_seconds` + 1 of the first signal, with status 0, whatever its clients
do. Before that it ends by itself only where starting again can't help.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass

from aiohttp import http_parser

from edge import __version__
from edge.config.load import DEFAULT_SOURCE, ConfigError, Sources, check, warnings
from edge.config.schema import KEYS, Config, reloadable, replaced, value_of
from edge.http.context import Context
from edge.http.routes import metrics_app
from edge.logs.setup import configure, get_logger, set_level
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import apply_settings, assemble, target_of, verifier_of
from edge.server.listening import (
    BACKLOG,
    close,
    listening,
    load_certificate,
    refuse_exposure,
    tls_context,
    urls,
    with_real_address,
)
from edge.server.systemd import Notifier, inherited_sockets
from edge.store.base import StoreUnusableError
from edge.supervisor import end

try:
    from uvloop import run
except ModuleNotFoundError:  # it doesn't exist everywhere
    from asyncio import run  # type: ignore[assignment]  # uvloop's has options that nothing here uses

_log = get_logger("server")
GC_THRESHOLDS = (10_000, 10, 100)
"""A full collection holds the loop for 50 ms at 10,000 streams. The hub leaves few cycles behind: a full collection
after 100 middle ones is soon enough (`make soak` shows it), and no burst of subscribers causes one.
"""
_LAST_MOMENT_SECONDS = 0.25
_STOP_MARGIN_SECONDS = 5.0
"""How much longer than the drain systemd waits: a busy machine takes its time to end a process."""
_FILE_LIMITS = (1 << 20, 1 << 16, 10_240)
_TLS_KEYS = ("server.tls_cert", "server.tls_key")

Load = Callable[[], tuple[Config, Sources]]
"""Reads the configuration. Raises ConfigError."""


def serve(load: Load) -> int:
    """Serve until a signal ends the process; returns the exit status.

    Raises:
        ConfigError: a configuration that can't work, found now or when it is used.
        CantListenError: the address can't be listened on.
        OSError: systemd handed over something else than listening sockets.
    """
    config, sources = load()
    configure(config.server.log_format, config.server.log_level)
    require_c_parser()
    raise_file_limit()
    _warn(config)
    with ExitStack() as stack:
        notifier = stack.enter_context(closing(Notifier(os.environ)))
        sockets = inherited_sockets(os.environ)
        stack.callback(close, sockets)
        started_with = config
        if sockets:
            config = with_real_address(config, sockets)
        else:
            server = config.server
            sockets = stack.enter_context(
                listening(server.host, server.port, unix_mode=server.unix_mode, unix_group=server.unix_group)
            )
        refuse_exposure(config, sources, sockets, "server.host")
        metrics_sockets: list[socket.socket] = []
        if config.metrics.port is not None:
            metrics_sockets = stack.enter_context(listening(config.metrics.host, config.metrics.port))
            refuse_exposure(config, sources, metrics_sockets, "metrics.host")
        tls = tls_context(config, sources)
        process = Process(config, load, started_with, sockets, metrics_sockets, tls, notifier)
        try:
            return run(process.live(sources))
        except StoreUnusableError as error:
            raise ConfigError("store.url", sources.get("store.url", DEFAULT_SOURCE), str(error)) from None


def _warn(config: Config) -> None:
    for key, text in warnings(config):
        _log.warning("config_warning", key=key, problem=text)


@dataclass
class Process:
    """What one process has, from its start to its end."""

    config: Config
    load: Load
    started_with: Config
    sockets: list[socket.socket]
    metrics_sockets: list[socket.socket]
    tls: ssl.SSLContext | None
    notifier: Notifier
    _reload_wanted: bool = False
    _reloading: asyncio.Task[None] | None = None

    async def live(self, sources: Sources) -> int:
        """Serve, then shut down. Returns the exit status. Raises ConfigError, and StoreUnusableError."""
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        app, context = await assemble(self.config, sources, self._fail)
        self._on_signals(context)
        runner = HubRunner(app, shutdown_timeout_seconds=_LAST_MOMENT_SECONDS)
        await runner.setup()
        metrics_runner = HubRunner(metrics_app(context), shutdown_timeout_seconds=_LAST_MOMENT_SECONDS)
        await metrics_runner.setup()
        for one, sockets in ((runner, self.sockets), (metrics_runner, self.metrics_sockets)):
            for sock in sockets:
                await one.listen_on(sock, backlog=BACKLOG, tls=self.tls)
        # What lives from here to the end needs no collecting: the collector looks only at what comes later.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._announce()
        if not self.notifier.ready(status_line(context)):
            _log.warning("systemd_not_notified", consequence="systemd ends this service after TimeoutStartSec=")
        attending = context.supervisor.keep_running(
            "systemd", lambda: self.notifier.attend(lambda: status_line(context))
        )
        await asyncio.wait((self._stopping,))
        self.notifier.stopping("Draining", self.config.server.drain_seconds + _STOP_MARGIN_SECONDS)
        await self._shut_down(runner, context)
        # To the last moment Prometheus can see the hub drain.
        await metrics_runner.cleanup()
        await end(attending)
        self._stopping.result()
        return 0

    def _fail(self, error: StoreUnusableError) -> None:
        """End the process: starting again can't help."""
        if not self._stopping.done():
            self._stopping.set_exception(error)

    def _on_signals(self, context: Context) -> None:
        """SIGTERM shuts down, and may come twice (a parent process and systemd may both send it); a second Ctrl-C ends
        the process at once; SIGHUP reads the configuration again. Hang-ups that come meanwhile are one more reload.
        """
        loop = asyncio.get_running_loop()

        def terminate() -> None:
            if not self._stopping.done():
                self._stopping.set_result(None)

        def interrupt() -> None:
            if self._stopping.done():
                # Back to what the system does with it, which ends the process.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.raise_signal(signal.SIGINT)
            terminate()

        def hang_up() -> None:
            self.notifier.reloading()
            self._reload_wanted = True
            if self._reloading is None or self._reloading.done():
                self._reloading = context.supervisor.start("reload", self._reload_while_wanted(context))

        loop.add_signal_handler(signal.SIGTERM, terminate)
        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGHUP, hang_up)

    async def _reload_while_wanted(self, context: Context) -> None:
        try:
            while self._reload_wanted:
                self._reload_wanted = False
                await self._reload(context)
        finally:
            self.notifier.ready(status_line(context))

    async def _reload(self, context: Context) -> None:
        """Read the configuration again, and apply what can change while streams stay open.

        Invariant: a configuration that can't work changes nothing. Everything is read and made before anything is
        replaced, and replacing raises nothing.
        """
        before = context.config
        try:
            new, sources = await asyncio.to_thread(self.load)
            # While a hub listens, TLS neither begins nor ends.
            fixed = _TLS_KEYS if self.tls is None or new.server.tls_cert is None else ()
            reloaded = [key for key in KEYS if reloadable(key) and key not in fixed]
            config = replaced(before, {key: value_of(new, key) for key in reloaded})
            check(config, sources)
            refuse_exposure(config, sources, self.sockets, "server.host")
            refuse_exposure(config, sources, self.metrics_sockets, "metrics.host")
            verifier = verifier_of(config, sources, context.supervisor)
            target = target_of(config, sources, context.store, context.clock)
            if self.tls is not None:
                # First into a context of its own: half a change would be worse than none.
                await asyncio.to_thread(tls_context, config, sources)
                load_certificate(self.tls, config, sources)
        except ConfigError as error:
            _log.error("config_not_reloaded", problem=str(error), consequence="the settings in use stay")
            return
        set_level(config.server.log_level)
        apply_settings(context, config, verifier, target)
        _warn(config)
        changed = [key for key in KEYS if value_of(config, key) != value_of(before, key)]
        restart_needed = [
            key for key in KEYS if key not in reloaded and value_of(new, key) != value_of(self.started_with, key)
        ]
        certificate = config.server.tls_cert
        _log.info("config_reloaded", changed=changed, restart_needed=restart_needed, certificate=certificate)

    async def _shut_down(self, runner: HubRunner, context: Context) -> None:
        loop = asyncio.get_running_loop()
        drain_seconds = self.config.server.drain_seconds
        deadline = loop.time() + drain_seconds
        _log.info("draining", connections=len(context.hub.connections), drain_seconds=drain_seconds)
        # 1. No new connections: listening ends.
        await runner.stop_listening()
        # 2. Every waiting request is answered, every stream gets `edge.closing` and ends.
        context.drain()
        # 3. What has begun may end: responses in progress, jobs at their target, streams with a full buffer.
        while (context.hub.streams or context.running) and loop.time() < deadline:  # noqa: ASYNC110 - two sets
            await asyncio.sleep(0.01)
        # 4. The rest has had its time.
        aborted = len(context.hub.streams)
        for connection in context.hub.streams:
            connection.abort()
        for task in context.running:
            task.cancel()
        await runner.cleanup()
        _log.info("stopped", connections_aborted=aborted)

    def _announce(self) -> None:
        found = urls(self.sockets, tls=self.tls is not None)
        server = self.config.server
        page = {"page": f"{found[0]}{server.base_path or ''}/"} if server.page and "://" in found[0] else {}
        _log.info("listening", urls=found, **page, version=__version__)
        if self.metrics_sockets:
            _log.info("metrics_listening", urls=urls(self.metrics_sockets, tls=self.tls is not None))
        if sys.stdout is not None:
            sys.stdout.write(f"edge: listening on {found[0]}\n")
            sys.stdout.flush()


def status_line(context: Context) -> str:
    """What `systemctl status` shows."""
    hub = context.hub
    misses = hub.counters.misses
    store = "" if context.store_problem is None else "store unavailable, "
    return (
        f"{store}{len(hub.connections)} connections, {len(hub.projects)} projects, "
        f"{misses.misses} misses ({misses.pending} pending, {misses.lost} lost)"
    )


def require_c_parser() -> None:
    """Raise ConfigError unless aiohttp reads requests with its C parser.

    Without a compiled wheel it falls back to one in Python, in which most of its request smuggling flaws were found,
    and on which none of what tests/security says of malformed requests has been tried.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError(
            "aiohttp",
            "this installation",
            "its C parser is missing: install aiohttp from a wheel, and unset AIOHTTP_NO_EXTENSIONS",
        )


def raise_file_limit() -> None:
    """Raise the soft limit on file descriptors to the hard one; each stream takes one.

    macOS refuses a hard limit that is infinite (`kern.maxfilesperproc` bounds it): then the most of some round numbers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, *_FILE_LIMITS):
        if wanted == soft or (soft != resource.RLIM_INFINITY and wanted != hard and wanted <= soft):
            return
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            _log.info("file_limit_raised", before=soft, now=wanted)
            return
    _log.warning("file_limit_not_raised", limit=soft)
