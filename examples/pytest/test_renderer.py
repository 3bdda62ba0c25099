"""The same piece of an application, tested without a hub and with one."""

from __future__ import annotations

from edge_hub_client import Client
from edge_hub_client.testing import FakeHub
from renderer import render


def test_without_a_hub() -> None:
    fake = FakeHub(on_job=lambda job: render(hub, job))
    hub = Client(transport=fake)
    with hub.subscribe("demo") as events:
        hub.trigger("demo", "render", {"prompt": "a red house"})
        fake.cut("demo")  # the client reconnects
        assert [next(events).type for _ in range(3)] == ["started", "progress", "complete"]
    assert fake.jobs[0]["name"] == "render"
    assert fake.events("demo")[-1].json()["result"] == "A picture of a red house"


def test_with_a_hub(hub_url: str, project: str) -> None:
    with Client(hub_url) as hub, hub.subscribe(project) as events:
        render(hub, {"id": "job-1", "project": project, "data": {"prompt": "a red house"}})
        assert [next(events).type for _ in range(3)] == ["started", "progress", "complete"]
