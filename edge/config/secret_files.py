"""Secrets that stand in files: `auth.token_file` and its like.

Invariant: what is read is a short text without the line end that editors add, and no error holds any of it.
"""

from __future__ import annotations

from pathlib import Path

MAX_BYTES = 64 * 1024


def read(path: Path) -> str:
    """The secret in the file at `path`. Raises ValueError, with a sentence that says why not."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise ValueError("is no path") from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"names a file of more than {MAX_BYTES} bytes")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("names a file that isn't UTF-8") from None
    if not text.strip():
        raise ValueError("names an empty file")
    return text
