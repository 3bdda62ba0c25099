from __future__ import annotations

import pytest

from edge.config.load import ConfigError, describe, load
from edge.config.schema import value_of
from edge.config.texts import RedisAddress, parse_redis_url
from tests.config.refused import PUBLIC_PEM, SIGNING_SECRET, refusal

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress("redis", (("h", 6379),))),
        ("redis://h/", RedisAddress("redis", (("h", 6379),))),
        ("rediss://h:7000/3", RedisAddress("rediss", (("h", 7000),), database=3)),
        ("redis://[::1]:7000/3", RedisAddress("redis", (("::1", 7000),), database=3)),
        ("redis://[::1]", RedisAddress("redis", (("::1", 6379),))),
        ("redis://h?db=2&prefix=a", RedisAddress("redis", (("h", 6379),), database=2, prefix="a:")),
        ("redis://h/2?prefix=a:b:", RedisAddress("redis", (("h", 6379),), database=2, prefix="a:b:")),
        ("redis://:p%2Fw%3F%23@h", RedisAddress("redis", (("h", 6379),), password="p/w?#")),
        ("redis://u:p%40w@h", RedisAddress("redis", (("h", 6379),), username="u", password="p@w")),
        ("rediss://h?ca=/etc/ca.pem", RedisAddress("rediss", (("h", 6379),), ca_file="/etc/ca.pem")),
        ("redis+unix:///run/r.sock", RedisAddress("redis+unix", path="/run/r.sock")),
        (
            "redis+unix://u:p@/run/r.sock?db=1",
            RedisAddress("redis+unix", (), "/run/r.sock", "", 1, username="u", password="p"),
        ),
        (
            "redis+sentinel://:p@a,b:1/main/2?prefix=x&sentinel_password=s",
            RedisAddress(
                "redis+sentinel",
                (("a", 26379), ("b", 1)),
                service="main",
                database=2,
                prefix="x:",
                password="p",
                sentinel_password="s",
            ),
        ),
    ],
)
def test_redis_url_is_parsed(url: str, address: RedisAddress) -> None:
    assert address == parse_redis_url(url)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        (f"redis://:{SECRET}/x@h:6379/0", "percent-encoded"),
        (f"redis://:{SECRET}#x@h:6379/0", "percent-encoded"),
        (f"redis://:{SECRET}?x@h:6379/0", "percent-encoded"),
        (f"redis://u:x/{SECRET}@h", "percent-encoded"),
        (f"redis://u:{SECRET}", "port that is not a number"),
        (f"redis://{SECRET}@h", "no password"),
        (f"redis://:{SECRET}@", "names no host"),
        (f"redis://:{SECRET}@h:0", "from 1 to 65535"),
        (f"redis://:{SECRET}@h:", "from 1 to 65535"),
        (f"redis://:{SECRET}@h:99999", "port that is not a number"),
        (f"redis://:{SECRET}@h/abc", "database that is not a number"),
        (f"redis://:{SECRET}@h/-1", "database that is not a number"),
        (f"redis://:{SECRET}@h/1/2", "database that is not a number"),
        (f"redis://:{SECRET}@h/1?db=2", "database twice"),
        (f"redis://:{SECRET}@h?foo=bar", "unknown parameter; the known ones are db, prefix, ca"),
        (f"redis://:{SECRET}@h?prefix", "without a value"),
        (f"redis://:{SECRET}@h?prefix=a&prefix=b", "twice"),
        (f"redis://:{SECRET}@h?prefix={{a}}", "prefix that is not"),
        (f"redis://:{SECRET}@a b", "must be written"),
        (f"redis://:{SECRET}@a,b", "host that is not a name"),
        (f"redis+unix://:{SECRET}@h/run/r.sock", "redis+unix:///PATH"),
        (f"redis+unix://:{SECRET}@", "redis+unix:///PATH"),
        (f"redis+sentinel://:{SECRET}@h", "/SERVICE/DATABASE"),
        (f"unix:///run/{SECRET}", "redis+unix:///PATH"),
    ],
)
def test_malformed_redis_url_is_one_line_without_the_secret(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(None, {"EDGE_STORE_URL": url}, {})
    line = str(refused.value)
    assert line.startswith("store.url = *** (from EDGE_STORE_URL): ")
    assert complaint in line
    assert SECRET not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://u:{SECRET}@h", "redis://h:6379/0"),
        (f"rediss://:{SECRET}@[::1]:7000/3?prefix=a", "rediss://[::1]:7000/3?prefix=a:"),
        (f"redis+unix://:{SECRET}@/run/r.sock?prefix=a", "redis+unix:///run/r.sock?db=0&prefix=a:"),
        (
            f"redis+sentinel://:{SECRET}@a,b/main?sentinel_password={SECRET}",
            "redis+sentinel://a:26379,b:26379/main/0",
        ),
    ],
)
def test_check_config_shows_a_redis_url_without_its_passwords(url: str, shown: str) -> None:
    config, sources = load(None, {"EDGE_STORE_URL": url}, {})
    assert f'url = "{shown}"  # from EDGE_STORE_URL' in describe(config, sources)
    assert SECRET not in repr(config) + repr(parse_redis_url(url)) + str(parse_redis_url(url))


@pytest.mark.parametrize("key", ["TRIGGER_URL", "AUTH_JWT_JWKS_URL"])
def test_a_password_with_a_slash_in_any_url_is_not_shown(key: str) -> None:
    config, sources = load(None, {f"EDGE_{key}": f"https://{SECRET}/x@h/path"}, {})
    assert SECRET not in describe(config, sources) + repr(config)


@pytest.mark.parametrize(
    ("variable", "values"),
    [
        ("SERVER_HOST", ["http://x", "a b", "[::1]", "a:80", "-a", "a..b", " ", "a\n"]),
        ("SERVER_HOST", ["unix:", "unix:relative.sock", "unix:/" + "x" * 200]),
        ("SERVER_UNIX_MODE", ["rw", "888", "07777", "0o660"]),
        ("SERVER_OUTBOUND_PROXY", ["socks5://a", "proxy:3128", "http://a/path"]),
        ("SERVER_ALLOWED_HOSTS", ["https://a", "a:80", "a/b", "a,b c", "*"]),
        ("SERVER_TRUSTED_PROXIES", ["proxy", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "1", "٣.0.0.1"]),
        ("CORS_ORIGINS", ["a.example", "https://a/", "https://a?x", "https://u@a", "ftp://a", "null"]),
        (
            "TRIGGER_URL",
            ["a", "ftp://a", "https://", "http://a:b", "http://a:99999", "http://a b", "http://a\n"],
        ),
        ("TRIGGER_URL", ["http://[::1", "http://a/#x", "javascript:alert(1)"]),
        ("TRIGGER_FORMAT", ["JSON", "xml", ""]),
        ("TRIGGER_SECRET", ["short", "whsec_", "whsec_dG9vc2hvcnQ=", "?" * 32]),
        ("AUTH_TOKEN", ["a b", "gr\u00fcn", "a=b", "\udcff"]),
        ("AUTH_JWT_KEY", ["short", PUBLIC_PEM.replace("PUBLIC", "PRIVATE")]),
        ("AUTH_ANONYMOUS", ["root", "subscribe,root"]),
        ("STORE_URL", ["memory", "redis:localhost", "postgres://x"]),
    ],
)
def test_malformed_texts_are_refused(variable: str, values: list[str]) -> None:
    for value in values:
        assert f"(from EDGE_{variable}): " in refusal({f"EDGE_{variable}": value})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SERVER_HOST", "::"),
        ("SERVER_HOST", "hub.example.org"),
        ("SERVER_HOST", "unix:/run/edge.sock"),
        ("SERVER_UNIX_MODE", "0666"),
        ("SERVER_OUTBOUND_PROXY", "http://proxy.example.org:3128"),
        ("SERVER_OUTBOUND_PROXY", "environment"),
        ("SERVER_TRUSTED_PROXIES", "fd00::/8"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://[::1]:3000"),
        ("TRIGGER_URL", "https://inn.gs/e/key?x=1"),
        ("TRIGGER_SECRET", SIGNING_SECRET),
        ("TRIGGER_SECRET", SIGNING_SECRET.removeprefix("whsec_")),
        ("AUTH_TOKEN", "abc.DEF_123~+/-=="),
        ("AUTH_JWT_KEY", PUBLIC_PEM),
        ("AUTH_JWT_KEY", "0123456789abcdef0123456789abcdef"),
        ("AUTH_JWT_JWKS_URL", "https://issuer.example/jwks.json"),
    ],
)
def test_well_formed_texts_are_accepted(variable: str, value: str) -> None:
    config, sources = load(None, {f"EDGE_{variable}": value}, {})

    (key,) = sources
    assert value_of(config, key) in (value, (value,))
