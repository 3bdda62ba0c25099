"""Finds the words of words.txt: `make lint` fails on a forbidden one, `make words` counts the pending ones."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_suffix(".txt")
# The changelog says which old names are which new ones.
EXCLUDED = re.compile(
    r"^(tests/lint/|CHANGELOG\.md$|tests/fuzz/corpus/|requirements/.*\.lock$|LICENSE$|.*package-lock\.json$|docs/.*\.json$)"
)


class Word(NamedTuple):
    section: str
    text: str
    instead: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """A word ends at `_` and at an upper-case letter, too; a phrase may run over lines."""
        spaced = self.text.replace(" ", r"[\s#/*]+")
        return re.compile(rf"(?:(?<![a-zA-Z])|(?<=[a-z])(?=[A-Z]))(?i:{spaced})(?![a-z])")


class Hit(NamedTuple):
    path: str
    line: int
    found: str
    word: Word

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: `{self.found}`: write {self.word.instead}"


def read_words(text: str) -> list[Word]:
    words, section = [], ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            text, instead = re.split(r"\t|  +", line, maxsplit=1)
            words.append(Word(section, text, instead.strip()))
    return words


def find(words: list[Word], path: str, text: str) -> Iterator[Hit]:
    for word in words:
        for match in word.pattern.finditer(text):
            yield Hit(path, text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), word)


def tracked_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for path in listed.split("\0")[:-1]:
        if EXCLUDED.search(path) or not (ROOT / path).is_file():
            continue
        try:
            yield path, (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue


def main() -> int:
    counting = sys.argv[1:] == ["--pending"]
    words = [word for word in read_words(LIST.read_text()) if (word.section == "pending") is counting]
    hits = [hit for path, text in tracked_texts() for hit in find(words, path, text)]
    if counting:
        for word in words:
            print(f"{sum(hit.word == word for hit in hits):5} {word.text}  →  {word.instead}")
        return 0
    print("\n".join(map(str, hits)) or "words: none that is forbidden")
    return bool(hits)


if __name__ == "__main__":
    sys.exit(main())
