"""When a node subscribes again, although nothing has raised an error."""

from __future__ import annotations

from typing import Any, cast

import pytest

from edge.cluster.client import NODE_HEARTBEAT_SECONDS, NODE_TTL_SECONDS
from edge.cluster.subscription import Subscription
from edge.supervisor import Supervisor


async def test_a_heartbeat_that_is_not_heard_for_long_breaks_the_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    now, breaks = [0.0], []
    subscription = Subscription(cast(Any, None), lambda: now[0], Supervisor(), list, cast(Any, None))
    monkeypatch.setattr(subscription, "break_off", lambda: breaks.append(now[0]))
    now[0] = 100.0  # Redis took no writes for that long, so no heartbeat was published
    while not breaks:
        subscription.heartbeat_published()
        now[0] += NODE_HEARTBEAT_SECONDS
    assert [100.0 + NODE_TTL_SECONDS + NODE_HEARTBEAT_SECONDS] == breaks
