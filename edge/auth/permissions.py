"""Permissions, and whose they are.

Invariant: what is not granted is refused. A grant names a project, or a prefix by a `*` at its end (`*` alone is every
project); a `*` anywhere else is not a pattern, and as no project's name holds one it grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from edge.config.schema import PERMISSIONS

ANY = "*"


class Permissions:
    """For each permission the projects it holds for."""

    __slots__ = ("_names", "_prefixes")

    def __init__(self, grants: Mapping[str, Iterable[str]]) -> None:
        """`grants`: projects and prefixes by permission, as the claim of a token has them."""
        self._names: dict[str, frozenset[str]] = {}
        self._prefixes: dict[str, tuple[str, ...]] = {}
        for permission, projects in grants.items():
            listed = list(projects)
            self._names[permission] = frozenset(name for name in listed if not name.endswith(ANY))
            self._prefixes[permission] = tuple(dict.fromkeys(name[:-1] for name in listed if name.endswith(ANY)))

    def allow(self, permission: str, project: str | None) -> bool:
        """Whether `permission` is given on `project`; None is the hub as a whole, which takes `*`."""
        prefixes = self._prefixes.get(permission, ())
        if project is None:
            return "" in prefixes
        return project.startswith(prefixes) or project in self._names.get(permission, ())


def on_all_projects(permissions: Iterable[str]) -> Permissions:
    """`permissions` on every project and on the hub as a whole."""
    return Permissions(dict.fromkeys(permissions, (ANY,)))


ALL_PERMISSIONS = on_all_projects(PERMISSIONS)


class Identity(msgspec.Struct, frozen=True):
    """Who asks: what they may, until when (Unix seconds; None for no end), and the `sub` of a token."""

    permissions: Permissions
    expires_at_seconds: float | None = None
    subject: str | None = None
