from __future__ import annotations

import pytest

from edge.auth.permissions import ALL_PERMISSIONS, Identity, Permissions
from edge.auth.tickets import TICKET_SECONDS, Tickets
from edge.config.schema import PERMISSIONS
from edge.core.errors import LimitReached, Unauthenticated

WHO = Identity(Permissions({"subscribe": ["p1", "team-*"]}))


def test_a_ticket_is_redeemed_once_within_a_minute() -> None:
    tickets = Tickets(10, 10)
    ticket = tickets.issue("p1", WHO, now=0.0)
    assert tickets.redeem(ticket, "p1", now=TICKET_SECONDS - 0.1).permissions.allow("subscribe", "p1")
    for old in (ticket, tickets.issue("p1", WHO, now=0.0)):
        with pytest.raises(Unauthenticated):
            tickets.redeem(old, "p1", now=TICKET_SECONDS)
    assert 0 == len(tickets)


def test_a_ticket_grants_nothing_but_its_stream() -> None:
    tickets = Tickets(10, 10)
    identity = tickets.redeem(tickets.issue("p1", Identity(ALL_PERMISSIONS, 7.0), now=0.0), "p1", now=0.0)
    allowed = [
        (permission, project)
        for permission in PERMISSIONS
        for project in ("p1", "p2", None)
        if identity.permissions.allow(permission, project)
    ]
    assert [("subscribe", "p1")] == allowed
    assert 7.0 == identity.expires_at_seconds


def test_a_ticket_of_another_project_is_used_up() -> None:
    tickets = Tickets(10, 10)
    ticket = tickets.issue("p1", WHO, now=0.0)
    for project in ("p2", "p1", None):
        with pytest.raises(Unauthenticated):
            tickets.redeem(ticket, project, now=0.0)


def test_a_full_table_issues_no_ticket_until_old_ones_expire() -> None:
    tickets = Tickets(2, 2)
    for _ in range(2):
        tickets.issue("p1", WHO, now=0.0)
    with pytest.raises(LimitReached):
        tickets.issue("p1", WHO, now=TICKET_SECONDS - 0.1)
    tickets.issue("p1", WHO, now=TICKET_SECONDS)
    assert 1 == len(tickets)


def test_one_project_takes_no_more_than_its_share_of_the_tickets() -> None:
    tickets = Tickets(10, 3)
    held = [tickets.issue("p1", WHO, now=0.0) for _ in range(3)]
    with pytest.raises(LimitReached, match="share"):
        tickets.issue("p1", WHO, now=0.0)
    tickets.issue("p2", WHO, now=0.0)
    tickets.redeem(held[0], "p1", now=0.0)
    tickets.issue("p1", WHO, now=0.0)
    for _ in range(3):  # expired ones give their place back, too
        tickets.issue("p1", WHO, now=TICKET_SECONDS)
    assert 3 == len(tickets)
