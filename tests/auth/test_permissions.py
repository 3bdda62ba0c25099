from __future__ import annotations

import pytest

from edge.auth.permissions import ALL_PERMISSIONS, Permissions, on_all_projects
from edge.config.schema import PERMISSIONS


@pytest.mark.parametrize(
    ("grants", "project", "allowed"),
    [
        (["p1"], "p1", True),
        (["p1"], "p10", False),
        (["p1"], "P1", False),
        (["team-*"], "team-", True),
        (["team-*"], "team-a", True),
        (["team-*"], "team", False),
        (["*"], "anything", True),
        (["*"], None, True),
        (["p1", "team-*"], None, False),
        (["t*m"], "team", False),
        (["*team"], "team", False),
        (["**"], "*x", True),
        (["**"], "x", False),
        ([], "p1", False),
    ],
)
def test_a_grant_is_a_project_or_a_prefix(grants: list[str], project: str | None, allowed: bool) -> None:
    permissions = Permissions({"publish": grants})
    assert allowed is permissions.allow("publish", project)
    assert not permissions.allow("subscribe", project)


def test_all_permissions_are_on_all_projects() -> None:
    assert all(ALL_PERMISSIONS.allow(permission, project) for permission in PERMISSIONS for project in ("p1", None))
    assert ["status"] == [
        permission for permission in PERMISSIONS if on_all_projects(("status",)).allow(permission, None)
    ]
