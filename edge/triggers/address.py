"""`trigger.url`: where to send, as whom, and what of it may be shown.

Invariant: what is shown has no user, password, path or query. An Inngest event key is the path's last
segment, a chat tool's webhook is all path; the operator has one `trigger.url` and knows it by its host.
"""

from __future__ import annotations

from base64 import b64encode

import msgspec
from yarl import URL


class Address(msgspec.Struct, frozen=True):
    """`url` without credentials, the `Authorization` header they became, and the `shown` form."""

    url: URL
    authorization: str | None
    shown: str


def parse_address(text: str) -> Address:
    """Raises ValueError with a sentence that does not repeat the URL."""
    url = _parse(text)
    if url is None or url.scheme not in ("http", "https") or not url.host:
        raise ValueError("trigger.url is not a URL like https://host/path: give one with http or https and a host")
    authorization = None
    if url.user is not None or url.password is not None:
        pair = f"{url.user or ''}:{url.password or ''}"
        authorization = "Basic " + b64encode(pair.encode()).decode()
    shown = str(url.origin()) + ("" if url.raw_path_qs in ("", "/") else "/…")
    return Address(url.with_user(None), authorization, shown)


def _parse(text: str) -> URL | None:
    if any(character <= " " or character == "\x7f" for character in text):
        return None
    try:
        return URL(text)
    except ValueError:
        return None
