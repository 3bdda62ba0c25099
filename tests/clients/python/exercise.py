"""Use every part of the Python client once, on any Python from 3.9 on, with warnings as errors: `exercise.py URL`."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading

from edge_hub_client import AsyncClient, Client, NoConnection
from edge_hub_client.testing import FakeHub


def synchronous(client: Client, project: str) -> None:
    client.publish(project, {"percent": 50}, type="progress")
    client.publish_many(project, ({"data": number} for number in range(3)))
    try:
        client.trigger(project, "render", timeout=0.1)
    except NoConnection as error:
        sys.stdout.write(f"{error.code}\n")
    with client.subscribe(project, since="all") as events:
        assert [next(events).type for _ in range(4)] == ["progress", "message", "message", "message"]
        job = threading.Thread(
            target=client.trigger, args=(project, "render", {"prompt": "a house"}), kwargs={"timeout": 60}
        )
        job.start()
        assert next(events).json() == {"prompt": "a house"}
        job.join()
        with client.job(project, "job-1", final=True) as job_events:
            job_events.progress(percent=50)
        assert [event.type for event in events] == ["started", "progress", "complete"]
    assert len(client.history(project).events) == client.status(project)["ring"]["events"] == 8
    assert client.ticket(project).expires_in == 60
    client.delete(project)


async def asynchronous(client: AsyncClient, project: str) -> None:
    async with client, client.subscribe(project) as events:
        started = asyncio.create_task(client.trigger(project, "render", timeout=60))
        async for event in events:
            assert event.type == "render"
            break
        assert (await started).connections == 1
        await client.publish_many(project, [{"data": 1}, {"data": 2}], final=True)
        assert [event.json() async for event in events] == [1, 2]


def main(url: str) -> None:
    version = "-".join(map(str, sys.version_info[:2]))
    for options in ({"url": url}, {"transport": FakeHub()}):
        with Client(**options) as client:
            synchronous(client, f"sync-{version}")
        asyncio.run(asynchronous(AsyncClient(**options), f"async-{version}"))
    sys.stdout.write("done\n")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    main(sys.argv[1])
