"""One question to a running hub, for the command line; the standard library is all it needs.

Invariant: whatever the other side does, it is an answer or an `Unanswered` whose text is one line for a person.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

from edge.logs.text import one_line, shorten

_MAX_ANSWER_BYTES = 1 << 20
_MAX_DETAIL_CHARS = 500


class Unanswered(Exception):
    """Nobody answered, or the answer is a refusal."""


class HubAddress(NamedTuple):
    """Where a hub is: `url` has no path of its own but what a proxy puts before. `verify` its certificate."""

    url: str
    token: str | None
    verify: bool


def get(hub: HubAddress, path: str, accept: str, timeout_seconds: float) -> str:
    """The body of the answer to `GET path`. `timeout_seconds` holds for each step. Raises Unanswered."""
    target = urlsplit(hub.url)
    host = target.hostname or ""
    connection: http.client.HTTPConnection
    if target.scheme == "https":
        context = ssl.create_default_context() if hub.verify else ssl._create_unverified_context()  # noqa: S323 - itself
        connection = http.client.HTTPSConnection(host, target.port, timeout=timeout_seconds, context=context)
    else:
        connection = http.client.HTTPConnection(host, target.port, timeout=timeout_seconds)
    headers = {"User-Agent": "edge", "Accept": accept, "Connection": "close"}
    if hub.token is not None:
        headers["Authorization"] = f"Bearer {hub.token}"
    try:
        connection.request("GET", target.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES).decode(errors="replace")
    except TimeoutError:
        raise Unanswered(f"{hub.url} did not answer within {timeout_seconds:g} s") from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise Unanswered(one_line(f"{hub.url} can't be asked: {str(error) or type(error).__name__}")) from None
    finally:
        connection.close()
    if response.status != 200:
        raise Unanswered(one_line(f"{hub.url} answered {response.status}: {_detail(body)}"))
    return body


def _detail(body: str) -> str:
    """What a problem document says to do; of any other answer, its beginning."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    detail = document.get("detail") if isinstance(document, dict) else None
    return shorten(detail if isinstance(detail, str) else body.strip(), _MAX_DETAIL_CHARS)
