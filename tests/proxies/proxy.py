"""Real proxies with the configurations of docs/behind-a-proxy.md; only addresses, paths and time-outs are replaced."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.faults.tls import Certificate

PAGE = Path(__file__).parent.parent.parent / "docs" / "behind-a-proxy.md"


class Kind(NamedTuple):
    name: str
    fence: str
    """What stands behind the three back-ticks that open its block."""
    tls: bool = True
    names_the_client: bool = True


KINDS = (
    Kind("nginx-bare", "nginx bare", tls=False, names_the_client=False),
    Kind("nginx", "nginx"),
    Kind("caddy", "caddyfile"),
    Kind("haproxy", "haproxy"),
)
_NGINX = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {block}
}}
"""


class Proxy:
    """A running proxy; `address` is where it listens."""

    def __init__(self, kind: Kind, hub_port: int, folder: Path, certificate: Certificate, idle: str) -> None:
        self.kind = kind
        self._idle = idle
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address: tuple[str, int] = free.getsockname()
        self.config = folder / "config"
        self.config.write_text(self._text(documented(kind), hub_port, certificate))
        self._process: asyncio.subprocess.Process | None = None

    def _text(self, block: str, hub_port: int, certificate: Certificate) -> str:
        port = self.address[1]
        both = self._folder / "both.pem"
        both.write_bytes(certificate.cert.read_bytes() + certificate.key.read_bytes())
        replaced = {
            "127.0.0.1:8080": f"127.0.0.1:{hub_port}",
            "/etc/ssl/edge.pem": str(certificate.cert),
            "/etc/ssl/edge.key": str(certificate.key),
            "/etc/ssl/edge-both.pem": str(both),
            "listen 443": f"listen 127.0.0.1:{port}",
            "bind :443": f"bind 127.0.0.1:{port}",
            "example.org {": f"https://localhost:{port} {{\nbind 127.0.0.1",
            "75s": self._idle,
        }
        for old, new in replaced.items():
            block = block.replace(old, new)
        match self.kind.name:
            case "nginx-bare":
                server = f"server {{ listen 127.0.0.1:{port}; proxy_read_timeout {self._idle}; {block} }}"
                return _NGINX.format(folder=self._folder, block=server)
            case "nginx":
                return _NGINX.format(folder=self._folder, block=block)
            case "caddy":
                return f"{{\nadmin off\nauto_https disable_redirects\n}}\n{block}"
            case _:
                return f"global\n    maxconn 4096\n{block}"

    async def start(self) -> None:
        command = {
            "nginx-bare": ("nginx", "-c", str(self.config)),
            "nginx": ("nginx", "-c", str(self.config)),
            "caddy": ("caddy", "run", "--adapter", "caddyfile", "--config", str(self.config)),
            "haproxy": ("haproxy", "-db", "-f", str(self.config)),
        }[self.kind.name]
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, env={"HOME": str(self._folder), "PATH": "/usr/sbin:/usr/bin:/bin"}
            )
        for _ in range(3000):
            assert self._process.returncode is None, (self._folder / "log").read_text()
            try:
                _, writer = await asyncio.open_connection(*self.address)
            except ConnectionError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return
        raise AssertionError((self._folder / "log").read_text())

    async def stop(self) -> None:
        """At once: its streams break."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


def documented(kind: Kind) -> str:
    """The block of the page for `kind`."""
    text = PAGE.read_text(encoding="utf-8")
    found: list[str] = re.findall(rf"^```{re.escape(kind.fence)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert 1 == len(found), kind
    return found[0]


@asynccontextmanager
async def proxying(
    kind: Kind, hub_port: int, folder: Path, certificate: Certificate, *, idle: str = "75s"
) -> AsyncIterator[Proxy]:
    """A proxy in front of the hub; `idle` stands in place of the page's idle time-outs."""
    proxy = Proxy(kind, hub_port, folder, certificate, idle)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
