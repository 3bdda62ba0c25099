from __future__ import annotations

import pytest

from edge.auth.permissions import ALL_PERMISSIONS, Identity, Permissions
from edge.auth.tickets import TICKET_SECONDS, Tickets
from edge.config.schema import PERMISSIONS
from edge.core.errors import LimitReached, Unauthenticated

WHO = Identity(Permissions({"subscribe": ["p1", "team-*"]}))


async def test_a_ticket_is_redeemed_once_within_a_minute() -> None:
    now = [0.0]
    tickets = Tickets(10, 10, lambda: now[0])
    ticket, other = await tickets.issue("p1", WHO), await tickets.issue("p1", WHO)
    now = [TICKET_SECONDS - 0.1]
    assert tickets.redeem(ticket, "p1").permissions.allow("subscribe", "p1")
    with pytest.raises(Unauthenticated):
        tickets.redeem(ticket, "p1")
    now = [TICKET_SECONDS]
    with pytest.raises(Unauthenticated):
        tickets.redeem(other, "p1")
    assert 0 == len(tickets)


async def test_a_ticket_grants_nothing_but_its_stream() -> None:
    tickets = Tickets(10, 10, lambda: 0.0)
    identity = tickets.redeem(await tickets.issue("p1", Identity(ALL_PERMISSIONS, 7.0)), "p1")
    allowed = [
        (permission, project)
        for permission in PERMISSIONS
        for project in ("p1", "p2", None)
        if identity.permissions.allow(permission, project)
    ]
    assert [("subscribe", "p1")] == allowed
    assert 7.0 == identity.expires_at_seconds


async def test_a_ticket_of_another_project_is_used_up() -> None:
    tickets = Tickets(10, 10, lambda: 0.0)
    ticket = await tickets.issue("p1", WHO)
    for project in ("p2", "p1", None):
        with pytest.raises(Unauthenticated):
            tickets.redeem(ticket, project)


async def test_a_full_table_issues_no_ticket_until_old_ones_expire() -> None:
    now = [0.0]
    tickets = Tickets(2, 2, lambda: now[0])
    for _ in range(2):
        await tickets.issue("p1", WHO)
    now = [TICKET_SECONDS - 0.1]
    with pytest.raises(LimitReached):
        await tickets.issue("p1", WHO)
    now = [TICKET_SECONDS]
    await tickets.issue("p1", WHO)
    assert 1 == len(tickets)


async def test_one_project_takes_no_more_than_its_share_of_the_tickets() -> None:
    now = [0.0]
    tickets = Tickets(10, 3, lambda: now[0])
    held = [await tickets.issue("p1", WHO) for _ in range(3)]
    with pytest.raises(LimitReached, match="share"):
        await tickets.issue("p1", WHO)
    await tickets.issue("p2", WHO)
    tickets.redeem(held[0], "p1")
    await tickets.issue("p1", WHO)
    now = [TICKET_SECONDS]
    for _ in range(3):  # expired ones give their place back, too
        await tickets.issue("p1", WHO)
    assert 3 == len(tickets)
