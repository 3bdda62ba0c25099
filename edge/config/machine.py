"""Defaults that follow the machine: with less memory or fewer file descriptors than the defaults assume, they shrink.

A hub that reaches every limit at once then still fits in its memory: a quarter each for rings and streams, an eighth
each for projects and waiting requests, a sixteenth for idempotency keys; the rest is for the program and its buffers.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from edge.config.schema import Config, value_of

_KIB = 1024
_MIB = 1024 * _KIB
_PROGRAM_BYTES = 48 * _MIB
_LEAST_BYTES = 16 * _MIB
"""What the limits share on a machine that is too small for the program itself."""

# (key, share of the memory, bytes that one of it uses: docs/limits.md has the measurements).
_SHARES = (
    ("ring.total_bytes", 4, 1),
    ("limits.max_connections", 4, 8 * _KIB),
    ("limits.max_connections_per_project", 10, 8 * _KIB),
    ("limits.max_projects", 8, 2 * _KIB),
    ("limits.max_waiting", 8, 12 * _KIB),
    ("limits.max_idempotency_keys", 16, 700),
)
# Of the descriptors: publishers, webhooks and files need some as well.
_DESCRIPTOR_SHARES = (("limits.max_connections", 0.9), ("limits.max_connections_per_project", 0.8))
_ROUND_TO = {"ring.total_bytes": _MIB}
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes "no limit" as a number of about 2**63.


class Machine(NamedTuple):
    """What a process may use. None where that can't be found out."""

    memory_bytes: int | None
    memory_source: str
    descriptors: int | None


def this_machine(root: Path = Path("/")) -> Machine:
    """The memory of the cgroup, or of the machine, and the hard limit on file descriptors."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    descriptors = None if hard == resource.RLIM_INFINITY else hard
    limits = [limit for _, limit in cgroups(root)]
    total = memory_info_bytes(root, "MemTotal")
    if limits and (total is None or min(limits) < total):
        return Machine(min(limits), "cgroup", descriptors)
    return Machine(total, "machine", descriptors)


def defaults(machine: Machine) -> dict[str, tuple[int, str]]:
    """The defaults that are smaller on `machine` than elsewhere, by key: the value, and the reason in words."""
    found: dict[str, tuple[int, str]] = {}
    config = Config()
    if machine.memory_bytes is not None:
        shared_bytes = max(machine.memory_bytes - _PROGRAM_BYTES, _LEAST_BYTES)
        reason = f"default for {machine.memory_bytes // _MIB} MiB of memory ({machine.memory_source})"
        for key, share, unit_bytes in _SHARES:
            value = shared_bytes // share // unit_bytes
            value -= value % _ROUND_TO.get(key, 1)
            if value < int(str(value_of(config, key))):
                found[key] = value, reason
    if machine.descriptors is not None:
        reason = f"default for {machine.descriptors} file descriptors"
        for key, part in _DESCRIPTOR_SHARES:
            value = max(1, int(machine.descriptors * part))
            if value < found.get(key, (int(str(value_of(config, key))), ""))[0]:
                found[key] = value, reason
    return found


def cgroups(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process's memory cgroup and of those above it, of version 2 or 1, that have a limit; and
    their limits in bytes.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "memory":
                top, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            elif not controllers and (root / "sys/fs/cgroup/cgroup.controllers").exists():
                top, file = root / "sys/fs/cgroup", "memory.max"
            else:
                continue
            own = top / path.lstrip("/")
            # In a container the path may be the host's; what is mounted is then the container's own cgroup.
            for folder in (own, *own.parents):
                with suppress(OSError, ValueError):  # There is no such file, or it says "max".
                    limit = int((folder / file).read_text())
                    if limit < _UNLIMITED_BYTES and folder.is_relative_to(top):
                        yield folder, limit
            return


def memory_info_bytes(root: Path, field: str) -> int | None:
    """A field of /proc/meminfo."""
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * _KIB
    return None
