"""What pages of the documentation show: commands with their output, to be run and compared."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from tests.faults.hub import HubProcess

_PLACEHOLDERS = (
    (re.compile(r"\b[0-9a-z]{12,13}-(?=\d)"), "EPOCH-"),
    (re.compile(r'"connection":"[0-9a-f]{16}"'), '"connection":"CONNECTION"'),
    (re.compile(r"trg_[0-9a-f]{24}"), "JOB"),
    (re.compile(r"oldest_pending_seconds [\d.]+"), "oldest_pending_seconds AGE"),
    (re.compile(r"disconnected [\d.]+ \w+ ago"), "disconnected A MOMENT ago"),
    (re.compile(r'"time":"[^"]+"'), '"time":"TIME"'),
    (re.compile(r'"ticket":"[\w-]+"'), '"ticket":"TICKET"'),
    (re.compile(r'(?:retry: |"retry_ms":)(?!1000\b)\d+'), "RETRY"),
    (re.compile(r'"waited_ms":[\d.]+'), '"waited_ms":MS'),
    (re.compile(r'"time":"[-\dT:.]+Z"'), '"time":"TIME"'),
    (re.compile(r'retry: \d+\nevent: edge.closing\ndata: {"reason":"finished","retry_ms":\d+}'), "CLOSING"),
)


@dataclass
class Block:
    """One command: how it is run, what it is, and what it prints."""

    kind: str
    command: str
    output: str


def blocks_of(page: str, label: str) -> list[Block]:
    """The console blocks behind `<!-- label -->` or `<!-- label: kind -->`."""
    found = re.findall(rf"<!-- {label}(?:: ([\w ]+))? -->\n```console\n\$ (.+?)\n(.*?)```\n", page, re.DOTALL)
    return [Block(*each) for each in found]


def without_chance(text: str) -> str:
    """`text` with what chance and time decide replaced by names."""
    for pattern, name in _PLACEHOLDERS:
        text = pattern.sub(name, text)
    return text.strip()


async def start(command: str, hub: HubProcess) -> asyncio.subprocess.Process:
    """Run `command` by a shell, against `hub` where the page says 127.0.0.1:8080."""
    # `kill` is the shell's own; not every machine has it as a program.
    return await asyncio.create_subprocess_shell(
        ("" if command.startswith("kill ") else "exec ") + command.replace("127.0.0.1:8080", f"127.0.0.1:{hub.port}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def printed(process: asyncio.subprocess.Process) -> str:
    output, _ = await process.communicate()
    return output.decode()
