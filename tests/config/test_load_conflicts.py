"""Settings that can't be combined; warnings are tested where they are shown."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.config.refused import PUBLIC_PEM, refusal


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"EDGE_LIMITS_MAX_EVENT_BYTES": "2MiB"},
            "limits.max_event_bytes = 2MiB (from EDGE_LIMITS_MAX_EVENT_BYTES): must not be larger than",
        ),
        (
            {"EDGE_LIMITS_MAX_EVENT_BYTES": "2MiB"},
            "must not be larger than ring.max_bytes (1MiB), or an event would not fit its ring",
        ),
        (
            {"EDGE_RING_MAX_BYTES": "1KiB"},
            "ring.max_bytes = 1KiB (from EDGE_RING_MAX_BYTES): must not be smaller than limits",
        ),
        ({"EDGE_LIMITS_MAX_BODY_BYTES": "1000"}, "must not be smaller than limits.max_event_bytes (256KiB)"),
        ({"EDGE_RING_TOTAL_BYTES": "300KiB"}, "must not be smaller than ring.max_bytes (1MiB)"),
        ({"EDGE_TRIGGER_WAIT_SECONDS": "2m"}, "must not be larger than trigger.max_wait_seconds (1m)"),
        ({"EDGE_TRIGGER_MAX_WAIT_SECONDS": "2"}, "must not be smaller than trigger.wait_seconds (3s)"),
        ({"EDGE_STREAM_DEAD_AFTER_SECONDS": "10"}, "must not be smaller than stream.heartbeat_seconds (15s)"),
        (
            {"EDGE_SERVER_TLS_CERT": "c.pem"},
            "server.tls_cert = c.pem (from EDGE_SERVER_TLS_CERT): has no effect without server.tls_key",
        ),
        (
            {"EDGE_SERVER_TLS_KEY": "k.pem"},
            "server.tls_key = k.pem (from EDGE_SERVER_TLS_KEY): has no effect without server.tls_cert",
        ),
        ({"EDGE_AUTH_JWT_ISSUER": "me"}, "has no effect without auth.jwt_key or auth.jwt_jwks_url"),
        (
            {"EDGE_AUTH_JWT_KEY": PUBLIC_PEM, "EDGE_AUTH_JWT_ALGORITHMS": "RS256,HS256"},
            "auth.jwt_algorithms = RS256, HS256 (from EDGE_AUTH_JWT_ALGORITHMS): must not be HMAC",
        ),
        ({"EDGE_AUTH_JWT_JWKS_URL": "https://a/", "EDGE_AUTH_JWT_ALGORITHMS": "HS256"}, "must not be HMAC"),
        ({"EDGE_AUTH_JWT_KEY": "x" * 32, "EDGE_AUTH_JWT_ALGORITHMS": "ES256"}, "is a shared secret"),
        ({"EDGE_AUTH_JWT_KEY": "x" * 32, "EDGE_AUTH_JWT_ALGORITHMS": "none"}, "must be ES256, ES384, "),
        (
            {"EDGE_AUTH_JWT_KEY": PUBLIC_PEM, "EDGE_AUTH_JWT_JWKS_URL": "https://a/"},
            "there is one source of keys",
        ),
    ],
)
def test_conflicting_values_are_refused_naming_what_was_set(environ: Mapping[str, str], line: str) -> None:
    assert line in refusal(environ)
