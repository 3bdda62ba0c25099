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
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": f"{platform.python_version()} ({_built()})",
        **{name: version(name) for name in _PACKAGES},
        **{name: _debian_version(name) for name in _DEBIAN},
    }


def _processor() -> str:
    """Its name, which a virtual machine may shorten, and the numbers that its generation goes by."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    said = {name.strip(): value.strip() for name, _, value in lines}
    count = sum(name.strip() == "model name" for name, _, _ in lines)
    where = "a virtual machine" if "hypervisor" in said["flags"] else "bare metal"
    return f"{count} x {said['model name']}, family {said['cpu family']} model {said['model']} ({where})"


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
