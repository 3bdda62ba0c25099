"""A chat whose answers stream in: tokens of a model, many small events over one request, with a button to stop.

EDGE_URL says where the hub is, EDGE_TOKEN what it asks for, EDGE_TRIGGER_SECRET what it signs jobs with; jobs come to
/jobs. Needs `flask` and `edge-hub-client`.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

from edge_hub_client import Client, EdgeError, InvalidSignature, NewEvent, verify_webhook
from flask import Flask, Response, request

PAGES_HUB = os.environ.get("HUB_FOR_PAGES", "http://127.0.0.1:8080")  # where browsers find the hub
SECRET = os.environ["EDGE_TRIGGER_SECRET"]
TOKEN_SECONDS = float(os.environ.get("TOKEN_SECONDS", "0.03"))
app = Flask(__name__, static_folder="page", static_url_path="")
hub = Client()
answers: dict[str, Answer] = {}


def model(prompt: str) -> Iterator[str]:
    """Tokens of an answer. Put the stream of your model here."""
    text = f"You asked: {prompt}. " + "A red house stands on a hill, and its door is open. " * 12 + "The end."
    for token in re.findall(r"\S+\s*", text):
        time.sleep(TOKEN_SECONDS)
        yield token


class Answer:
    """An answer as it is written."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.id = job["id"]
        self.project = job["project"]
        self.prompt = job["data"]["prompt"]
        self.text = ""
        self.is_stopped = False
        self._tokens = model(self.prompt)

    def events(self) -> Iterator[NewEvent]:
        """Its events from here on. The first one holds what is written already."""
        yield self._event("started", prompt=self.prompt, text=self.text)
        for token in self._tokens:
            at = len(self.text)
            self.text += token
            yield self._event("progress", at=at, text=token)
            if self.is_stopped:
                break
        yield self._event("complete", length=len(self.text), stopped=self.is_stopped)

    def _event(self, event_type: str, **data: Any) -> NewEvent:
        return {"type": event_type, "data": {"job": self.id, **data}}

    def publish(self) -> None:
        """Publish it to its end, over as many requests as it takes: one, unless the hub restarts."""
        while True:
            try:
                hub.publish_many(self.project, self.events())
                return
            except EdgeError as error:
                if error.status is not None and error.status < 500:
                    raise
            time.sleep(0.5)


@app.post("/jobs")
def take_job() -> tuple[dict[str, str], int]:
    try:
        job = verify_webhook(SECRET, request.headers, request.get_data())
    except InvalidSignature as error:
        return {"error": error.detail}, 400
    if job["id"] not in answers:  # the hub may send a job again when it lost the answer
        answers[job["id"]] = Answer(job)
        threading.Thread(target=answers[job["id"]].publish, daemon=True).start()
    return {"accepted": job["id"]}, 202


@app.get("/answers/<job_id>")
def answer(job_id: str) -> dict[str, str]:
    """What is written so far, for a page that finds the beginning no longer held."""
    return {"prompt": answers[job_id].prompt, "text": answers[job_id].text}


@app.post("/answers/<job_id>/stop")
def stop(job_id: str) -> dict[str, bool]:
    answers[job_id].is_stopped = True
    return {"stopped": True}


@app.get("/")
def index() -> Response:
    with app.open_resource("page/index.html", "r") as page:
        return Response(page.read().replace("http://127.0.0.1:8080", PAGES_HUB))


if __name__ == "__main__":
    app.run("127.0.0.1", int(os.environ.get("PORT", "9000")), threaded=True)
