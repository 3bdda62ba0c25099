"""The backend of the page: it takes the jobs that the hub sends, does them, and streams their progress.

EDGE_URL says where the hub is, EDGE_TOKEN what it asks for, EDGE_TRIGGER_SECRET what it signs jobs with; jobs come to
/jobs. Needs `aiohttp` and `edge-hub-client`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from aiohttp import web
from edge_hub_client import AsyncClient, InvalidSignature, verify_webhook

PAGE = Path(__file__).parent / "page"
PAGES_HUB = os.environ.get("HUB_FOR_PAGES", "http://127.0.0.1:8080")  # where browsers find the hub
SECRET = os.environ["EDGE_TRIGGER_SECRET"]
STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "0.5"))
hub = web.AppKey("hub", AsyncClient)
running = web.AppKey("running", dict[str, asyncio.Task[None]])


async def render(client: AsyncClient, job_id: str, project: str, prompt: str) -> None:
    """The work. `failed` is published where it raises."""
    async with client.job(project, job_id, prompt=prompt) as job:
        if "fail" in prompt:
            await job.fail("The paint is empty.")
            return
        for percent in range(10, 100, 10):
            await asyncio.sleep(STEP_SECONDS)
            await job.progress(percent=percent)
        await job.complete(result=f"A picture of {prompt}")


async def take_job(request: web.Request) -> web.Response:
    """Take a job, say so at once, and work on it afterwards."""
    try:
        job: dict[str, Any] = verify_webhook(SECRET, request.headers, await request.read())
    except InvalidSignature as error:
        raise web.HTTPBadRequest(text=error.detail) from error
    tasks = request.app[running]
    if job["id"] not in tasks:  # the hub may send a job again when it lost the answer
        work = render(request.app[hub], job["id"], job["project"], job["data"]["prompt"])
        tasks[job["id"]] = asyncio.create_task(work)
    return web.json_response({"accepted": job["id"]}, status=202)


async def index(_request: web.Request) -> web.Response:
    page = (PAGE / "index.html").read_text().replace("http://127.0.0.1:8080", PAGES_HUB)
    return web.Response(text=page, content_type="text/html")


async def life(app: web.Application) -> Any:
    async with AsyncClient() as client:
        app[hub], app[running] = client, {}
        yield
        for task in app[running].values():
            task.cancel()
        await asyncio.gather(*app[running].values(), return_exceptions=True)


def main() -> None:
    app = web.Application()
    app.add_routes([web.post("/jobs", take_job), web.get("/", index), web.static("/", PAGE)])
    app.cleanup_ctx.append(life)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "9000")))


if __name__ == "__main__":
    main()
