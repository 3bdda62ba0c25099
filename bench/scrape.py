"""What a scrape costs the loop: `python bench/scrape.py [CONNECTIONS ...]`, one project each.

A hub in this process, with readers that are real connections over loopback, asked for its metrics directly: the
processor time is what the event loop is held for. Raises the limit on descriptors, two for each reader.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time

from tests.observability.rig import running

ROUNDS = 50


async def readers(port: int, count: int, first: int) -> list[asyncio.StreamWriter]:
    opened = []
    for number in range(first, first + count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /projects/p%d/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
        await reader.readuntil(b"edge.hello")
        opened.append(writer)
    return opened


async def main(counts: list[int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    async with running(metrics={"top_projects": 10}, stream={"heartbeat_seconds": 60}) as hub:
        port = int(hub.url.rpartition(":")[2])
        opened: list[asyncio.StreamWriter] = []
        for count in counts:
            opened += await readers(port, count - len(opened), len(opened))
            gc.collect()
            for accept in ("", "application/openmetrics-text"):
                took_ms = []
                for _ in range(ROUNDS):
                    began = time.thread_time()
                    hub.context.exposition(accept)
                    took_ms.append((time.thread_time() - began) * 1000)
                    await asyncio.sleep(0)
                took_ms.sort()
                print(
                    f"{len(hub.context.hub.connections):>6} connections, {accept or 'plain':<30} "
                    f"median {took_ms[ROUNDS // 2]:.2f} ms, worst of {ROUNDS} {took_ms[-1]:.2f} ms"
                )
        for writer in opened:
            writer.close()


if __name__ == "__main__":
    asyncio.run(main([int(count) for count in sys.argv[1:]] or [10, 1000, 9000]))
