"""Commands of an operator: serve, check-config, healthcheck, token, store, init.

Each imports what it needs, so that `edge --version` and the client commands start quickly.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from edge.cli.hub import UNIX_SCHEME, CommandError, ExitStatus, Hub, check_url, say, warn

if TYPE_CHECKING:
    from edge.config.load import Sources
    from edge.config.schema import Config

Listed: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a hub that listens everywhere is asked
_ON_PROJECTS = ("subscribe", "publish", "trigger", "status", "admin")
_GRANT = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._~-]{0,127})?\*?", re.ASCII)
_KEY = re.compile(r"^(?=[a-z])", re.MULTILINE)


def add_to(listed: Listed) -> None:

    def add(
        name: str, summary: str, run: Callable[[argparse.Namespace], int | None] | None, to: Listed = listed
    ) -> argparse.ArgumentParser:
        parser = to.add_parser(name, help=summary, allow_abbrev=False)
        parser.set_defaults(run=run)
        return parser

    _add_listening(add("serve", "run the hub", serve))
    _add_listening(add("check-config", "check the configuration and show what is in effect", check_config))

    health = add("healthcheck", "ask a running hub whether it is alive", healthcheck)
    add_config(health)
    health.add_argument("--url", help="what to ask (default: the hub of the configuration, on this machine)")
    by_command_line = "ask the hub that runs as this process, by its command line"
    health.add_argument("--pid", type=int, metavar="PID", help=by_command_line)
    health.add_argument("--timeout", default="2s", metavar="DURATION", help="how long to wait (default: 2s)")

    # No secret is taken from the command line, where `ps` shows it.
    made = add("token", "make a JSON Web Token for a client", token)
    made.description = (
        "Print a JSON Web Token that a hub with this configuration accepts. Signed with auth.jwt_key if "
        "that is a shared secret, else with the private key in --key-file."
    )
    add_config(made)
    for permission in _ON_PROJECTS:
        text = f"permission {permission} for projects, comma-separated; team-* is a prefix, * all (may be repeated)"
        made.add_argument(f"--{permission}", action="append", default=[], metavar="PROJECTS", help=text)
    made.add_argument("--metrics", action="store_true", help="permission metrics")
    made.add_argument("--ttl", default="1h", metavar="DURATION", help="how long it is valid (default: 1h)")
    made.add_argument("--subject", metavar="NAME", help="the claim sub: whom it is for")
    made.add_argument("--key-file", type=Path, metavar="FILE", help="private key (PEM) to sign with")

    store = add("store", "back up, restore or copy a history", None)
    actions = store.add_subparsers(title="actions", metavar="ACTION", required=True)
    copy = add("copy", "copy every project; no hub may be using either", store_copy, actions)
    copy.add_argument("source", metavar="FROM", help="sqlite:PATH or redis://HOST:PORT/DATABASE")
    copy.add_argument("destination", metavar="TO", help="an empty one of the other kind")
    backup = add("backup", "copy the file of store.url, also while in use", store_backup, actions)
    backup.add_argument("file", type=Path, metavar="FILE", help="the backup: a new file")
    add_config(backup)
    restore = add("restore", "replace the file of store.url by a backup", store_restore, actions)
    restore.add_argument("file", type=Path, metavar="FILE", help="a backup; no hub may be using store.url")
    add_config(restore)

    written = add("init", "write a commented configuration file", init)
    written.add_argument(
        "path", metavar="PATH", nargs="?", default="edge.toml", help="(default: edge.toml; - prints it)"
    )
    written.add_argument("--force", action="store_true", help="replace an existing file")


def add_config(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"TOML file (default: $EDGE_CONFIG){more}")


def _add_listening(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--host", help="address to listen on (server.host)")
    parser.add_argument("--port", help="port to listen on, 0 for a free one (server.port)")


def loaded(arguments: argparse.Namespace, *, listens: bool = False) -> tuple[Config, Sources]:
    """The configuration and its sources. Raises CommandError.

    `listens`: refuse one that would open a hub to other machines without authentication, or holds a key that no token
    can be checked with.
    """
    from edge.config.load import ConfigError

    try:
        return _load(arguments, listens=listens)
    except ConfigError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from None


def _load(arguments: argparse.Namespace, *, listens: bool) -> tuple[Config, Sources]:
    from edge.auth.tokens import Verifier
    from edge.config import machine
    from edge.config.load import ConfigError, load, refuse_exposure

    given = {"server.host": getattr(arguments, "host", None), "server.port": getattr(arguments, "port", None)}
    flags = {key: text for key, text in given.items() if text is not None}
    adapted = machine.defaults(machine.this_machine()) if listens else {}
    config, sources = load(arguments.config, os.environ, flags, adapted)
    if listens:
        refuse_exposure(config, sources, config.server.host)
        try:
            Verifier(config.auth)
        except ValueError as error:
            raise ConfigError("auth.jwt_key", sources["auth.jwt_key"], str(error)) from None
    return config, sources


def serve(arguments: argparse.Namespace) -> int:
    """Run the hub until a signal ends it."""
    with _loading():
        from edge.config.load import ConfigError
        from edge.server.listening import CantListenError
        from edge.server.process import serve as serve_until_signal

    try:
        status: int = serve_until_signal(lambda: _load(arguments, listens=True))
        return status
    except ConfigError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from None
    except (CantListenError, OSError) as error:
        raise CommandError(str(error)) from None


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """While the server is imported: without garbage collection, for what is loaded stays; and without certificate
    authorities, which aiohttp would load twice. Whatever asks an https server has a TLS context of its own.
    """
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    os.environ |= dict.fromkeys(names, os.devnull)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        for name in names:
            del os.environ[name]
        os.environ |= kept


def check_config(arguments: argparse.Namespace) -> None:
    """Show what is in effect, and warn about what is probably a mistake."""
    from edge.config.load import ConfigError, describe, warnings
    from edge.server.listening import tls_context

    config, sources = loaded(arguments, listens=True)
    try:
        tls_context(config, sources)
    except ConfigError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from None
    for key, sentence in warnings(config):
        warn(f"warning: {key}: {sentence}")
    say(describe(config, sources))


# --- healthcheck ---


def healthcheck(arguments: argparse.Namespace) -> None:
    """One GET and one sentence, for Docker and people."""
    timeout_seconds = _duration("--timeout", arguments.timeout, least_seconds=0.001)
    url, path, verify = arguments.url, "/healthz", True
    if url is None:
        if arguments.pid is not None:
            arguments = _serve_arguments(arguments.pid)
        # A loopback address, which no certificate names.
        url, verify = own_url(loaded(arguments)[0]), False
    else:
        check_url(url)
    origin = shown = url
    if not url.startswith(UNIX_SCHEME):
        target = urlsplit(url)
        origin = f"{target.scheme}://{target.netloc}"
        if target.path not in ("", "/"):
            path = f"{target.path}?{target.query}" if target.query else target.path
        shown = origin + path
    status = Hub(origin, None, verify).ask("GET", path, timeout_seconds=timeout_seconds).status
    sentence = f"{shown} answered {status}"
    if status != 200:
        raise CommandError(sentence)
    say(f"edge: {sentence}\n")


def _duration(option: str, text: str, *, least_seconds: float) -> float:
    from edge.config.units import format_duration, parse_duration

    try:
        seconds = parse_duration(text)
        if seconds < least_seconds:
            raise ValueError(f"must be {format_duration(least_seconds)} or more")
    except ValueError as error:
        raise CommandError(f"{option} {error}", ExitStatus.USAGE) from None
    return seconds


def own_url(config: Config) -> str:
    """Where a hub with this configuration answers on this machine. Raises CommandError if that can't be known."""
    server = config.server
    if server.host.startswith(UNIX_SCHEME):
        return server.host
    if server.port == 0:
        raise CommandError("server.port is 0: only the running hub knows its port, so give the --url", ExitStatus.USAGE)
    host = _HERE.get(server.host, server.host)
    scheme = "http" if server.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{server.port}" if ":" in host else f"{scheme}://{host}:{server.port}"


def _serve_arguments(pid: int) -> argparse.Namespace:
    """The arguments with which process `pid` runs `edge serve`. Raises CommandError."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    _add_listening(parser)
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return parser.parse_args(command[command.index("serve") + 1 : -1])
    except (OSError, ValueError):
        raise CommandError(f"--pid {pid}: no `edge serve` runs as this process", ExitStatus.USAGE) from None


# --- token ---


def token(arguments: argparse.Namespace) -> None:
    auth = loaded(arguments)[0].auth
    import time

    from edge.auth.jwt import mint
    from edge.config.load import read_secret

    grants = {permission: _projects(permission, getattr(arguments, permission)) for permission in _ON_PROJECTS}
    if arguments.metrics:
        grants["metrics"] = ["*"]
    if not any(grants.values()):
        sentence = "a token without permissions is useless: add one, such as --subscribe p1"
        raise CommandError(sentence, ExitStatus.USAGE)
    ttl_seconds = _duration("--ttl", arguments.ttl, least_seconds=1)
    option = "--key-file "
    try:
        private_pem = None if arguments.key_file is None else read_secret(arguments.key_file)
        option = ""
        made = mint(auth, grants, ttl_seconds, time.time(), private_pem=private_pem, subject=arguments.subject)
    except ValueError as error:
        raise CommandError(f"{option}{error}", ExitStatus.USAGE) from None
    say(f"{made}\n")


def _projects(permission: str, given: list[str]) -> list[str]:
    projects = [name for name in (part.strip() for text in given for part in text.split(",")) if name]
    for name in projects:
        if _GRANT.fullmatch(name) is None:
            sentence = f"--{permission} {name} is neither a project id nor a prefix that ends in *"
            raise CommandError(sentence, ExitStatus.USAGE)
    return projects


# --- store ---


def store_copy(arguments: argparse.Namespace) -> None:
    from edge.cli.store_copy import copy
    from edge.diagnose.explain import count
    from edge.logs.setup import configure

    configure("console", "critical")
    projects, events = copy(arguments.source, arguments.destination)
    say(f"edge: copied {count(projects, 'project')} with {count(events, 'event')}\n")


def store_backup(arguments: argparse.Namespace) -> None:
    from edge.cli.store_copy import backup

    backup(loaded(arguments)[0].store.url, arguments.file)
    say(f"edge: backed up to {arguments.file}\n")


def store_restore(arguments: argparse.Namespace) -> None:
    from edge.cli.store_copy import restore

    replaced = restore(loaded(arguments)[0].store.url, arguments.file)
    kept = "" if replaced is None else f"; the history before is {replaced}"
    say(f"edge: restored {arguments.file}{kept}\n")


# --- init ---


def init(arguments: argparse.Namespace) -> None:
    """Write a configuration file with every key and its default, commented out."""
    text = commented(example())
    if arguments.path == "-":
        say(text)
        return
    try:
        with Path(arguments.path).open("w" if arguments.force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(f"{arguments.path} exists; --force replaces it", ExitStatus.USAGE) from None
    except OSError as error:
        raise CommandError(f"{arguments.path}: {error.strerror}") from None
    say(f"edge: wrote {arguments.path}; start with it: edge serve --config {arguments.path}\n")


def example() -> str:
    """Every key with its default, ready to be changed."""
    return resources.files("edge").joinpath("static", "edge.example.toml").read_text(encoding="utf-8")


def commented(text: str) -> str:
    """`text` with each key as a comment: a file that changes nothing until a line is uncommented."""
    return _KEY.sub("# ", text)
