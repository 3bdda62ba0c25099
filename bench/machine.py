"""Where and when it was measured."""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("aiohttp", "aiohttp-sse", "uvloop", "msgspec")
_DEBIAN = ("nginx", "libnginx-mod-nchan", "pushpin")


def describe() -> dict[str, str]:
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{len(cpus)} x {cpus[0].partition(':')[2].strip()} ({_hypervisor()})",
        "kernel": platform.release(),
        "python": f"{platform.python_version()} ({_built()})",
        **{name: version(name) for name in _PACKAGES},
        **{name: _debian_version(name) for name in _DEBIAN},
    }


def _hypervisor() -> str:
    return "a virtual machine" if "hypervisor" in Path("/proc/cpuinfo").read_text() else "bare metal"


def _built() -> str:
    """Distributions optimise by the profile without saying so in the arguments of `configure`."""
    if sys.base_prefix == "/usr":
        return f"the distribution's {_debian_version('python3-minimal')}"
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return "optimised" if "--enable-optimizations" in arguments else "built without optimisations"


def _debian_version(package: str) -> str:
    asked = ["dpkg-query", "--show", "--showformat", "${Version}", package]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "not installed"
