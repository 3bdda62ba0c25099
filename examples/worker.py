"""The program behind the hub, as an example: it takes the jobs that were triggered and publishes their progress.

Needs Python alone. EDGE_URL says where the hub is, EDGE_AUTH_TOKEN what it asks for; jobs come to port 9000.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EDGE_URL = os.environ.get("EDGE_URL", "http://127.0.0.1:8080")
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('EDGE_AUTH_TOKEN', '')}"}


def work(job: dict[str, Any]) -> None:
    """Three steps of a second, each published to the job's project."""
    for percent in (33, 66, 100):
        time.sleep(1)
        event = {"type": "progress", "data": {"job": job["id"], "percent": percent}}
        url = f"{EDGE_URL}/projects/{job['project']}/events"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(event).encode(), HEADERS)) as answer:
            print(json.loads(answer.read()), flush=True)


class Jobs(BaseHTTPRequestHandler):
    """Takes a job, says so at once, and works on it afterwards."""

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        threading.Thread(target=work, args=(job,)).start()
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer(("", 9000), Jobs).serve_forever()
