"""The usual `process_*` metrics, at a price that doesn't grow with the number of streams.

prometheus_client's own collector lists `/proc/self/fd` at each scrape: with 10,000 streams that held the loop for 9 to
28 ms (measured). Since Linux 6.2 the folder's size is the number of its entries, and asking for it takes 2 µs;
before that we have to list it, too. Names and meanings are those every Prometheus client library uses.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_PROC = Path("/proc/self")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = resource.getpagesize()


class ProcessCollector:
    """Reads `/proc/self`; where there is none (not Linux) it has nothing to tell."""

    def __init__(self) -> None:
        self._there = (_PROC / "stat").exists()
        self._booted_seconds = _boot_time_seconds() if self._there else 0.0

    def collect(self) -> Iterator[Metric]:
        if not self._there:
            return
        # What follows the last bracket: the name of the program may hold anything, spaces and brackets too.
        fields = (_PROC / "stat").read_bytes().rpartition(b")")[2].split()
        yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory size in bytes.", float(fields[20]))
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Resident memory size in bytes.", float(fields[21]) * _PAGE_BYTES
        )
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds. A change is a restart.",
            float(fields[19]) / _TICKS + self._booted_seconds,
        )
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds. Near 1 a second the hub is full: it uses one core.",
            (float(fields[11]) + float(fields[12])) / _TICKS,
        )
        yield GaugeMetricFamily(
            "process_open_fds", "Number of open file descriptors; a stream takes one.", float(open_descriptors())
        )
        yield GaugeMetricFamily(
            "process_max_fds",
            "Maximum number of open file descriptors: keep limits.max_connections below it.",
            float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        )


def open_descriptors() -> int:
    """How many descriptors the process has open."""
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208 - the cheap way


def _boot_time_seconds() -> float:
    for line in Path("/proc/stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    return 0.0
