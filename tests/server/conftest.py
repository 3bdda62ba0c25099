"""The fixtures of `tests.hubs`."""

from tests.hubs import serve, session, site, start_hub

__all__ = ["serve", "session", "site", "start_hub"]
