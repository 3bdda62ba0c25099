"""The backend of examples/vite-react: it takes jobs, streams their progress, and lets its own users in.

EDGE_URL says where the hub is, EDGE_TOKEN what it asks for, EDGE_TRIGGER_SECRET what it signs jobs with; jobs come to
/jobs. Needs `fastapi`, `uvicorn` and `edge-hub-client`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from edge_hub_client import AsyncClient, InvalidSignature, NoConnection, verify_webhook
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

SECRET = os.environ["EDGE_TRIGGER_SECRET"]
STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "0.5"))
TRIGGER_SECONDS = float(os.environ.get("TRIGGER_SECONDS", "10"))  # how long a page has to connect
running: dict[str, asyncio.Task[None]] = {}
hub: AsyncClient


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    global hub
    async with AsyncClient() as hub:
        yield
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


app = FastAPI(lifespan=lifespan)


async def render(job_id: str, project: str, prompt: str) -> None:
    """The work. `failed` is published where it raises."""
    async with hub.job(project, job_id, prompt=prompt) as job:
        for percent in range(10, 100, 10):
            await asyncio.sleep(STEP_SECONDS)
            await job.progress(percent=percent)
        await job.complete(result=f"A picture of {prompt}")


@app.post("/jobs", status_code=202)
async def take_job(request: Request) -> dict[str, str]:
    """A job of the hub's: take it, say so at once, work on it afterwards."""
    try:
        job: dict[str, Any] = verify_webhook(SECRET, request.headers, await request.body())
    except InvalidSignature as error:
        raise HTTPException(400, error.detail) from error
    if job["id"] not in running:  # the hub may send a job again when it lost the answer
        running[job["id"]] = asyncio.create_task(render(job["id"], job["project"], job["data"]["prompt"]))
    return {"accepted": job["id"]}


# --- for a hub with tokens: your users are yours, and the hub's token stays here ---


def user(session: Annotated[str | None, Cookie()] = None) -> str:
    """The user of your own session; here its cookie is the user's name."""
    if session is None:
        raise HTTPException(401, "Log in first.")
    return session


def project_of(project: str, user: Annotated[str, Depends(user)]) -> str:
    """A user's own projects only."""
    if not project.startswith(f"{user}-"):
        raise HTTPException(403, "This project isn't yours.")
    return project


class Message(BaseModel):
    prompt: str


@app.post("/api/projects/{project}/ticket")
async def ticket(project: Annotated[str, Depends(project_of)]) -> dict[str, str]:
    """A ticket for the page: it opens one stream of the project, and nothing else."""
    return {"ticket": (await hub.ticket(project)).ticket}


@app.post("/api/projects/{project}/messages", status_code=202)
async def send(project: Annotated[str, Depends(project_of)], message: Message) -> dict[str, str]:
    """Start a job for the page, once its stream is confirmed."""
    try:
        receipt = await hub.trigger(project, "render", {"prompt": message.prompt}, timeout=TRIGGER_SECONDS)
    except NoConnection as error:
        raise HTTPException(409, "The page isn't connected; nothing was started.") from error
    return {"job": receipt.id}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "9000")))
