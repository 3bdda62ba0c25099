"""The usual `process_*` metrics, at a price that doesn't grow with the number of streams.

prometheus_client's own collector lists `/proc/self/fd` at each scrape: with 10,000 streams that held the loop for 9 to
28 ms (measured). Since Linux 6.2 the folder's size is the number of its entries, and asking for it takes 2 µs;
before that it has to be listed here, too. Names and meanings are those every Prometheus client library uses.

Invariant: `/metrics` answers when no file descriptor is left to read them with; they are left out then.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = resource.getpagesize()


class ProcessCollector:
    """Reads `/proc/self/stat`; where there is none (not Linux) it has nothing to show."""

    def __init__(self) -> None:
        self._booted_seconds = _boot_time_seconds()

    def collect(self) -> Iterator[Metric]:
        try:
            stat = Path("/proc/self/stat").read_bytes()
        except OSError:
            return
        # What follows the last bracket: the name of the program may hold anything, spaces and brackets too.
        fields = stat.rpartition(b")")[2].split()
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
        open_fds = open_descriptors()
        if open_fds is not None:
            yield GaugeMetricFamily(
                "process_open_fds", "Number of open file descriptors; a stream takes one.", float(open_fds)
            )
        yield GaugeMetricFamily(
            "process_max_fds",
            "Maximum number of open file descriptors: keep limits.max_connections below it.",
            float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        )


def resident_bytes() -> int | None:
    """Resident memory of the process; None where there is no `/proc`, or no descriptor left to read it with."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return None


def open_descriptors() -> int | None:
    """How many descriptors the process has open; None where that takes a descriptor, and none is left."""
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))  # noqa: PTH116, PTH208 - the cheap way
    except OSError:
        return None


def _boot_time_seconds() -> float:
    try:
        lines = Path("/proc/stat").read_bytes().splitlines()
    except OSError:
        lines = []
    return next((float(line.split()[1]) for line in lines if line.startswith(b"btime ")), 0.0)
