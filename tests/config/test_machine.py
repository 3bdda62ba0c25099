from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config.load import describe, load
from edge.config.machine import Machine, defaults, this_machine
from edge.config.schema import Config, value_of

MIB = 1 << 20


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:        1048576 kB\nMemFree:          10 kB\nMemAvailable:     524288 kB\n"


@pytest.mark.parametrize(
    ("files", "memory_bytes", "source"),
    [
        pytest.param({}, None, "machine", id="not Linux"),
        pytest.param({"proc/meminfo": MEMINFO}, 1024 * MIB, "machine", id="no cgroups"),
        pytest.param(
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/cgroup.controllers": "memory\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": f"{128 * MIB}\n",
            },
            128 * MIB,
            "cgroup",
            id="version 2, a limit further up",
        ),
        pytest.param(
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "9:name=systemd:/\n4:memory:/docker/x\n0::/\n",
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{64 * MIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            64 * MIB,
            "cgroup",
            id="version 1",
        ),
        pytest.param(
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/kubepods/pod1\n",
                "sys/fs/cgroup/cgroup.controllers": "memory\n",
                "sys/fs/cgroup/memory.max": f"{256 * MIB}\n",
            },
            256 * MIB,
            "cgroup",
            id="a container whose path is the host's",
        ),
        pytest.param(
            {
                "proc/meminfo": MEMINFO,
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cgroup.controllers": "memory\n",
                "sys/fs/cgroup/memory.max": f"{4096 * MIB}\n",
            },
            1024 * MIB,
            "machine",
            id="a limit above the machine's memory",
        ),
    ],
)
def test_memory_is_the_tightest_limit(
    tmp_path: Path, files: dict[str, str], memory_bytes: int | None, source: str
) -> None:
    found = this_machine(tree(tmp_path, files))

    assert (memory_bytes, source) == (found.memory_bytes, found.memory_source)


def test_a_large_machine_has_the_documented_defaults() -> None:
    assert {} == defaults(Machine(2048 * MIB, "machine", 1 << 20))


def test_a_small_machine_has_smaller_defaults_that_say_why() -> None:
    config, sources = load(None, {}, {}, defaults(Machine(128 * MIB, "cgroup", 20_000)))

    assert (20 * MIB, 2560) == (config.ring.total_bytes, config.limits.max_connections)
    assert "default for 128 MiB of memory (cgroup)" == sources["ring.total_bytes"]
    assert 'total_bytes = "20MiB"  # default for 128 MiB of memory (cgroup)' in describe(config, sources)


def test_few_descriptors_lower_the_number_of_streams() -> None:
    found = defaults(Machine(None, "machine", 1024))

    assert {
        "limits.max_connections": (921, "default for 1024 file descriptors"),
        "limits.max_connections_per_project": (819, "default for 1024 file descriptors"),
    } == found


def test_a_setting_wins_over_the_machine() -> None:
    small = defaults(Machine(128 * MIB, "cgroup", None))

    config, sources = load(None, {"EDGE_LIMITS_MAX_CONNECTIONS": "9000"}, {}, small)

    assert (9000, "EDGE_LIMITS_MAX_CONNECTIONS") == (config.limits.max_connections, sources["limits.max_connections"])


def test_a_configured_ring_fits_in_the_total_of_a_small_machine() -> None:
    small = defaults(Machine(64 * MIB, "cgroup", None))

    config, _ = load(None, {"EDGE_RING_MAX_BYTES": "32MiB"}, {}, small)

    assert 32 * MIB == config.ring.total_bytes


@given(
    memory_bytes=st.none() | st.integers(1, 1 << 40),
    descriptors=st.none() | st.integers(1, 1 << 30),
)
def test_every_machine_has_defaults_that_load_and_are_never_larger(
    memory_bytes: int | None, descriptors: int | None
) -> None:
    found = defaults(Machine(memory_bytes, "machine", descriptors))

    config, _ = load(None, {}, {}, found)

    for key, (value, _) in found.items():
        assert 1 <= value < int(str(value_of(Config(), key)))
        assert value == value_of(config, key)
