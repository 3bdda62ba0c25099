from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest

from edge.auth import keys
from edge.auth.permissions import ALL_PERMISSIONS, Identity, Permissions, on_all_projects
from edge.auth.tickets import TICKET_SECONDS, Tickets
from edge.auth.tokens import UnusableKey, Verifier
from edge.config.schema import PERMISSIONS, AuthSettings
from edge.core.errors import EdgeError, LimitReached, Unauthenticated
from tests.auth.keys import ALGORITHM, KINDS, private_pem, public_pem

SECRET = "0123456789abcdef0123456789abcdef"
GRANTS = {"subscribe": ["p1", "team-*"]}


def encoded(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode({"edge": GRANTS, **claims}, key, algorithm, headers=headers or None)


async def refusal(verifier: Verifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(token)
    assert len(token) < 10 or token not in caught.value.detail
    return caught.value.detail


# --- permissions ---


@pytest.mark.parametrize(
    ("grants", "project", "allowed"),
    [
        (["p1"], "p1", True),
        (["p1"], "p10", False),
        (["p1"], "P1", False),
        (["team-*"], "team-", True),
        (["team-*"], "team-a", True),
        (["team-*"], "team", False),
        (["*"], "anything", True),
        (["*"], None, True),
        (["p1", "team-*"], None, False),
        (["t*m"], "team", False),
        (["*team"], "team", False),
        (["**"], "*x", True),
        (["**"], "x", False),
        ([], "p1", False),
    ],
)
def test_a_grant_is_a_project_or_a_prefix(grants: list[str], project: str | None, allowed: bool) -> None:
    permissions = Permissions({"publish": grants})
    assert allowed is permissions.allow("publish", project)
    assert not permissions.allow("subscribe", project)


def test_all_permissions_are_on_all_projects() -> None:
    assert all(ALL_PERMISSIONS.allow(permission, project) for permission in PERMISSIONS for project in ("p1", None))
    assert ["status"] == [
        permission for permission in PERMISSIONS if on_all_projects(("status",)).allow(permission, None)
    ]


# --- JSON Web Tokens ---


async def test_the_static_token_has_all_permissions() -> None:
    verifier = Verifier(AuthSettings(token=("abc",)))
    assert (await verifier.verify("abc")).permissions is ALL_PERMISSIONS
    for wrong in ("", "ab", "abcd", "ABC", "a.b.c", "\udcff", "é" * 9000):
        await refusal(verifier, wrong)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_shared_secret_checks_hmac(algorithm: str) -> None:
    secret = SECRET * 2
    identity = await Verifier(AuthSettings(jwt_key=secret)).verify(encoded({}, secret, algorithm))
    assert identity.permissions.allow("subscribe", "team-7")
    assert not identity.permissions.allow("publish", "team-7")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_public_key_checks_what_its_private_one_signed(kind: str) -> None:
    verifier = Verifier(AuthSettings(jwt_key=public_pem(kind)))
    identity = await verifier.verify(encoded({}, private_pem(kind), ALGORITHM[kind]))
    assert identity.permissions.allow("subscribe", "p1")
    await refusal(verifier, encoded({}, private_pem(kind, 1), ALGORITHM[kind]))


def forged(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """A token that PyJWT would refuse to make."""

    def part(document: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")

    signed = part(header) + b"." + part(claims)
    digest = hmac.new(key, signed, hashlib.sha256).digest() if key else b""
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_public_key_is_never_a_shared_secret(kind: str) -> None:
    pem = public_pem(kind)
    verifier = Verifier(AuthSettings(jwt_key=pem))
    for key in (pem, pem.strip(), pem + "\n"):
        await refusal(verifier, forged({"alg": "HS256", "typ": "JWT"}, {"edge": GRANTS}, key.encode()))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS1", "RS256", "ES256K", None, 7, ["HS256"]])
async def test_an_algorithm_that_does_not_fit_the_key_is_refused(algorithm: object) -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET))
    for key in (b"", SECRET.encode()):
        await refusal(verifier, forged({"alg": algorithm}, {"edge": GRANTS}, key))


async def test_the_named_algorithms_are_the_only_ones() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET * 2, jwt_algorithms=("HS512",)))
    await verifier.verify(encoded({}, SECRET * 2, "HS512"))
    await refusal(verifier, encoded({}, SECRET * 2, "HS256"))


async def test_a_short_secret_is_not_used_with_a_long_hash() -> None:
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = encoded({}, SECRET, "HS512")
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), token)


async def test_time_claims() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET))
    now = time.time()
    for claims in ({"exp": now + 30}, {"nbf": now + 5}, {"iat": now + 5}, {}):
        await verifier.verify(encoded(claims))
    for late_seconds in (1, 5, 30):
        expired = encoded({"exp": now - late_seconds})
        assert "The token has expired; get a new one." == await refusal(verifier, expired)
    assert "not valid yet" in await refusal(verifier, encoded({"nbf": now + 60}))
    assert "not valid yet" in await refusal(verifier, encoded({"iat": now + 60}))
    strict = Verifier(AuthSettings(jwt_key=SECRET, jwt_skew_seconds=0))
    await refusal(strict, encoded({"exp": now - 1}))


async def test_a_token_ends_at_its_exp_whenever_it_is_shown() -> None:
    exp = int(time.time() + 5)
    verifier = Verifier(AuthSettings(jwt_key=SECRET))
    assert exp == (await verifier.verify(encoded({"exp": exp}))).expires_at_seconds
    assert exp == (await verifier.verify(encoded({"exp": exp}))).expires_at_seconds


async def test_a_token_without_exp_is_refused_where_one_is_required() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET, require_exp=True))
    assert "auth.require_exp" in await refusal(verifier, encoded({}))
    await verifier.verify(encoded({"exp": int(time.time() + 60)}))


async def test_audience_and_issuer_are_checked_if_configured() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET, jwt_audience="edge", jwt_issuer="me"))
    await verifier.verify(encoded({"aud": "edge", "iss": "me"}))
    await verifier.verify(encoded({"aud": ["other", "edge"], "iss": "me"}))
    for claims in ({}, {"aud": "edge"}, {"iss": "me"}, {"aud": "other", "iss": "me"}, {"aud": "edge", "iss": "you"}):
        await refusal(verifier, encoded(claims))
    # A token for a named audience is not for a hub without one.
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), encoded({"aud": "other"}))


@pytest.mark.parametrize("exp", [float("inf"), float("nan"), 1e300, -1, "soon", [], {}, 1 << 70])
async def test_an_exp_that_is_no_date_is_refused(exp: object) -> None:
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), forged({"alg": "HS256"}, {"exp": exp}, SECRET.encode()))


@pytest.mark.parametrize(
    "claim",
    [[], "subscribe", 7, {"subscribe": "p1"}, {"subscribe": [1]}, {"subscribe": None}, {"x": ["p"] * 3, "y": 1}],
)
async def test_a_claim_of_another_form_is_refused(claim: object) -> None:
    detail = await refusal(Verifier(AuthSettings(jwt_key=SECRET)), encoded({"edge": claim}))
    assert '"edge"' in detail


async def test_a_token_without_permissions_may_do_nothing() -> None:
    token = jwt.encode({"sub": "me"}, SECRET, "HS256")
    identity = await Verifier(AuthSettings(jwt_key=SECRET)).verify(token)
    assert not any(identity.permissions.allow(permission, "p1") for permission in PERMISSIONS)


async def test_a_token_names_a_bounded_number_of_projects() -> None:
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), encoded({"edge": {"subscribe": ["p"] * 1001}}))


@pytest.mark.parametrize("text", ["crit", "b64"])
async def test_unknown_extensions_are_refused(text: str) -> None:
    header = {"alg": "HS256", "crit": [text], text: False}
    await refusal(Verifier(AuthSettings(jwt_key=SECRET)), forged(header, {"edge": GRANTS}, SECRET.encode()))


async def test_what_was_checked_is_remembered_no_longer_than_the_token_lives() -> None:
    now = time.time()
    verifier = Verifier(AuthSettings(jwt_key=SECRET, jwt_skew_seconds=0))
    assert verifier.webtokens is not None
    token = encoded({"exp": int(now + 60)})
    first = await verifier.verify(token)
    assert first is await verifier.verify(token)
    verifier._now = verifier.webtokens._now = lambda: now + 61
    with pytest.raises(EdgeError):
        # PyJWT asks its own clock, which says that the token is good; ours has the last word.
        await verifier.verify(token)


async def test_the_memory_of_checked_tokens_is_bounded() -> None:
    verifier = Verifier(AuthSettings(jwt_key=SECRET))
    for number in range(1100):
        await verifier.verify(encoded({"jti": str(number)}))
    assert len(verifier._remembered) <= 1024


@pytest.mark.parametrize(
    "pem", ["-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n", "-----BEGIN CERTIFICATE-----\n-----END"]
)
def test_an_invalid_key_is_reported_without_showing_it(pem: str) -> None:
    with pytest.raises(UnusableKey) as caught:
        Verifier(AuthSettings(jwt_key=pem))
    assert "MCow" not in str(caught.value)


def test_a_key_shows_no_secret() -> None:
    assert SECRET not in repr(keys.from_setting(SECRET, ()))


# --- tickets ---

WHO = Identity(Permissions(GRANTS))


def test_a_ticket_is_redeemed_once_within_a_minute() -> None:
    tickets = Tickets(10, 10)
    ticket = tickets.issue("p1", WHO, now=0.0)
    assert tickets.redeem(ticket, "p1", now=TICKET_SECONDS - 0.1).permissions.allow("subscribe", "p1")
    for old in (ticket, tickets.issue("p1", WHO, now=0.0)):
        with pytest.raises(Unauthenticated):
            tickets.redeem(old, "p1", now=TICKET_SECONDS)
    assert 0 == len(tickets)


def test_a_ticket_grants_nothing_but_its_stream() -> None:
    tickets = Tickets(10, 10)
    identity = tickets.redeem(tickets.issue("p1", Identity(ALL_PERMISSIONS, 7.0), now=0.0), "p1", now=0.0)
    allowed = [
        (permission, project)
        for permission in PERMISSIONS
        for project in ("p1", "p2", None)
        if identity.permissions.allow(permission, project)
    ]
    assert [("subscribe", "p1")] == allowed
    assert 7.0 == identity.expires_at_seconds


def test_a_ticket_of_another_project_is_used_up() -> None:
    tickets = Tickets(10, 10)
    ticket = tickets.issue("p1", WHO, now=0.0)
    for project in ("p2", "p1", None):
        with pytest.raises(Unauthenticated):
            tickets.redeem(ticket, project, now=0.0)


def test_a_full_table_issues_no_ticket_until_old_ones_expire() -> None:
    tickets = Tickets(2, 2)
    for _ in range(2):
        tickets.issue("p1", WHO, now=0.0)
    with pytest.raises(LimitReached):
        tickets.issue("p1", WHO, now=TICKET_SECONDS - 0.1)
    tickets.issue("p1", WHO, now=TICKET_SECONDS)
    assert 1 == len(tickets)


def test_one_project_takes_no_more_than_its_share_of_the_tickets() -> None:
    tickets = Tickets(10, 3)
    held = [tickets.issue("p1", WHO, now=0.0) for _ in range(3)]
    with pytest.raises(LimitReached, match="share"):
        tickets.issue("p1", WHO, now=0.0)
    tickets.issue("p2", WHO, now=0.0)
    tickets.redeem(held[0], "p1", now=0.0)
    tickets.issue("p1", WHO, now=0.0)
    for _ in range(3):  # expired ones give their place back, too
        tickets.issue("p1", WHO, now=TICKET_SECONDS)
    assert 3 == len(tickets)
