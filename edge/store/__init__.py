"""Where history lives. `base` says what a store is; `memory` is the default, `sqlite` outlives the process."""

from __future__ import annotations

from edge.store.base import Store
from edge.store.memory import MemoryStore
from edge.store.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "Store"]
