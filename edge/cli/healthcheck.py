"""`edge healthcheck`: one GET, one sentence, for Docker and people; the standard library is all it needs."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
from urllib.parse import urlsplit

from edge.config.schema import Config
from edge.logs.text import one_line

DEFAULT_PATH = "/healthz"


def own_url(config: Config, path: str = DEFAULT_PATH) -> str:
    """Where a hub with this configuration answers on this machine; ValueError when that can't be known."""
    server = config.server
    if server.port == 0:
        raise ValueError("server.port is 0: only the running hub knows its port, so give the --url")
    scheme = "http" if server.tls_cert is None else "https"
    return f"{scheme}://{_in_url(server.host)}:{server.port}{path}"


def wrong_with(url: str) -> str | None:
    """Why `url` can't be asked, or None."""
    try:
        target = urlsplit(url)
        usable = target.scheme in ("http", "https") and bool(target.hostname) and target.port != 0
    except ValueError:
        usable = False
    if usable and url.isascii() and url.isprintable() and " " not in url:
        return None
    return f"must be an http:// or https:// URL such as http://127.0.0.1:8080{DEFAULT_PATH}"


def check(url: str, timeout_seconds: float, *, verify: bool = True) -> tuple[bool, str]:
    """Whether `url` answers 200 in time, and a sentence about it. `timeout_seconds` holds for each step.

    `verify=False` takes any certificate: for asking oneself by a loopback address, which none names.
    """
    target = urlsplit(url)
    path = target.path if target.path not in ("", "/") else DEFAULT_PATH
    if target.query:
        path += f"?{target.query}"
    host = target.hostname or ""
    connection: http.client.HTTPConnection
    if target.scheme == "https":
        context = ssl.create_default_context() if verify else ssl._create_unverified_context()  # noqa: S323 - itself
        connection = http.client.HTTPSConnection(host, target.port, timeout=timeout_seconds, context=context)
    else:
        connection = http.client.HTTPConnection(host, target.port, timeout=timeout_seconds)
    try:
        connection.request("GET", path, headers={"User-Agent": "edge-healthcheck", "Connection": "close"})
        status = connection.getresponse().status
    except TimeoutError:
        return False, f"{url} did not answer within {timeout_seconds:g} s"
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return False, one_line(f"{url} can't be asked: {str(error) or type(error).__name__}")
    finally:
        connection.close()
    return status == 200, f"{url} answered {status}"


def _in_url(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:  # it listens everywhere: ask it here
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)
