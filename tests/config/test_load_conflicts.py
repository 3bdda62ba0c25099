"""Settings that can't be combined, or do nothing; how warnings are shown is tested where they are."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edge.config.load import load, warnings
from tests.config.refused import PUBLIC_PEM, SIGNING_SECRET, refusal


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


@pytest.mark.parametrize(
    ("environ", "missing", "key", "sentence"),
    [
        ({"EDGE_TRIGGER_SECRET": SIGNING_SECRET}, "EDGE_TRIGGER_URL", "trigger.secret", "without trigger.url."),
        ({"EDGE_TRIGGER_FORMAT": "inngest"}, "EDGE_TRIGGER_URL", "trigger.format", "without trigger.url."),
        ({"EDGE_HOOKS_GRACE_SECONDS": "1s"}, "EDGE_HOOKS_URL", "hooks.grace_seconds", "without hooks.url."),
        (
            {"EDGE_SERVER_OUTBOUND_PROXY": "http://p:3128"},
            "EDGE_HOOKS_URL",
            "server.outbound_proxy",
            "without trigger.url or hooks.url or auth.jwt_jwks_url.",
        ),
        (
            {"EDGE_AUTH_REQUIRE_EXP": "true"},
            "EDGE_AUTH_JWT_JWKS_URL",
            "auth.require_exp",
            "without auth.jwt_key or auth.jwt_jwks_url.",
        ),
        ({"EDGE_STORE_DURABILITY": "commit"}, "EDGE_STORE_URL", "store.durability", "set store.url."),
    ],
)
def test_a_setting_without_effect_is_a_warning(
    environ: Mapping[str, str], missing: str, key: str, sentence: str
) -> None:
    (warning,) = warnings(load(None, environ, {})[0])
    assert key == warning[0]
    assert "It has no effect " in warning[1]
    assert warning[1].endswith(sentence)
    given = "sqlite:h.db" if missing == "EDGE_STORE_URL" else "https://a.example/"
    assert [] == list(warnings(load(None, {**environ, missing: given}, {})[0]))


def test_the_defaults_cause_no_warning() -> None:
    assert [] == list(warnings(load(None, {}, {})[0]))
