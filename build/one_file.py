"""Runs first in the packaged program (a runtime hook of PyInstaller): ends the one file with its parent, and removes
what others left behind.

The one file is two processes: the parent unpacks a folder `_MEI<its pid><random>` under TMPDIR, runs this program from
there, and removes the folder when the program ends. When the parent is killed, this program does it. When both are, the
next start does: a folder whose parent is gone, and whose `edge.lock` no program holds (which another pid namespace
would not show otherwise). The folder form and other programs' folders are left alone.
"""

import atexit
import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
LONGEST_UNPACKING_SECONDS = 600
"""A folder without a program yet is left alone for so long: its parent may be unpacking in another pid namespace."""


def parent_of(folder: Path) -> int | None:
    """The process that unpacked `folder`; None where none did."""
    name = re.fullmatch(r"_MEI([0-9a-f]{8})\w{6}", folder.name)
    return int(name[1], 16) if name else None


def end_with(parent: int, folder: Path) -> None:
    """SIGTERM, which drains a hub, when `parent` ends before this process; then `folder` goes with it."""

    def remove_if_orphaned() -> None:
        if os.getppid() != parent:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove_if_orphaned)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before
        sys.exit(128 + signal.SIGTERM)


def hold(folder: Path) -> None:
    """Show other starts, as long as this process lives, that it runs from `folder`."""
    lock = os.open(folder / "edge.lock", os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, b"in use\n")
    if lock < 3:  # a standard stream was closed: its number is not ours
        fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(lock)


def remove_left_behind(place: Path) -> None:
    """Remove the folders in `place` whose programs were killed."""
    for folder in place.glob("_MEI*"):
        parent = parent_of(folder)
        if parent is None or Path(f"/proc/{parent}").exists():
            continue
        # Another user's, another program's, or one that another start is removing.
        with contextlib.suppress(OSError):
            lock = os.open(folder / "edge.lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                about = os.fstat(lock)
                was_used = about.st_size > 0 or time.time() - about.st_mtime > LONGEST_UNPACKING_SECONDS
                if about.st_uid == os.geteuid() and was_used:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


unpacked = Path(getattr(sys, "_MEIPASS"))  # noqa: B009 - only PyInstaller's sys has it
unpacked_by = parent_of(unpacked)
if unpacked_by is not None:
    hold(unpacked)
    end_with(unpacked_by, unpacked)
    remove_left_behind(unpacked.parent)
