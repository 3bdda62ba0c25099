from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.event import Event
from edge.core.hub import Hub
from edge.server.memory import MemoryWatch
from tests.core.fakes import make_hub

MIB = 1 << 20
LIMIT = 128 * MIB


def memory(root: Path, *, used: int = 0, cached: int = 0, available: int = 1024 * MIB) -> None:
    """The files of a cgroup of 128 MiB, on a machine of 2 GiB."""
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True, exist_ok=True)
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text("0::/\n")
    (root / "proc/meminfo").write_text(f"MemTotal: {2 * 1024 * 1024} kB\nMemAvailable: {available // 1024} kB\n")
    (group / "cgroup.controllers").write_text("memory\n")
    (group / "memory.max").write_text(f"{LIMIT}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\n")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def hub_with(events: int) -> Hub:
    hub = make_hub(total_bytes=256 * MIB)
    for number in range(events):
        hub.publish(f"p{number % 100}", Event("message", b"x" * 1000), 0.0)
    return hub


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_rings_shrink_while_memory_is_low(tmp_path: Path, clock: Clock) -> None:
    memory(tmp_path, used=LIMIT - MIB)
    hub = hub_with(20_000)
    before = hub.counters.ring_memory_bytes
    watch = MemoryWatch(hub, clock, tmp_path)

    await watch.look()

    misses = hub.counters.misses
    assert hub.counters.ring_memory_bytes <= before * 0.75
    assert hub.limits.total_bytes <= before * 0.75
    assert misses.lost == hub.counters.evicted["memory"] > 0, "counted as lost"
    assert misses.misses == misses.recovered + misses.lost + misses.pending

    hub.publish("p1", Event("message", b"y"), 0.0)
    assert hub.counters.ring_memory_bytes <= hub.limits.total_bytes, "it doesn't fill up again"


async def test_rings_grow_again_when_memory_stays_free(tmp_path: Path, clock: Clock) -> None:
    memory(tmp_path, used=LIMIT - MIB)
    hub = hub_with(20_000)
    setting = hub.limits.total_bytes
    watch = MemoryWatch(hub, clock, tmp_path)
    await watch.look()
    low = hub.limits.total_bytes

    memory(tmp_path, used=MIB)
    await watch.look()
    assert low == hub.limits.total_bytes, "not at once"

    for _ in range(60):
        clock.now += 10
        await watch.look()
    assert setting == hub.limits.total_bytes


@pytest.mark.parametrize(
    ("used", "cached", "available", "low"),
    [
        pytest.param(MIB, 0, 1024 * MIB, False, id="free"),
        pytest.param(LIMIT - MIB, 64 * MIB, 1024 * MIB, False, id="full of files that can be dropped"),
        pytest.param(LIMIT - MIB, 0, 1024 * MIB, True, id="the cgroup is full"),
        pytest.param(MIB, 0, 32 * MIB, True, id="the machine is full"),
    ],
)
def test_low_is_the_cgroup_or_the_machine(
    tmp_path: Path, clock: Clock, used: int, cached: int, available: int, low: bool
) -> None:
    memory(tmp_path, used=used, cached=cached, available=available)

    assert low == (MemoryWatch(hub_with(0), clock, tmp_path).missing_bytes() > 0)


async def test_one_ring_always_fits(tmp_path: Path, clock: Clock) -> None:
    memory(tmp_path, used=LIMIT)
    hub = hub_with(100)
    watch = MemoryWatch(hub, clock, tmp_path)

    await watch.look()

    assert hub.limits.max_bytes <= hub.limits.total_bytes, "or the largest event would be refused"
    assert 100 == hub.counters.ring_events, "evicting so little would not help"


def test_where_nothing_can_be_read_memory_is_never_low(tmp_path: Path, clock: Clock) -> None:
    assert MemoryWatch(hub_with(0), clock, tmp_path).missing_bytes() < 0
