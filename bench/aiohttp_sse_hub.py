"""The hub a user would write in twenty lines with aiohttp-sse: our own code has to be worth its length against it."""

import asyncio
import sys
from collections import defaultdict

import uvloop
from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

connections: dict[str, set[EventSourceResponse]] = defaultdict(set)


async def subscribe(request: web.Request) -> web.StreamResponse:
    async with sse_response(request) as stream:
        readers = connections[request.match_info["project"]]
        readers.add(stream)
        try:
            await stream.wait()
        finally:
            readers.discard(stream)
    return stream


async def publish(request: web.Request) -> web.Response:
    data = await request.text()
    for stream in list(connections[request.match_info["project"]]):
        await stream.send(data)
    return web.Response(status=201)


async def main(port: int) -> None:
    app = web.Application()
    app.add_routes([web.get("/sub/{project}", subscribe), web.post("/pub/{project}", publish)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


uvloop.run(main(int(sys.argv[1])))
