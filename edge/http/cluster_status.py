"""Looking at projects that several nodes share: the same answers as `status`, with the numbers of all nodes.

What only one node can know (the connections one by one, who came and went last) is this node's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edge.http import schemas
from edge.http.context import Context

if TYPE_CHECKING:
    from edge.cluster.status import View
    from edge.cluster.store import RedisStore


async def project(cluster: RedisStore, name: str, here: schemas.ProjectStatus | None) -> schemas.ProjectStatus | None:
    """What all nodes know of `name`, given what this one does; None when it is unknown."""
    view = await cluster.status.view(name)
    if view is None:
        return None
    misses = schemas.MissesInTime(
        **msgspec.structs.asdict(_misses(view)), first=_moment(view.first_miss), last=_moment(view.last_miss)
    )
    return schemas.ProjectStatus(
        project=name,
        ring=_ring(view),
        misses=misses,
        epoch=view.epoch,
        connections=here.connections if here is not None else [],
        connections_total=view.connections,
        last_connect=here.last_connect if here is not None else None,
        last_disconnect=here.last_disconnect if here is not None else None,
        last_ready=here.last_ready if here is not None else None,
    )


async def projects(cluster: RedisStore, limit: int, offset: int) -> tuple[list[schemas.ProjectSummary], int]:
    """A page of projects, the one published to last first, and how many there are."""
    names, total = await cluster.status.names(offset, limit)
    views = await cluster.status.views(names)
    page = [
        schemas.ProjectSummary(name, _ring(view), _misses(view), view.connections)
        for name, view in zip(names, views, strict=True)
        if view is not None
    ]
    return page, total


def _ring(view: View) -> schemas.Ring:
    if not view.events:
        return schemas.Ring(None, None, 0, 0)
    return schemas.Ring(f"{view.epoch}-{view.oldest}", f"{view.epoch}-{view.newest}", view.events, view.bytes)


def _misses(view: View) -> schemas.Misses:
    return schemas.Misses(view.misses, view.recovered, view.lost, view.pending)


def _moment(wall_seconds: float | None) -> str | None:
    return None if wall_seconds is None else Context.wall_time(wall_seconds)
