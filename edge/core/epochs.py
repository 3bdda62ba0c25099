"""Epochs: the names of the lives of a project's history.

Invariant: an epoch is never given twice, not even by different processes, as long as each process has its own `boot`.
"""

from __future__ import annotations

import msgspec


class PastEpoch(msgspec.Struct, frozen=True, array_like=True):
    """An epoch of an earlier process that this history continues. `last_seq` is the last number given in it.

    `whole`: it is known that no event was lost between this epoch and the next.
    """

    epoch: str
    last_seq: int
    whole: bool


class Epochs:
    """Generates epochs for one process. `boot`: see `Hub`."""

    __slots__ = ("_boot", "_given")

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._given = 0

    def new(self) -> str:
        """The next epoch."""
        self._given += 1
        return self._boot + base36(self._given)


def base36(number: int) -> str:
    """A positive integer in digits and lower-case letters."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits
