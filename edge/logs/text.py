"""Text from outside, made safe to print: one value never becomes two lines, nor a terminal command."""

from __future__ import annotations


def one_line(text: str) -> str:
    """`text` with every character that isn't printable written as an escape (`\\n`, `\\x1b`, `\\u2028`).

    What counts as printable is Unicode's word (`str.isprintable`): controls, line and paragraph separators,
    bidirectional overrides and lone surrogates are not.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shorten(text: str, max_chars: int) -> str:
    """`text`, cut to `max_chars` with an ellipsis as its last character where it is longer."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
