"""What each reason of a disconnect and each error code means, and what to do about it; durations and counts in words.

For `edge.diagnose.explain`. A test holds `LEFT` to the reasons that are counted and `REFUSED` to the error codes.
"""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """`what` happened, as the end of a sentence; `remedy` is a sentence of its own."""

    what: str
    remedy: str


LEFT = {
    "client": Reason(
        "its client closed the stream (page closed or reloaded, tab suspended, EventSource.close())",
        "Reconnect on `error` and when the page becomes visible again, as edge.js does. Missed events are replayed.",
    ),
    "dead": Reason(
        "its peer stopped acknowledging (network cut, laptop lid closed)",
        "Nothing here. Its client notices by itself if it expects heartbeats (?heartbeat=event) and reconnects when "
        "they stop, as edge.js does.",
    ),
    "slow": Reason(
        "it did not read what was sent to it for stream.dead_after_seconds",
        "Check what the client does with each event: it reads more slowly than events arrive.",
    ),
    "shutdown": Reason(
        "the hub was shutting down", "Nothing: subscribers reconnect. Run the next hub on the same address."
    ),
    "deleted": Reason("the project was deleted", "Find out who calls DELETE /projects/{project}: it requires `admin`."),
    "restart": Reason(
        "the project's history started again in Redis, or moved on further than this node could follow",
        "Check Redis: was it emptied, or restarted without appendonly? Subscribers reconnect and get a gap.",
    ),
    "lifetime": Reason("it reached stream.max_lifetime_seconds", "Nothing: its client reconnects and resumes."),
    "expired": Reason("its token expired", "Give the subscriber a new token or ticket before the old one expires."),
    "finished": Reason(
        "it had received the project's last event (published with ?final=true)",
        "Nothing: the project is finished. Publishing to it opens it again.",
    ),
    "error": Reason("its transport failed", "Check the network and the proxy in between: it broke the connection."),
}
"""By the reason of `edge_connections_removed_total`."""

REFUSED = {
    "unauthenticated": Reason(
        "it sent no valid token (401)",
        "Give the subscriber a ticket (POST /projects/{project}/ticket) or the cookie edge_token: a browser's "
        "EventSource can't send an Authorization header.",
    ),
    "forbidden": Reason(
        "its token does not allow subscribing to this project (403)",
        "Name the project under `subscribe` in the token's claim.",
    ),
    "wrong_host": Reason(
        "it used a host name that isn't the hub's (421)", "Add the name to server.allowed_hosts, or configure auth."
    ),
    "origin_not_allowed": Reason(
        "its page is from an origin that is not allowed (403)",
        "Add the page's origin to cors.origins. Behind a proxy, pass the browser's Host on (for nginx: "
        "proxy_set_header Host $http_host); the hub's log names the Origin and the Host that were compared.",
    ),
    "keys_unavailable": Reason(
        "the keys to verify its token with could not be fetched (503)",
        "Check auth.jwt_jwks_url: the hub must reach it.",
    ),
    "too_many_connections": Reason(
        "the hub is at limits.max_connections (503)", "Raise limits.max_connections, or run a second hub."
    ),
    "too_many_descriptors": Reason(
        "the process is out of file descriptors (503)",
        "Raise the limit (LimitNOFILE=, ulimit -n): each stream takes one.",
    ),
    "too_many_project_connections": Reason(
        "the project is at limits.max_connections_per_project (429)",
        "Raise limits.max_connections_per_project, or find the client that opens streams without closing them.",
    ),
    "too_many_address_connections": Reason(
        "its address is at limits.max_connections_per_address (429)",
        "Raise limits.max_connections_per_address; behind a proxy set server.trusted_proxies.",
    ),
    "too_many_projects": Reason("the hub is at limits.max_projects (503)", "Raise limits.max_projects."),
    "draining": Reason("the hub was shutting down (503)", "Nothing: the client reconnects to the next hub."),
    "not_acceptable": Reason(
        "it did not accept text/event-stream (406)", "Send Accept: text/event-stream, or no Accept header at all."
    ),
    "invalid_project": Reason(
        "its project id is invalid (400)",
        "Ids have 1 to 128 letters, digits and . _ ~ -, and begin with a letter or digit: look for spaces and slashes.",
    ),
    "invalid_parameter": Reason("a query parameter is invalid (400)", "Check ?since= and ?heartbeat=."),
}
"""By error code."""

TRIGGERS = {
    "waited": "A trigger waited {seconds} for a subscriber",
    "no_connection": "A trigger timed out after {seconds}: no subscriber was connected and confirmed",
    "dispatched_anyway": "A trigger started its job without a subscriber, after {seconds} (on_timeout=dispatch)",
    "cancelled": "A trigger's caller disconnected after waiting {seconds}",
    "failed": "A trigger's target did not accept the job",
}

_STEPS = ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h"))


def duration(seconds: float) -> str:
    """`2 ms`, `0.35 s`, `12 s`, `3 min`, `5 h`, `4 days`."""
    if seconds < 0.1:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for below, unit_seconds, unit in _STEPS:
        if seconds < below:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"


def count(number: int, noun: str) -> str:
    """`1 subscriber`, `2 subscribers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
