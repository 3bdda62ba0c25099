"""The handler that anybody would write: aiohttp on uvloop, reads JSON, answers JSON. `python bench/naive.py PORT`."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web


async def publish(request: web.Request) -> web.Response:
    event = await request.json()
    return web.json_response({"project": request.match_info["project"], "type": event.get("type")}, status=202)


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/projects/{project}/events", publish)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, loop=uvloop.new_event_loop())
