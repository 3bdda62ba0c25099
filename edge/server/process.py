"""The life of one process, top to bottom: sockets, loop, serving, leaving.

Invariant: the process leaves within `server.drain_seconds` + 1 of the first signal, with status 0, whatever its
clients do.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import ipaddress
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from aiohttp import http_parser

from edge import __version__
from edge.auth.tokens import UnusableKey
from edge.config.load import ConfigError
from edge.config.schema import Config
from edge.config.validate import EXPOSED, exposed
from edge.core.errors import StoreUnavailable
from edge.core.hub import Hub
from edge.http.context import Context
from edge.http.routes import metrics_app
from edge.logs.setup import configure, get_logger
from edge.server.aiohttp_server import HubRunner
from edge.server.assembly import assemble
from edge.server.systemd import Notifier, inherited_sockets
from edge.supervisor import end

_log = get_logger("server")
GC_THRESHOLDS = (10_000, 10, 100)
"""Looking at everything holds the loop for 50 ms at 10,000 streams. Of what the hub makes, little is left in circles: a
whole look after 100 middle ones is soon enough (`make soak` shows it), and no storm of readers brings one about.
"""
BACKLOG = 4096
"""Connections that may wait to be accepted; a thousand clients that come back at once must not be refused."""
_LAST_MOMENT_SECONDS = 0.25
_STOP_MARGIN_SECONDS = 5.0
"""How much longer than the drain systemd shall wait: a busy machine takes its time to end a process."""


def serve(config: Config) -> int:
    """Serve until a signal says to leave; returns the exit status.

    Raises:
        ConfigError: what only shows when it is used: an unreadable certificate, a secret that can't sign.
        OSError: the address can't be listened on.
    """
    configure(config.server.log_format, config.server.log_level)
    require_c_parser()
    raise_file_limit()
    notifier = Notifier(os.environ)
    inherited = inherited_sockets(os.environ)
    sockets = inherited or listen(config.server.host, config.server.port)
    metrics_sockets: list[socket.socket] = []
    try:
        if config.metrics.port is not None:
            metrics_sockets = listen(config.metrics.host, config.metrics.port)
            refuse_to_stand_open(config, metrics_sockets, "metrics.host")
        if inherited:
            config = listening_where(config, inherited)
        refuse_to_stand_open(config, sockets)
        tls = tls_context(config)
        run = loop_runner()
        return run(_live(config, sockets, metrics_sockets, tls, notifier))
    finally:
        notifier.close()
        for sock in (*sockets, *metrics_sockets):
            sock.close()


async def _live(
    config: Config,
    sockets: list[socket.socket],
    metrics_sockets: list[socket.socket],
    tls: ssl.SSLContext | None,
    notifier: Notifier,
) -> int:
    try:
        app, context = await assemble(config)
    except StoreUnavailable as error:
        raise ConfigError("store.url", "configuration", error.detail) from None
    except UnusableKey as error:
        raise ConfigError("auth.jwt_key", "configuration", str(error)) from None
    except ValueError as error:
        raise ConfigError("trigger.secret", "configuration", str(error)) from None
    runner = HubRunner(app, shutdown_timeout_seconds=_LAST_MOMENT_SECONDS)
    await runner.setup()
    leave = asyncio.Event()
    _on_signals(leave)
    if tls is not None or notifier.asked:
        reload = functools.partial(_reload, config, tls, notifier, context.hub)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    metrics_runner = HubRunner(metrics_app(context), shutdown_timeout_seconds=_LAST_MOMENT_SECONDS)
    await metrics_runner.setup()
    for of, some in ((runner, sockets), (metrics_runner, metrics_sockets)):
        for sock in some:
            await of.listen_on(sock, backlog=BACKLOG, tls=tls)
    # What lives from here to the end needs no collecting: the collector looks only at what comes later.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    _announce(sockets, metrics_sockets, tls)
    if not notifier.ready(status_line(context.hub)):
        _log.warning("systemd_not_told", advice="it will end this service when TimeoutStartSec= is over")
    attending = context.supervisor.keep_running("systemd", lambda: notifier.attend(lambda: status_line(context.hub)))
    await leave.wait()
    notifier.stopping("Draining", config.server.drain_seconds + _STOP_MARGIN_SECONDS)
    await _leave(config, runner, context)
    # To the last moment Prometheus can see the hub leave.
    await metrics_runner.cleanup()
    await end(attending)
    return 0


async def _leave(config: Config, runner: HubRunner, context: Context) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + config.server.drain_seconds
    _log.info("draining", connections=len(context.hub.connections), drain_seconds=config.server.drain_seconds)
    # 1. Nobody new: listening ends.
    await runner.stop_listening()
    # 2. Everybody who waits is answered, every stream is told and ended.
    context.drain()
    # 3. What has begun may end: answers on their way, jobs at their target, streams with a full buffer.
    while (context.hub.connections or context.running) and loop.time() < deadline:  # noqa: ASYNC110 - two sets
        await asyncio.sleep(0.01)
    # 4. Who is left has had their time.
    left = len(context.hub.connections)
    for connection in list(context.hub.connections.values()):
        connection.abort()
    for task in context.running:
        task.cancel()
    await runner.cleanup()
    _log.info("stopped", connections_aborted=left)


def _on_signals(leave: asyncio.Event) -> None:
    """SIGTERM leaves, and may come twice (a parent process and systemd may both send it); a second
    Ctrl-C ends it now.
    """
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if leave.is_set():
            # Back to what the system does with it, which ends the process.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        leave.set()

    loop.add_signal_handler(signal.SIGTERM, leave.set)
    loop.add_signal_handler(signal.SIGINT, interrupt)


def _reload(config: Config, tls: ssl.SSLContext | None, notifier: Notifier, hub: Hub) -> None:
    """SIGHUP: who connects from now on gets the certificate that is in the files now. No stream notices."""
    notifier.reloading()
    if tls is not None:
        try:
            # The first attempt is on a context of its own: half a change would be worse than none.
            tls_context(config)
            tls.load_cert_chain(config.server.tls_cert or "", config.server.tls_key)
            _log.info("certificate_reloaded", file=config.server.tls_cert)
        except (ConfigError, OSError) as error:
            _log.error("certificate_not_reloaded", error=str(error), advice="the one in use stays")
    notifier.ready(status_line(hub))


def status_line(hub: Hub) -> str:
    """What `systemctl status` shows."""
    misses = hub.counters.misses
    return (
        f"{len(hub.connections)} connections, {len(hub.projects)} projects, "
        f"{misses.misses} misses ({misses.pending} pending, {misses.lost} lost)"
    )


def listening_where(config: Config, sockets: list[socket.socket]) -> Config:
    """`config` with the address that is really listened on: who may do what depends on whether others can reach it."""
    addresses = [sock.getsockname() for sock in sockets]
    reachable = [address for address in addresses if not ipaddress.ip_address(address[0]).is_loopback]
    host, port = (reachable or addresses)[0][:2]
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, host=host, port=port))


def loop_runner() -> Callable[[Coroutine[Any, Any, int]], int]:
    """What runs a coroutine: uvloop where it exists, asyncio elsewhere."""
    try:
        import uvloop  # noqa: PLC0415 - it doesn't exist everywhere
    except ModuleNotFoundError:
        return asyncio.run
    return uvloop.run


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to every address of `host` that this machine has, all on one port.

    Raises OSError when one is taken, or none is there (`localhost` names ::1 even where IPv6 is off).
    """
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bound(family, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
            else:
                port = sockets[0].getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def require_c_parser() -> None:
    """Raise ConfigError unless aiohttp reads requests with its C parser.

    Without a compiled wheel it falls back to one in Python, in which most of its request smuggling flaws were found,
    and on which none of what tests/security says of malformed requests has been tried.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError(
            "aiohttp",
            "this installation",
            "its C parser isn't there: install aiohttp from a wheel, and unset AIOHTTP_NO_EXTENSIONS",
        )


def refuse_to_stand_open(config: Config, sockets: list[socket.socket], key: str = "server.host") -> None:
    """Raise ConfigError about the setting `key` if others than this machine could do what they like.

    Asked of the sockets: a name may resolve to anything, and a socket may have been inherited.
    """
    for sock in sockets:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            address = sock.getsockname()[0].partition("%")[0]
            if exposed(config, address):
                raise ConfigError(key, "configuration", EXPOSED, value=address)


def tls_context(config: Config) -> ssl.SSLContext | None:
    """The server's side of TLS, when a certificate is configured."""
    if config.server.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.server.tls_cert, config.server.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("server.tls_cert", "configuration", f"can't be used: {error}") from None
    return context


def raise_file_limit() -> None:
    """Lift the soft limit on descriptors to the hard one; each stream takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= hard:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _log.info("file_limit_raised", before=soft, now=hard)


def _announce(sockets: list[socket.socket], metrics_sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
    urls = _urls(sockets, tls)
    _log.info("listening", urls=urls, version=__version__)
    if metrics_sockets:
        _log.info("metrics_listening", urls=_urls(metrics_sockets, tls))
    if sys.stdout is not None:
        sys.stdout.write(f"edge: listening on {urls[0]}\n")
        sys.stdout.flush()


def _urls(sockets: list[socket.socket], tls: ssl.SSLContext | None) -> list[str]:
    scheme = "http" if tls is None else "https"
    urls = []
    for sock in sockets:
        host, port = sock.getsockname()[:2]
        urls.append(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
    return urls
