"""The servers that are measured: how each is started, pinned to one core, and spoken to.

Every peer gets a configuration that favours it: access logs off, no limit in its way, one worker (there is one core).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jwt
import msgspec

from bench import process, tls

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILT = HERE / ".built"
SERVER_CORE, LOAD_CORE = 0, 1
_SECRET = "a-secret-of-the-bench-that-is-long-enough"
_MERCURE_JWT = jwt.encode({"mercure": {"publish": ["*"]}}, _SECRET, "HS256")


class Peer(NamedTuple):
    """How to speak to a server. `%P` is the project."""

    name: str
    start: Callable[[Path, int, Mapping[str, str]], list[list[str]]]
    """Writes what it needs into a directory; returns command lines, the server's last."""
    subscribe: str
    publish: str
    content_type: str
    before: str
    after: str
    control_port: int = 0
    """Offset of the port that takes what is published."""
    ndjson: bool = False
    connect_window: int = 256
    """How many readers may be on their way at a time; beyond it some peers refuse."""
    settle_seconds: float = 0.3


class Server:
    """A running peer."""

    def __init__(self, peer: Peer, *, env: Mapping[str, str] | None = None, module: str | None = None) -> None:
        self.peer = peer
        self.port = free_ports()
        self.held_path = Path("/dev/null")
        self.directory = Path(tempfile.mkdtemp(prefix="edge-bench-"))
        commands = peer.start(self.directory, self.port, env or {})
        if module is not None:
            commands[-1][2] = module
        self.log_path = self.directory / "log"
        self._log = self.log_path.open("wb")
        *helpers, command = commands
        self._helpers = [self._spawn(each, LOAD_CORE, {}) for each in helpers]
        began = time.perf_counter()
        self._process = self._spawn(command, SERVER_CORE, env or {})
        self._await_port(self.port)
        self.start_seconds = time.perf_counter() - began
        self.start_cpu_seconds = self.cpu_seconds()
        self._await_port(self.port + peer.control_port)

    def _spawn(self, command: list[str], core: int, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _await_port(self, port: int) -> None:
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError(f"{self.peer.name} does not listen: {self.log_path.read_text()[-2000:]}")

    @property
    def pids(self) -> list[int]:
        """The server's processes, as they are now: a worker may come after its listening socket."""
        return process.tree(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        return process.cpu_seconds(self.pids)

    def pss_bytes(self) -> int:
        return process.pss_bytes(self.pids)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it at once: nothing that is measured happens after."""
        for pid in (*process.tree(self._process.pid), *(each.pid for each in self._helpers)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for each in (self._process, *self._helpers):
            each.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_ports() -> int:
    """A port that is free, and so are the few behind it; below the range from which clients are given theirs."""
    for port in range(20_000 + os.getpid() % 5000, 32_000, 10):
        try:
            for each in range(port, port + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port
    raise RuntimeError("no free ports")


def prepare() -> None:
    """Compile the C programs where they are older than their source, build the peers that come from registries where
    Go and npm are here, and make SIGTERM end what was started, too.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    BUILT.mkdir(exist_ok=True)
    tls.prepare()
    for name in ("load", "floor"):
        source, target = HERE / f"{name}.c", BUILT / name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", target, source], check=True)
    if shutil.which("go") is not None and not (BUILT / "r3labs").exists():
        subprocess.run(["go", "build", "-o", BUILT / "r3labs", "."], cwd=HERE / "r3labs", check=True)
    if shutil.which("npm") is not None and not (BUILT / "better_sse").exists():
        shutil.copytree(HERE / "better_sse", BUILT / "better_sse.new", dirs_exist_ok=True)
        subprocess.run(["npm", "ci", "--silent"], cwd=BUILT / "better_sse.new", check=True)
        (BUILT / "better_sse.new").rename(BUILT / "better_sse")


def _edge(_directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    return [[sys.executable, "-m", "edge", "serve", "--port", str(port)]]


def _floor(_directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    return [[str(BUILT / "floor"), str(port)]]


def _aiohttp_sse(_directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    return [[sys.executable, str(HERE / "aiohttp_sse_hub.py"), str(port)]]


def _r3labs(_directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    return [[str(BUILT / "r3labs"), str(port)]]


def _better_sse(_directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    return [["node", str(BUILT / "better_sse" / "hub.mjs"), str(port)]]


def _mercure(directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    """`BENCH_MERCURE`: its binary (a Caddy with Mercure's module). Anonymous subscribers, no history, no subscription
    events, no log.
    """
    (directory / "Caddyfile").write_text(f"""
        {{
            admin off
            auto_https off
            log {{
                output discard
            }}
        }}
        http://127.0.0.1:{port} {{
            route {{
                mercure {{
                    publisher_jwt {_SECRET}
                    anonymous
                    transport local
                    write_timeout 0
                    dispatch_timeout 0
                    heartbeat 0
                }}
            }}
        }}
    """)
    return [[os.environ["BENCH_MERCURE"], "run", "--config", str(directory / "Caddyfile"), "--adapter", "caddyfile"]]


def _centrifugo(directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    """`BENCH_CENTRIFUGO`: its binary (version 6). One-way SSE, no history, no presence, no token, no log."""
    config = {
        "http_server": {"address": "127.0.0.1", "port": str(port)},
        "log": {"level": "none"},
        "client": {"insecure": True, "concurrency": 0},
        "http_api": {"insecure": True},
        "channel": {"without_namespace": {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}},
        "uni_sse": {"enabled": True},
    }
    (directory / "config.json").write_bytes(msgspec.json.encode(config))
    return [[os.environ["BENCH_CENTRIFUGO"], "--config", str(directory / "config.json")]]


def _nchan(directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    (directory / "nginx.conf").write_text(f"""
        load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
        daemon off; worker_processes 1; worker_rlimit_nofile 20000; user root;
        pid {directory}/nginx.pid; error_log {directory}/error.log crit;
        events {{ worker_connections 20000; }}
        http {{
            access_log off; keepalive_requests 1000000000; client_max_body_size 100m; client_body_buffer_size 1m;
            client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; tcp_nodelay on;
            fastcgi_temp_path {directory}/fcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
            nchan_shared_memory_size 1024m; nchan_message_buffer_length 1000;
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location ~ ^/sub/(\\w+)$ {{
                    nchan_subscriber eventsource; nchan_channel_id $1; nchan_subscriber_first_message newest;
                }}
                location ~ ^/all/(\\w+)$ {{
                    nchan_subscriber eventsource; nchan_channel_id $1; nchan_subscriber_first_message oldest;
                }}
                location ~ ^/pub/(\\w+)$ {{ nchan_publisher; nchan_channel_id $1; }}
            }}
        }}
    """)
    return [["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]]


def _pushpin(directory: Path, port: int, _env: Mapping[str, str]) -> list[list[str]]:
    internal = Path("/usr/lib/pushpin/internal.conf").read_text().replace("/var/run/zurl", str(directory))
    (directory / "internal.conf").write_text(internal)
    zurl = Path("/etc/zurl.conf").read_text().replace("/var/run/zurl", str(directory)).replace("deny=127.*,", "deny=")
    (directory / "zurl.conf").write_text(zurl)
    text = Path("/etc/pushpin/pushpin.conf").read_text()
    for before, after in {
        "include={libdir}/internal.conf": f"include={directory}/internal.conf",
        "rundir=/var/run/pushpin": f"rundir={directory}",
        "logdir=/var/log/pushpin": f"logdir={directory}",
        "http_port=7999": f"http_port={port}",
        "push_in_http_port=5561": f"push_in_http_port={port + 1}",
        "push_in_spec=tcp://127.0.0.1:5560": f"push_in_spec=ipc://{directory}/push",
        "push_in_sub_specs=tcp://127.0.0.1:5562": f"push_in_sub_specs=ipc://{directory}/sub",
        "command_spec=tcp://127.0.0.1:5563": f"command_spec=ipc://{directory}/command",
        "client_maxconn=50000": "client_maxconn=9000",
        "message_rate=2500": "message_rate=10000000",
        "message_hwm=25000": "message_hwm=10000000",
        "log_level=2": "log_level=0",
    }.items():
        assert before in text, before
        text = text.replace(before, after)
    (directory / "pushpin.conf").write_text(text)
    (directory / "routes").write_text(f"* 127.0.0.1:{port + 2}\n")
    origin = [sys.executable, str(HERE / "grip_origin.py"), str(port + 2)]
    zurl_too = f"zurl --config={directory}/zurl.conf --loglevel=0 & exec pushpin --config {directory}/pushpin.conf"
    return [origin, ["sh", "-c", zurl_too]]


_HUB = ("/projects/%P/events", "/projects/%P/events", "application/json", '{"type":"progress","data":"', '"}')
EDGE = Peer("edge", _edge, *_HUB, ndjson=True)
FLOOR = Peer("floor", _floor, "/sub/%P", "/pub/%P", "text/plain", "", "", ndjson=True)
NCHAN = Peer("nchan", _nchan, "/sub/%P", "/pub/%P", "text/plain", "", "")
AIOHTTP_SSE = Peer("aiohttp-sse", _aiohttp_sse, "/sub/%P", "/pub/%P", "text/plain", "", "")
PUSHPIN = Peer(
    "pushpin",
    _pushpin,
    "/sub/%P",
    "/publish/",
    "application/json",
    '{"items":[{"channel":"%P","formats":{"http-stream":{"content":"data: ',
    '\\n\\n"}}}]}',
    control_port=1,
    connect_window=4,
    settle_seconds=2.0,
)
R3LABS = Peer("r3labs/sse", _r3labs, "/sub/%P", "/pub/%P", "text/plain", "", "")
BETTER_SSE = Peer("better-sse", _better_sse, "/sub/%P", "/pub/%P", "text/plain", "", "")
MERCURE = Peer(
    "Mercure",
    _mercure,
    "/.well-known/mercure?topic=%P",
    "/.well-known/mercure",
    f"application/x-www-form-urlencoded\r\nAuthorization: Bearer {_MERCURE_JWT}",
    "topic=%P&data=",
    "",
)
CENTRIFUGO = Peer(
    "Centrifugo",
    _centrifugo,
    "/connection/uni_sse?cf_connect=%7B%22subs%22%3A%7B%22%P%22%3A%7B%7D%7D%7D",
    "/api/publish",
    "application/json",
    '{"channel":"%P","data":"',
    '"}',
)
_OTHERS = (NCHAN, PUSHPIN, AIOHTTP_SSE, R3LABS, BETTER_SSE, MERCURE, CENTRIFUGO)
PEERS = {peer.name: peer for peer in (FLOOR, EDGE, *_OTHERS)}


def installed(peer: Peer) -> bool:
    """Whether the programs of `peer` are on this machine."""
    if peer is NCHAN:
        return Path("/usr/lib/nginx/modules/ngx_nchan_module.so").exists()
    if peer in (MERCURE, CENTRIFUGO):
        return f"BENCH_{peer.name.upper()}" in os.environ
    if peer in (R3LABS, BETTER_SSE):
        return (BUILT / ("r3labs" if peer is R3LABS else "better_sse")).exists()
    return peer is not PUSHPIN or shutil.which("pushpin") is not None
