"""SIGHUP: read the configuration again, and apply what can change while streams stay open.

Invariant: a configuration that can't work changes nothing. Everything is read and made before anything is replaced, and
replacing raises nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from edge.config.load import ConfigError, Sources, check
from edge.config.schema import KEYS, Config, reloadable, value_of
from edge.config.validate import warnings
from edge.http.context import Context
from edge.logs.setup import get_logger, set_level
from edge.server.assembly import apply_settings, target_of, verifier_of
from edge.server.listening import load_certificate, refuse_exposure, tls_context

_log = get_logger("server")
_TLS_KEYS = frozenset({"server.tls_cert", "server.tls_key"})


@dataclass
class Reloader:
    """Reloads one process's configuration, one request after another."""

    context: Context
    load: Callable[[], tuple[Config, Sources]]
    started_with: Config
    tls: ssl.SSLContext | None
    sockets: tuple[Sequence[socket.socket], Sequence[socket.socket]]
    _again: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    def request(self, done: Callable[[], object]) -> None:
        """Reload soon, and call `done` then. Requests that come meanwhile are one more reload."""
        self._again.set()
        if self._task is None or self._task.done():
            self._task = self.context.supervisor.start("reload", self._reload_all(done))

    async def _reload_all(self, done: Callable[[], object]) -> None:
        try:
            while self._again.is_set():
                self._again.clear()
                await self._reload()
        finally:
            done()

    async def _reload(self) -> None:
        context, before = self.context, self.context.config
        try:
            new, sources = await asyncio.to_thread(self.load)
            config = self._merged(new)
            check(config, sources)
            for sockets, key in zip(self.sockets, ("server.host", "metrics.host"), strict=True):
                refuse_exposure(config, sources, sockets, key)
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
        for key, text in warnings(config):
            _log.warning("config_warning", key=key, problem=text)
        _log.info(
            "config_reloaded",
            changed=[key for key in KEYS if value_of(config, key) != value_of(before, key)],
            restart_needed=[
                key
                for key in KEYS
                if not self._reloadable(key) and value_of(new, key) != value_of(self.started_with, key)
            ],
            certificate=config.server.tls_cert,
        )

    def _reloadable(self, key: str) -> bool:
        return reloadable(key) and (self.tls is not None or key not in _TLS_KEYS)

    def _merged(self, new: Config) -> Config:
        """The configuration in use, with the reloadable values of `new`."""
        old = self.context.config
        sections: dict[str, dict[str, object]] = {}
        for key in filter(self._reloadable, KEYS):
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value_of(new, key)
        changed = {
            section: msgspec.structs.replace(getattr(old, section), **values) for section, values in sections.items()
        }
        return msgspec.structs.replace(old, **changed)
