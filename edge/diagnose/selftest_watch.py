"""`edge selftest --watch`: the self-test again and again, and its results as metrics for Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric

from edge.diagnose.selftest import Step


class Results:
    """The last run, and how many there were."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._steps: dict[str, Step] = {}
        self._finished_seconds: float | None = None
        self._runs = {"ok": 0, "failed": 0}

    def take(self, steps: list[Step]) -> None:
        """A run has ended with these steps."""
        self._steps = {step.name: step for step in steps}
        self._finished_seconds = time.time()
        self._runs["ok" if all(step.ok for step in steps) else "failed"] += 1

    def collect(self) -> Iterator[Metric]:
        runs = CounterMetricFamily(
            "edge_selftest_runs", "Self-tests that have ended, by how.", labels=("url", "outcome")
        )
        for outcome, count in self._runs.items():
            runs.add_metric((self._url, outcome), count)
        yield runs
        if self._finished_seconds is None:
            return
        success = GaugeMetricFamily(
            "edge_selftest_success",
            "1 if the last self-test went well. 0: run edge selftest by hand, it says in words what is wrong.",
            labels=("url",),
        )
        success.add_metric((self._url,), all(step.ok for step in self._steps.values()))
        yield success
        finished = GaugeMetricFamily(
            "edge_selftest_finished_timestamp_seconds",
            "When the last self-test ended. Long ago: the self-test itself hangs.",
            labels=("url",),
        )
        finished.add_metric((self._url,), self._finished_seconds)
        yield finished
        step_success = GaugeMetricFamily(
            "edge_selftest_step_success",
            "1 for each step that went well; a step after a failed one is missing.",
            labels=("url", "step"),
        )
        took = GaugeMetricFamily(
            "edge_selftest_step_seconds",
            "What the step measured: publish is how late an event came, idle when the heartbeat did.",
            labels=("url", "step"),
        )
        for step in self._steps.values():
            step_success.add_metric((self._url, step.name), step.ok)
            if step.seconds is not None:
                took.add_metric((self._url, step.name), step.seconds)
        yield step_success
        yield took


async def watch(
    results: Results,
    run: Callable[[], Awaitable[list[Step]]],
    every_seconds: float,
    host: str,
    port: int,
    tell: Callable[[str], object],
) -> None:
    """Run until cancelled; `tell` gets the URL of the metrics once they are there. Raises OSError."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(results)

    async def metrics(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        name, taken = runner.addresses[0][:2]
        tell(f"http://{f'[{name}]' if ':' in name else name}:{taken}/metrics")
        while True:
            began = time.monotonic()
            results.take(await run())
            await asyncio.sleep(max(0.0, every_seconds - (time.monotonic() - began)))
    finally:
        await runner.cleanup()
