"""A piece of an application, to be tested: it does a job and publishes its progress."""

from __future__ import annotations

from typing import Any

from edge_hub_client import Client


def render(hub: Client, job: dict[str, Any]) -> None:
    with hub.job(job["project"], job["id"], prompt=job["data"]["prompt"]) as progress:
        progress.progress(percent=50)
        progress.complete(result=f"A picture of {job['data']['prompt']}")
