"""What is kept of a target's answer: its first 4 KiB, as JSON where it is JSON.

Invariant: no more than `ANSWER_BYTES` + 1 is taken from the stream, whatever its length says.
"""

from __future__ import annotations

import asyncio
import codecs
from typing import Final

import aiohttp
import msgspec

ANSWER_BYTES: Final = 4096

_utf8 = codecs.getincrementaldecoder("utf-8")


async def read_answer(response: aiohttp.ClientResponse, deadline: float) -> tuple[bytes, bool]:
    """Up to `ANSWER_BYTES` + 1 of the body, and whether that is all of it.

    It ends without an error when the body breaks off or `deadline` (the loop's clock) passes: the status
    has been read, and so the job was taken. A compressed body is left unread: it was asked for without
    compression, and a bomb stays shut.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return b"", False
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            while len(body) <= ANSWER_BYTES:
                chunk = await response.content.read(ANSWER_BYTES + 1 - len(body))
                if not chunk:
                    return bytes(body), True
                body += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        return bytes(body), False
    return bytes(body), False


def answer_json(body: bytes, *, complete: bool) -> msgspec.Raw | msgspec.UnsetType:
    """JSON to show: the body itself where it is whole and JSON in UTF-8, else its text as a string.

    Bad UTF-8 is replaced; a character that the cut went through is left out. Nothing for no body.
    """
    body = body[:ANSWER_BYTES]
    if not body:
        return msgspec.UNSET
    if complete and _is_json(body):
        return msgspec.Raw(body)
    return msgspec.Raw(msgspec.json.encode(_utf8("replace").decode(body, final=complete)))


def _is_json(body: bytes) -> bool:
    try:
        body.decode()  # msgspec does not check the encoding of what it leaves as Raw
        msgspec.json.decode(body, type=msgspec.Raw)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return True
