"""Bytes changed at a few places."""

from __future__ import annotations

from hypothesis import strategies as st


def mangle(draw: st.DrawFn, raw: bytearray, junk: st.SearchStrategy[bytes], *, least: int, cut: int) -> bytes:
    """`raw` with `junk` put in or written over, or up to `cut` bytes taken out, at `least` to 4 places."""
    for _ in range(draw(st.integers(least, 4))):
        at = draw(st.integers(0, len(raw)))
        piece = draw(junk)
        match draw(st.integers(0, 2)):
            case 0:
                raw[at:at] = piece
            case 1:
                raw[at : at + len(piece)] = piece
            case _:
                del raw[at : at + draw(st.integers(1, cut))]
    return bytes(raw)
