"""What packaging costs: size, start and memory of both forms of the binary, against the source with the same Python.

    make binary && .make/build/bin/python bench/packaged.py

A start is from the beginning of the process to its first answer; the forms take turns, so that a busy machine is busy
for all of them. Memory is the resident set of all processes of the form, after that answer.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORMS = {
    "from source": [sys.executable, "-m", "edge"],
    "folder": [str(ROOT / "dist" / "edge-dir" / "edge")],
    "one file": [str(ROOT / "dist" / "edge")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each start; needs root")
    arguments = parser.parse_args()
    starts: dict[str, list[float]] = {form: [] for form in FORMS}
    memory: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(arguments.rounds):
        for form, command in FORMS.items():
            if arguments.cold:
                os.sync()
                Path("/proc/sys/vm/drop_caches").write_text("3")
            milliseconds, mib = run_once(command)
            starts[form].append(milliseconds)
            memory[form].append(mib)
    print("| form | size | start, median | start, best | memory |\n| --- | --- | --- | --- | --- |")
    for form in FORMS:
        median, best = statistics.median(starts[form]), min(starts[form])
        print(
            f"| {form} | {size(form)} | {median:.0f} ms | {best:.0f} ms | {statistics.median(memory[form]):.1f} MiB |"
        )


def run_once(command: list[str]) -> tuple[float, float]:
    """Start it and ask it: milliseconds to the answer, MiB of memory then."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "serve", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/healthz", timeout=30) as answer:
            answer.read()
        milliseconds = (time.perf_counter() - began) * 1000
        kib = sum(map(resident_kib, family(process.pid)))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)
    return milliseconds, kib / 1024


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def resident_kib(pid: int) -> int:
    """Its memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def size(form: str) -> str:
    """Of what is delivered."""
    if form == "from source":
        return "-"
    path = ROOT / "dist" / ("edge" if form == "one file" else "edge-dir")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if not file.is_symlink()]
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
