"""A page of projects: which, in what order, and never by looking at all of them in one turn of the event loop."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from edge.cluster import local
from edge.cluster.local import LocalNode
from edge.core import resume
from edge.core.project import Project
from edge.supervisor import Supervisor
from tests.core.fakes import FakeConnection, make_hub, text


def node(**connections: int) -> LocalNode:
    hub = make_hub()
    for name, count in connections.items():
        for number in range(count):
            hub.attach(name, FakeConnection(hub, f"{name}{number}"), resume.nothing, 0.0)
    return LocalNode(hub, cast(Any, None), cast(Any, None), lambda: 0.0, Supervisor())


async def names(node: LocalNode, order: local.Order = "busiest", match: str = "") -> list[str]:
    return [name for name, _ in (await node.page(0, 100, order, match))[0]]


async def test_most_connections_first_then_the_last_published() -> None:
    found = node(one=1, two=2, also=1)
    for now, name in enumerate(("old", "two", "new")):
        found._hub.publish(name, text(), float(now))
    assert ["two", "also", "one", "new", "old"] == await names(found)
    assert ["new", "old", "one"] == (await names(found, "pending"))[:2] + (await names(found, "name", "ON"))
    assert ["also", "new", "old", "one", "two"] == await names(found, "name")


@pytest.mark.parametrize("order", local.ORDERS)
async def test_no_turn_looks_at_all_projects(order: local.Order, monkeypatch: pytest.MonkeyPatch) -> None:
    found = node()
    for number in range(3 * local.PROJECTS_A_TURN):
        found._hub.publish(f"p{number}", text(), 0.0)
    looked: list[int] = []
    rank = local._rank

    def counted(project: Project, by: local.Order) -> tuple[float, float, str]:
        looked[-1] += 1
        return rank(project, by)

    monkeypatch.setattr(local, "_rank", counted)
    page = asyncio.ensure_future(found.page(5, 10, order, "p"))
    while not page.done():
        looked.append(0)
        await asyncio.sleep(0)
    assert max(looked) <= local.PROJECTS_A_TURN
    listed, total = page.result()
    assert (10, 3 * local.PROJECTS_A_TURN) == (len(listed), total)
