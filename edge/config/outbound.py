"""Through which proxy a URL is reached, by `server.outbound_proxy`."""

from __future__ import annotations

from urllib.parse import urlsplit

from edge.config.validate import FROM_ENVIRONMENT


def proxy_for(url: str, outbound_proxy: str | None) -> str | None:
    """The proxy's URL, None for none. The environment (on macOS the system) is asked only where the setting says so."""
    if outbound_proxy != FROM_ENVIRONMENT:
        return outbound_proxy
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - only this needs it

    target = urlsplit(url)
    if proxy_bypass(target.netloc.rpartition("@")[2]):  # NO_PROXY
        return None
    return getproxies().get(target.scheme)
