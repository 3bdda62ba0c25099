"""The fixtures of `tests.hubs`."""

from tests.hubs import _logs, serve, session, site, start_hub

__all__ = ["_logs", "serve", "session", "site", "start_hub"]
