"""What each reason means and what to do about it, for `edge.diagnose.explain`; how durations and counts are written."""

from __future__ import annotations

from typing import NamedTuple


class Advice(NamedTuple):
    """`what` happened, as the end of a sentence; `todo` is a sentence of its own."""

    what: str
    todo: str


LEFT = {
    "client": Advice(
        "its client closed the stream (page closed or reloaded, tab put to sleep, EventSource.close())",
        "Reconnect on `error` and when the page becomes visible again; edge.js does. What was missed meanwhile is "
        "replayed.",
    ),
    "dead": Advice(
        "it vanished without a word (network cut, laptop lid closed): its peer acknowledged nothing any more",
        "Nothing here; its client notices by itself if it expects heartbeats (?heartbeat=event) and reconnects when "
        "they stay away, as edge.js does.",
    ),
    "slow": Advice(
        "it did not take what was sent to it for stream.dead_after_seconds",
        "Look at what the client does with each event: it reads more slowly than events come.",
    ),
    "shutdown": Advice(
        "the hub was shutting down", "Nothing: readers are told to come back. Run the next hub on the same address."
    ),
    "deleted": Advice(
        "somebody deleted the project", "Find out who calls DELETE /projects/{project}: it takes `admin`."
    ),
    "restart": Advice(
        "the project's history began anew in Redis, or went on further than this node could follow",
        "Look at Redis: was it emptied, or restarted without appendonly? Readers come back and are told what is gone.",
    ),
    "lifetime": Advice(
        "it had lived for stream.max_lifetime_seconds", "Nothing: its client is told to come back, and resumes."
    ),
    "expired": Advice("its token had expired", "Give the reader a new token or ticket before the old one expires."),
    "error": Advice("its transport failed", "Look at the network and at the proxy between: it broke the connection."),
}
"""By the reason of `edge_connections_removed_total`."""

REFUSED = {
    "unauthenticated": Advice(
        "it showed no valid token (401)",
        "Give the reader a ticket (POST /projects/{project}/ticket) or the cookie edge_token: a browser's EventSource "
        "can't send an Authorization header.",
    ),
    "forbidden": Advice(
        "its token doesn't allow reading this project (403)", "Name the project under `subscribe` in the token's claim."
    ),
    "wrong_host": Advice(
        "it asked under a host name that isn't the hub's (421)",
        "Add the name to server.allowed_hosts, or configure something in auth.",
    ),
    "origin_not_allowed": Advice(
        "its page comes from an origin that isn't allowed (403)", "Add the page's origin to cors.origins."
    ),
    "keys_unavailable": Advice(
        "the keys that its token is checked with can't be fetched (503)",
        "Look at auth.jwt_jwks_url: the hub must reach it.",
    ),
    "too_many_connections": Advice(
        "the hub has all the connections it may have (503)", "Raise limits.max_connections, or run a second hub."
    ),
    "too_many_descriptors": Advice(
        "the process has all the file descriptors it may have (503)",
        "Raise the limit (LimitNOFILE=, ulimit -n): each stream takes one.",
    ),
    "too_many_project_connections": Advice(
        "the project has all the connections it may have (429)",
        "Raise limits.max_connections_per_project; or find the client that opens streams without closing them.",
    ),
    "too_many_address_connections": Advice(
        "its address has all the connections it may have (429)",
        "Raise limits.max_connections_per_address; behind a proxy set server.trusted_proxies.",
    ),
    "too_many_projects": Advice("the hub holds all the projects it may hold (503)", "Raise limits.max_projects."),
    "draining": Advice("the hub was shutting down (503)", "Nothing: the client comes back to the next hub."),
    "not_acceptable": Advice(
        "it did not accept text/event-stream (406)", "Send Accept: text/event-stream, or no Accept header at all."
    ),
    "invalid_project": Advice(
        "its id is none (400)",
        "Ids have 1 to 128 letters, digits and . _ ~ -, and begin with a letter or digit: look for spaces and slashes.",
    ),
    "invalid_parameter": Advice("a parameter of its URL can't be read (400)", "Look at ?since= and ?heartbeat=."),
}
"""By error code."""

_STEPS = ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h"))


def duration(seconds: float) -> str:
    """`0.35 s`, `12 s`, `3 min`, `5 h`, `4 days`."""
    if seconds < 1:
        return f"{max(seconds, 0.0):.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for below, unit_seconds, unit in _STEPS:
        if seconds < below:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def ago(seconds: float) -> str:
    """How long ago."""
    return f"{duration(seconds)} ago"


def count(number: int, noun: str) -> str:
    """`1 reader`, `2 readers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
