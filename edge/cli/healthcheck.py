"""`edge healthcheck`: one GET, one sentence, for Docker and people."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from edge.config.schema import UNIX_PREFIX, Config
from edge.diagnose.client import Hub, Unreachable, ask

DEFAULT_PATH = "/healthz"


def own_url(config: Config, path: str = DEFAULT_PATH) -> str:
    """Where a hub with this configuration answers on this machine; ValueError when that can't be known."""
    server = config.server
    if server.host.startswith(UNIX_PREFIX):
        return server.host
    if server.port == 0:
        raise ValueError("server.port is 0: only the running hub knows its port, so give the --url")
    scheme = "http" if server.tls_cert is None else "https"
    return f"{scheme}://{_in_url(server.host)}:{server.port}{path}"


def wrong_with(url: str) -> str | None:
    """What is wrong with `url`, or None."""
    try:
        target = urlsplit(url)
        usable = target.scheme in ("http", "https") and bool(target.hostname) and target.port != 0
    except ValueError:
        usable = False
    if (usable or url.startswith(UNIX_PREFIX + "/")) and url.isascii() and url.isprintable() and " " not in url:
        return None
    return f"must be an http:// or https:// URL such as http://127.0.0.1:8080{DEFAULT_PATH}, or unix:PATH"


def serve_arguments(pid: int) -> list[str]:
    """The arguments with which process `pid` runs `edge serve`. Raises ValueError."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return command[command.index("serve") : -1]
    except (OSError, ValueError):
        raise ValueError(f"--pid {pid}: no `edge serve` runs as this process") from None


def check(url: str, timeout_seconds: float, *, verify: bool = True) -> tuple[bool, str]:
    """Whether `url` answers 200 in time, and a sentence about it. `timeout_seconds` holds for each step.

    `verify=False` takes any certificate: for asking oneself by a loopback address, which none names.
    """
    origin, path = url, DEFAULT_PATH
    if not url.startswith(UNIX_PREFIX):
        target = urlsplit(url)
        origin = f"{target.scheme}://{target.netloc}"
        if target.path not in ("", "/"):
            path = target.path
        if target.query:
            path += f"?{target.query}"
    try:
        status = ask(Hub(origin, None, verify), "GET", path, timeout_seconds=timeout_seconds).status
    except Unreachable as error:
        return False, str(error)
    return status == 200, f"{url} answered {status}"


def _in_url(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:  # it listens everywhere: ask it here
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)
