"""What /proc says of a server and all its children: processor seconds and memory."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    found = [pid]
    for each in found:
        for task in (_PROC / str(each) / "task").glob("*"):
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except FileNotFoundError:
                continue
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Seconds on a processor, in user space and in the kernel, of all threads (nanoseconds in /proc/*/schedstat)."""
    total = 0
    for pid in pids:
        for task in (_PROC / str(pid) / "task").glob("*"):
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:
                continue
    return total / 1e9


def pss_bytes(pids: list[int]) -> int:
    """Proportional set size: what these processes take together, shared pages counted once."""
    total = 0
    for pid in pids:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def descriptors(pid: int) -> int:
    return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
