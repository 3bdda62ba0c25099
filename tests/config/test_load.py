from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config.load import ConfigError, describe, load
from edge.config.schema import KEYS, SECRET_KEYS, AuthSettings, Config, ServerSettings, TriggerSettings, value_of
from tests.config.refused import SIGNING_SECRET, refusal

SECRET = "very-secret-value-that-must-not-show"


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- layers ---


def test_without_file_environment_and_flags_there_are_the_defaults() -> None:
    assert (Config(), {}) == load(None, {"PATH": "/bin", "EDGEWATER": "1"}, {})


def test_the_defaults_are_the_ones_of_the_documented_contract() -> None:
    config = Config()

    assert ("127.0.0.1", 8080, 5.0) == (config.server.host, config.server.port, config.server.drain_seconds)
    assert (15.0, 30.0, 1000, 0.0) == tuple(value_of(config, key) for key in KEYS if key.startswith("stream."))
    assert (1000, 2**20, 3600.0, 2**28) == tuple(value_of(config, k) for k in KEYS if k.startswith("ring."))
    assert (2**18, 100_000) == (config.limits.max_event_bytes, config.limits.max_projects)
    assert (None, "json", 3.0, 60.0, 10.0, 3, ()) == tuple(
        value_of(config, key) for key in KEYS if key.startswith("trigger.")
    )
    assert ("memory:", "async") == (config.store.url, config.store.durability)


def test_the_defaults_are_a_configuration_that_loads_from_its_own_description(tmp_path: Path) -> None:
    assert Config() == load(toml(tmp_path, describe(Config(), {})), {}, {})[0]


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    path = toml(tmp_path, '[server]\nhost = "10.0.0.1"\nport = 1\ndrain_seconds = "7s"\n')

    config, sources = load(
        path,
        {"EDGE_SERVER_PORT": "2", "EDGE_SERVER_HOST": "10.0.0.2"},
        {"server.host": "10.0.0.3"},
    )

    assert ("10.0.0.3", 2, 7.0) == (config.server.host, config.server.port, config.server.drain_seconds)
    assert {
        "server.host": "--host",
        "server.port": "EDGE_SERVER_PORT",
        "server.drain_seconds": str(path),
    } == sources


def test_edge_config_names_the_file_and_the_flag_wins_over_it(tmp_path: Path) -> None:
    named = toml(tmp_path, "[server]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 2\n")
    environ = {"EDGE_CONFIG": str(named)}

    assert 1 == load(None, environ, {})[0].server.port
    assert 2 == load(other, environ, {})[0].server.port
    assert 8080 == load(None, {"EDGE_CONFIG": ""}, {})[0].server.port


def test_a_secret_may_be_in_a_file_that_a_key_or_a_variable_names(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbf" + b"one-token\r\nanother-token\r\n")
    (tmp_path / "url").write_text("http://127.0.0.1:2/\n")
    path = toml(tmp_path, f"[trigger]\nurl_file = '{tmp_path}/url'\n")

    config, sources = load(path, {"EDGE_AUTH_TOKEN_FILE": f"{tmp_path}/token"}, {})

    assert (("one-token", "another-token"), "http://127.0.0.1:2/") == (config.auth.token, config.trigger.url)
    assert {"auth.token": f"{tmp_path}/token", "trigger.url": f"{tmp_path}/url"} == sources


def test_a_file_behind_a_minus_may_be_missing_but_not_broken(tmp_path: Path) -> None:
    environ = {"EDGE_AUTH_TOKEN_FILE": f"-{tmp_path}/token"}
    assert Config() == load(None, environ, {})[0]
    (tmp_path / "token").write_text("\n")
    assert "edge: auth.token_file" in refusal(environ)
    (tmp_path / "token").write_text("a-token")
    assert ("a-token",) == load(None, environ, {})[0].auth.token
    assert "No such file" in refusal({"EDGE_AUTH_TOKEN_FILE": f"{tmp_path}/none"})


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, codec: str) -> None:
    file = tmp_path / "file"
    file.write_bytes("[server]\nport = 1\n".encode(codec))
    assert "looks like UTF-16: save it as UTF-8" in refusal(file=file)
    assert "looks like UTF-16: save it as UTF-8" in refusal({"EDGE_AUTH_TOKEN_FILE": str(file)})


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert 1 == load(toml(tmp_path, "\ufeff[server]\nport = 1\n"), {}, {})[0].server.port


def test_several_tokens_and_secrets_are_a_list(tmp_path: Path) -> None:
    path = toml(tmp_path, f"[auth]\ntoken = ['a-token', 'b-token']\n[trigger]\nsecret = '{SIGNING_SECRET}'\n")
    config = load(path, {}, {})[0]
    assert (("a-token", "b-token"), (SIGNING_SECRET,)) == (config.auth.token, config.trigger.secret)
    assert ("c", "d") == load(None, {"EDGE_AUTH_TOKEN": "c,d"}, {})[0].auth.token


def test_a_file_may_hold_numbers_texts_with_units_and_lists(tmp_path: Path) -> None:
    path = toml(
        tmp_path,
        """
        [server]
        port = "0"
        allowed_hosts = ["Hub.Example.org", "::1"]
        trusted_proxies = ["10.0.0.0/8", "127.0.0.1"]
        [stream]
        heartbeat_seconds = 2
        dead_after_seconds = 2.5
        retry_ms = "2s"
        [ring]
        max_bytes = "4MiB"
        max_age_seconds = "2d"
        [limits]
        max_event_bytes = 1000
        """,
    )

    config = load(path, {}, {})[0]

    assert 0 == config.server.port
    assert ("hub.example.org", "::1") == config.server.allowed_hosts
    assert ("10.0.0.0/8", "127.0.0.1/32") == config.server.trusted_proxies
    assert (2.0, 2.5, 2000) == (
        config.stream.heartbeat_seconds,
        config.stream.dead_after_seconds,
        config.stream.retry_ms,
    )
    assert isinstance(config.stream.heartbeat_seconds, float)
    assert (4 * 2**20, 172800.0) == (config.ring.max_bytes, config.ring.max_age_seconds)
    assert 1000 == config.limits.max_event_bytes


def test_the_environment_takes_units_and_comma_separated_lists() -> None:
    config = load(
        None,
        {
            "EDGE_RING_TOTAL_BYTES": "1GiB",
            "EDGE_TRIGGER_WAIT_SECONDS": "500ms",
            "EDGE_CORS_ORIGINS": "https://a.example, http://localhost:3000,",
            "EDGE_AUTH_ANONYMOUS": "subscribe,publish,subscribe",
            "EDGE_SERVER_ALLOWED_HOSTS": "",
        },
        {},
    )[0]

    assert 2**30 == config.ring.total_bytes
    assert 0.5 == config.trigger.wait_seconds
    assert ("https://a.example", "http://localhost:3000") == config.cors.origins
    assert ("subscribe", "publish") == config.auth.anonymous
    assert () == config.server.allowed_hosts


def test_an_empty_variable_unsets_an_optional_text_but_not_a_secret() -> None:
    assert None is load(None, {"EDGE_TRIGGER_URL": "", "EDGE_SERVER_TLS_CERT": ""}, {})[0].trigger.url
    for key in ("auth.token", "auth.jwt_key", "auth.jwt_jwks_url", "trigger.secret"):
        variable = "EDGE_" + key.replace(".", "_").upper()
        assert f"edge: {key} = *** (from {variable}): is empty: give it a value or leave it out" == refusal(
            {variable: ""}
        )


def test_a_variable_that_names_no_section_belongs_to_others() -> None:
    theirs = {
        "EDGE_SERVICE_HOST": "10.0.0.1",  # Kubernetes, for a service that is called `edge`
        "EDGE_SERVICE_PORT_HTTP": "8080",
        "EDGE_PORT": "tcp://10.0.0.1:8080",
        "EDGE_PORT_8080_TCP_ADDR": "10.0.0.1",
        "EDGE_URL": "http://127.0.0.1:8080",
        "EDGE_HOME": "/home",
    }

    assert Config() == load(None, theirs, {})[0]


# --- refusals ---


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("SERVER_PORT", "70000", "server.port = 70000 (from EDGE_SERVER_PORT): must be between 0 and 65535"),
        ("SERVER_PORT", "-1", "server.port = -1 (from EDGE_SERVER_PORT): must be between 0 and 65535"),
        ("SERVER_PORT", "٨٠", "server.port = ٨٠ (from EDGE_SERVER_PORT): must be a whole number"),
        ("SERVER_PORT", "8_0", "server.port = 8_0 (from EDGE_SERVER_PORT): must be a whole number"),
        ("SERVER_PORT", "", 'server.port = "" (from EDGE_SERVER_PORT): must be a whole number'),
        ("SERVER_PAGE", "yes", "server.page = yes (from EDGE_SERVER_PAGE): must be true or false"),
        (
            "SERVER_LOG_FORMAT",
            "xml",
            "server.log_format = xml (from EDGE_SERVER_LOG_FORMAT): must be console or json",
        ),
        (
            "STREAM_HEARTBEAT_SECONDS",
            "0",
            "stream.heartbeat_seconds = 0 (from EDGE_STREAM_HEARTBEAT_SECONDS): must be between 50ms and 1h",
        ),
        (
            "RING_MAX_EVENTS",
            "1.5",
            "ring.max_events = 1.5 (from EDGE_RING_MAX_EVENTS): must be a whole number",
        ),
        (
            "STREAM_RETRY_MS",
            "0.5ms",
            "stream.retry_ms = 0.5ms (from EDGE_STREAM_RETRY_MS): must be a whole number of milliseconds",
        ),
        (
            "STORE_URL",
            "redis-but-not-quite:x",
            (
                "store.url = *** (from EDGE_STORE_URL): must be memory:, sqlite:PATH such as "
                "sqlite:/var/lib/edge/history.db, or redis://HOST:PORT"
            ),
        ),
        (
            "STORE_URL",
            "redis:localhost",
            "store.url = *** (from EDGE_STORE_URL): must be written redis://HOST:PORT/DATABASE",
        ),
        (
            "STORE_URL",
            "sqlite:",
            (
                "store.url = sqlite: (from EDGE_STORE_URL): has no path: write sqlite:PATH, "
                "such as sqlite:/var/lib/edge/history.db"
            ),
        ),
    ],
)
def test_an_impossible_value_is_one_line_with_key_value_source_and_reason(variable: str, value: str, line: str) -> None:
    assert f"edge: {line}" == refusal({f"EDGE_{variable}": value})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\naccess_log = 1", "server.access_log = 1 (from {file}): must be true or false"),
        ("[metrics]\nport = 70000", "metrics.port = 70000 (from {file}): must be between 0 and 65535"),
        ("[server]\nport = true", "server.port = true (from {file}): must be a whole number"),
        ("[server]\nport = 80.0", "server.port = 80.0 (from {file}): must be a whole number"),
        ("[server]\nport = [80]", "server.port = 80 (from {file}): must be a whole number"),
        ("[server]\nhost = 1", "server.host = 1 (from {file}): must be a string in quotes"),
        ("[server]\nallowed_hosts = 1", "server.allowed_hosts = 1 (from {file}): must be a list of strings"),
        ("[server]\nallowed_hosts = [1]", "server.allowed_hosts = 1 (from {file}): must be a string in quotes"),
        ("[server]\nlog_level = ['info']", "(from {file}): must be debug, error, info or warning"),
        ("[stream]\nheartbeat_seconds = true", "stream.heartbeat_seconds = true (from {file}): must be a number of"),
        ("[stream]\nheartbeat_seconds = nan", "(from {file}): must be between 50ms and 1h"),
        ("[stream]\nheartbeat_seconds = inf", "(from {file}): must be between 50ms and 1h"),
        (
            "[stream]\nheartbeat_seconds = 2020-01-01",
            "(from {file}): must be a number of seconds or a duration",
        ),
        ("[ring]\nmax_bytes = 1.5", "(from {file}): must be a whole number of bytes or a size"),
        ("[ring]\nmax_bytes = 99999999999999999999", "(from {file}): must be between 1 and 1024GiB"),
        ("server = 3", "edge: server (from {file}): must be a table: [server]"),
        (
            "[servr]\nport = 1",
            "edge: servr.port (from {file}): there is no such key, did you mean server.port?",
        ),
        (
            "[server]\nprot = 1",
            "edge: server.prot (from {file}): there is no such key, did you mean server.port?",
        ),
        (
            "[stream]\ntotal_bytes = 1",
            "edge: stream.total_bytes (from {file}): there is no such key, did you mean",
        ),
        ("port = 1", "edge: port (from {file}): there is no such key, did you mean server.port?"),
        ("[qqqqq]", "edge: qqqqq (from {file}): there is no such key, `edge check-config` lists all keys"),
        ('"a\\nb" = 1', "edge: a\\nb (from {file}): there is no such key"),
        ("[server", "edge: config = {file} (from --config): isn't valid TOML: "),
        ("a = " + "[" * 100_000, "edge: config = {file} (from --config): isn't valid TOML: "),
        ("[server]\nport = " + "9" * 5000, "(from --config): isn't valid TOML: "),
    ],
)
def test_a_wrong_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    toml(tmp_path, text)

    assert line.format(file="edge.toml") in refusal(file=Path("edge.toml"))


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xfc")

    assert "(from EDGE_CONFIG): can't read the file: No such file" in refusal({"EDGE_CONFIG": str(missing)})
    assert "(from --config): can't read the file: Is a directory" in refusal(file=tmp_path)
    assert "(from --config): names a file that is not UTF-8" in refusal(file=binary)


@pytest.mark.parametrize(
    ("variable", "suggested"),
    [
        ("EDGE_SERVER_PROT", "did you mean EDGE_SERVER_PORT?"),
        ("EDGE_AUTH_TOKN", "did you mean EDGE_AUTH_TOKEN?"),
        ("EDGE_server_port", "there is no such key"),
        ("EDGE_SERVER", "there is no such key"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_key_and_without_its_value(
    variable: str, suggested: str
) -> None:
    line = refusal({variable: SECRET})

    assert f"edge: {variable} (from the environment): there is no such key" in line
    assert suggested in line
    assert SECRET not in line


def test_a_broken_value_is_reported_even_if_a_later_layer_wins(tmp_path: Path) -> None:
    path = toml(tmp_path, "[server]\nport = 70000\n")

    assert f"(from {path})" in refusal({"EDGE_SERVER_PORT": "80"}, file=path)


# --- secrets ---


def test_no_secret_is_in_a_repr_a_description_or_an_error() -> None:
    config, sources = load(
        None,
        {
            "EDGE_AUTH_TOKEN": SECRET,
            "EDGE_TRIGGER_SECRET": SIGNING_SECRET,
            "EDGE_AUTH_JWT_KEY": SECRET,
            "EDGE_TRIGGER_URL": f"https://user:{SECRET}@inn.gs/e/{SECRET}?k={SECRET}",
        },
        {},
    )

    described = describe(config, sources)
    assert (SECRET,) == config.auth.token
    for shown in (repr(config), str(config), described, f"{config.auth!r}", str(config.auth.__rich_repr__())):
        assert SECRET not in shown
        assert SIGNING_SECRET not in shown
    assert 'url = "https://inn.gs/***"  # from EDGE_TRIGGER_URL' in described
    assert 'token = "***"  # from EDGE_AUTH_TOKEN' in described


@pytest.mark.parametrize("key", sorted(SECRET_KEYS | {"trigger.url", "store.url", "auth.jwt_jwks_url"}))
def test_a_bad_secret_is_not_in_its_own_error(key: str) -> None:
    for value in (f" {SECRET}?", f"http://{SECRET}@[bad", f"x://u:{SECRET}@h/{SECRET}"):
        if key != "auth.jwt_key":
            assert SECRET not in refusal({"EDGE_" + key.replace(".", "_").upper(): value})
    assert "short!" not in refusal({"EDGE_AUTH_JWT_KEY": "short!"})


def test_a_struct_built_in_code_shows_no_secret_either() -> None:
    config = Config(auth=AuthSettings(token=(SECRET,)), trigger=TriggerSettings(secret=(SECRET,)))

    assert SECRET not in repr(config)
    assert "token='***'" in repr(config)
    assert "port=8080" in repr(ServerSettings())


# --- description ---


def test_a_description_is_toml_that_says_where_values_came_from(tmp_path: Path) -> None:
    path = toml(tmp_path, "[cors]\norigins = ['https://a.example', 'https://b.example']\n")
    config, sources = load(path, {"EDGE_TRIGGER_WAIT_SECONDS": "250ms"}, {"server.port": "0"})

    described = describe(config, sources)

    assert f'origins = ["https://a.example", "https://b.example"]  # from {path}\n' in described
    assert 'wait_seconds = "250ms"  # from EDGE_TRIGGER_WAIT_SECONDS\n' in described
    assert "port = 0  # from --port\n" in described
    assert "# tls_cert is not set\n" in described
    assert config == load(toml(tmp_path, described), {}, {})[0]


def test_a_file_name_with_a_line_end_cant_forge_a_line_of_the_description(tmp_path: Path) -> None:
    path = tmp_path / "a\nport = 1\n.toml"
    path.write_text("[server]\nport = 2\n")

    described = describe(*load(path, {}, {}))

    assert 2 == tomllib.loads(described)["server"]["port"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip() != ""))
def test_any_text_survives_description_and_loading(text: str) -> None:
    config = Config(server=ServerSettings(tls_cert=text))

    assert text == tomllib.loads(describe(config, {}))["server"]["tls_cert"]


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), st.text(), max_size=4))
def test_any_environment_loads_or_is_refused_with_one_line(values: dict[str, str]) -> None:
    environ = {f"EDGE_{key.replace('.', '_').upper()}": value for key, value in values.items()}
    try:
        config, sources = load(None, environ, {})
    except ConfigError:
        assert refusal(environ).startswith("edge: ")
    else:
        assert set(environ) == set(sources.values())
        tomllib.loads(describe(config, sources))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_a_switch_is_true_or_false(tmp_path: Path, text: str, value: bool) -> None:
    file = toml(tmp_path, f"[server]\naccess_log = {text}")

    assert value is load(file, {}, {})[0].server.access_log
    assert value is load(None, {"EDGE_SERVER_ACCESS_LOG": text}, {})[0].server.access_log


def test_a_port_that_is_not_set_can_be_written_as_empty_in_the_environment() -> None:
    assert load(None, {"EDGE_METRICS_PORT": ""}, {})[0].metrics.port is None
    assert load(None, {"EDGE_METRICS_PORT": "9464"}, {})[0].metrics.port == 9464


@pytest.mark.parametrize("key", ["auth.token", "auth.jwt_key", "trigger.secret"])
def test_a_secret_is_read_from_the_file_that_is_named(key: str, tmp_path: Path) -> None:
    secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    path = tmp_path / "secret"
    path.write_text(secret + "\n")
    path.chmod(stat.S_IRUSR)
    variable = f"EDGE_{key.replace('.', '_').upper()}_FILE"
    config, sources = load(None, {variable: str(path)}, {})
    section, _, name = key.partition(".")
    assert getattr(getattr(config, section), name) in (secret, (secret,))
    assert str(path) == sources[key]
    assert secret not in describe(config, sources)
    assert secret not in repr(config)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "can't read the file: No such file"),
        (b"", "names an empty file"),
        (b"\n", "names an empty file"),
        (b"\xff\xfe", "looks like UTF-16"),
        (b"\xfc", "is not UTF-8"),
        (b"a" * 65537, "more than 65536 bytes"),
        (b"two words", "to fit a header"),
    ],
)
def test_a_file_without_a_secret_stops_the_start(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(None, {"EDGE_AUTH_TOKEN_FILE": str(path)}, {})
    line = str(caught.value)
    assert sentence in line
    assert "two words" not in line


def test_a_secret_and_its_file_cant_be_combined(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"auth\.token_file .* can't be combined with auth\.token"):
        load(None, {"EDGE_AUTH_TOKEN_FILE": "/run/t", "EDGE_AUTH_TOKEN": "abc"}, {})
