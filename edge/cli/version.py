"""What `edge --version` prints."""

from __future__ import annotations

import sys

from edge import __version__


def version_text() -> str:
    """`edge 0.1.0`, the commit where a build wrote it down, and what it runs on."""
    from importlib import import_module  # noqa: PLC0415
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        build = import_module("edge._build_info")
        built = f" (commit {build.COMMIT}, for glibc {build.GLIBC} or later)"
    except ModuleNotFoundError:  # from source
        built = ""
    parts = [f"Python {sys.version.split()[0]}"]
    for package in ("aiohttp", "aiohttp-sse", "uvloop", "msgspec", "structlog"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # uvloop doesn't exist everywhere, nor metadata in every bundle
            continue
    return f"edge {__version__}{built}\n{', '.join(parts)}\n"
