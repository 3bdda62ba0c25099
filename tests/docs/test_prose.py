"""Pages of prose have one sentence a line, so that a diff shows what was changed, and lines that fit a screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHANGELOG = ROOT / "CHANGELOG.md"  # a line is an entry
PAGES = [page for folder in (ROOT, ROOT / "docs") for page in sorted(folder.glob("*.md")) if page != CHANGELOG]
LONGEST = 119
FENCE = re.compile(r"\s*(```+|~~~+)")
# Left out before a line is read as prose: targets of links, code, the marker of a list, a lead-in in bold.
NOT_PROSE = re.compile(r"\]\([^)]*\)|^\s*(?:\d+\.|[-*])\s+(?:\*\*[^*]+\*\*\s*)?|^\*\*[^*]+\*\*\s+")
CODE = re.compile(r"(`+).+?\1")
NEXT_SENTENCE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)[.!?][\"')\]*]*\s+[\"'(\[*]*[A-Z`]")


def prose_of(page: str) -> Iterator[tuple[int, str]]:
    """The numbered lines outside code, tables, comments and pictures."""
    fence = ""
    for number, line in enumerate(page.splitlines(), 1):
        if marker := FENCE.match(line):
            if not fence or marker[1].startswith(fence):
                fence = "" if fence else marker[1]
        elif not fence and not line.lstrip().startswith(("|", "<!--", "![")):
            yield number, line


def faults_of(page: str) -> list[str]:
    faults = []
    for number, line in prose_of(page):
        if NEXT_SENTENCE.search(NOT_PROSE.sub("", CODE.sub("`code`", line))):
            faults.append(f"line {number} holds more than one sentence: {line}")
        if len(line) > LONGEST:
            faults.append(f"line {number} has {len(line)} characters: {line}")
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_one_sentence_a_line(page: Path) -> None:
    assert [] == faults_of(page.read_text())


@pytest.mark.parametrize(
    "line",
    ["One. Two.", "Is it? `edge` says so.", "(One.) Two.", '"One." Two.', "- One. Two.", "1. One. **Two.**", "x" * 120],
)
def test_a_line_at_fault_is_found(line: str) -> None:
    assert 1 == len(faults_of(line))


@pytest.mark.parametrize(
    "line",
    [
        "One sentence, of `edge 0.2. Or later`.",
        "- **A lead-in.** One sentence.",
        "1. One of [a list](x.md).",
        "Python 3.11 or later, e.g. Debian's.",
        "| a table. Has several. |",
        "```\nOne. Two.\n```",
    ],
)
def test_a_line_without_fault_passes(line: str) -> None:
    assert [] == faults_of(line)
