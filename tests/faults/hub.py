"""A hub as its users have it: a process of its own, asked over HTTP and looked at from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

Seen = TypeVar("Seen")
LOOPS = ("uvloop", "asyncio")
_WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None; from edge.cli.main import main; sys.exit(main())"
START_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
EVERY_RIGHT = "subscribe,publish,trigger,status,admin,metrics"


@dataclass
class HubProcess:
    """A running `edge serve`. `log` is everything on its standard error so far."""

    process: asyncio.subprocess.Process
    port: int
    session: aiohttp.ClientSession
    scheme: str = "http"
    log: list[str] = field(default_factory=list)
    reading: asyncio.Task[None] | None = None
    settled_descriptors: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def log_text(self) -> str:
        return "".join(self.log)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
        """`(status, decoded JSON, headers)`."""
        async with self.session.request(method, self.url + path, ssl=False, **options) as answer:
            return answer.status, await answer.json(content_type=None), dict(answer.headers)

    async def publish(self, project: str, data: Any, **options: Any) -> dict[str, Any]:
        status, receipt, _ = await self.ask("POST", f"/projects/{project}/events", json={"data": data}, **options)
        assert status in {201, 202}, receipt
        return receipt

    async def project(self, project: str) -> dict[str, Any]:
        status, found, _ = await self.ask("GET", f"/projects/{project}")
        assert 200 == status, found
        return found

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name with labels, as it stands in the text."""
        async with self.session.get(self.url + "/metrics", ssl=False) as answer:
            lines = (await answer.text()).splitlines()
        return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}

    def descriptors(self) -> int:
        """0 where there is no /proc to ask."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        return len(list(folder.iterdir())) if folder.exists() else 0

    def resident_bytes(self) -> int:
        """What the process holds in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def removed(self, reason: str, count: int = 1) -> dict[str, float]:
        """Wait until `count` connections were removed for `reason`; returns the metrics of that moment."""
        name = f'edge_connections_removed_total{{reason="{reason}"}}'
        return await until(self.metrics, lambda metrics: metrics[name] >= count)

    async def at_rest(self, connections: int = 0) -> dict[str, float]:
        """After a fault: the ledger adds up, the gauge is true, no descriptor is left. Returns the metrics."""
        metrics = await until(self.metrics, lambda found: found["edge_connections"] == connections)
        assert_ledger(metrics)
        assert connections == metrics["edge_connections_added_total"] - sum(
            value for name, value in metrics.items() if name.startswith("edge_connections_removed_total")
        )
        await until(self._descriptors, lambda now: now <= self.settled_descriptors + connections)
        assert "Traceback" not in self.log_text
        assert "unexpected_error" not in self.log_text
        return metrics

    async def _descriptors(self) -> int:
        return self.descriptors()

    async def ended(self) -> int:
        """Wait for the end of the process; returns its exit status."""
        status = await asyncio.wait_for(self.process.wait(), PATIENCE_SECONDS)
        if self.reading is not None:
            await self.reading
        return status


def assert_ledger(metrics: dict[str, float]) -> None:
    accounted = sum(metrics[f"edge_misses_{what}"] for what in ("recovered_total", "lost_total", "pending"))
    assert metrics["edge_misses_total"] == accounted


async def until(
    look: Callable[[], Awaitable[Seen]], good: Callable[[Seen], bool], seconds: float = PATIENCE_SECONDS
) -> Seen:
    """Look again and again until what is seen is good; returns it. The last sight is in the failure."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        seen = await look()
        if good(seen):
            return seen
        assert asyncio.get_running_loop().time() < deadline, seen
        await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(
    *, loop: str = "uvloop", port: int = 0, prefix: tuple[str, ...] = (), **settings: object
) -> AsyncIterator[HubProcess]:
    """A hub on every address of the machine; `settings` as `section__key=value`. It is killed at the end if need be."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    settings = {"server__host": "0.0.0.0", "auth__anonymous": EVERY_RIGHT} | settings
    environ |= {
        f"EDGE_{key.upper().replace('__', '_')}": str(value) for key, value in settings.items() if value is not None
    }
    how = ("-c", _WITHOUT_UVLOOP) if loop == "asyncio" else ("-m", "edge")
    process = await asyncio.create_subprocess_exec(
        *prefix,
        sys.executable,
        *how,
        "serve",
        "--port",
        str(port),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert process.stdout is not None
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0), timeout=aiohttp.ClientTimeout(total=60)
    )
    hub = HubProcess(process, 0, session)
    hub.reading = asyncio.create_task(_read_log(process, hub.log))
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
        assert line.startswith("edge: listening on "), line + hub.log_text
        hub.scheme = line.split()[-1].partition(":")[0]
        hub.port = int(line.rpartition(":")[2])
        async with session.get(hub.url + "/healthz", ssl=False) as answer:
            assert 200 == answer.status
        await asyncio.sleep(0.05)
        hub.settled_descriptors = hub.descriptors()
        yield hub
    finally:
        await session.close()
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.wait()
        if hub.reading is not None:
            await hub.reading
        with contextlib.suppress(AttributeError):
            process._transport.close()  # type: ignore[attr-defined]  # or it warns when it is collected


async def _read_log(process: asyncio.subprocess.Process, log: list[str]) -> None:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        log.append(line.decode())
