"""`edge init`: writes a configuration file with every key and its default, commented out."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

_KEY = re.compile(r"^(?=[a-z])", re.MULTILINE)


def example() -> str:
    """Every key with its default, ready to be changed."""
    return resources.files("edge").joinpath("static", "edge.example.toml").read_text(encoding="utf-8")


def commented(text: str) -> str:
    """`text` with each key as a comment: a file that changes nothing until a line is uncommented."""
    return _KEY.sub("# ", text)


def write(path: Path, *, force: bool) -> None:
    """Write the commented file. Raises FileExistsError unless `force`, OSError."""
    with path.open("w" if force else "x", encoding="utf-8") as file:
        file.write(commented(example()))
