"""The command line. Imports little, and each command imports what it needs, so that `--version` is quick.

Exit status: see `edge.cli.exit_codes`. A user's mistake is one line on standard error, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli import client, exit_codes, token_command
from edge.cli.output import refuse, say
from edge.cli.version import version_text

if TYPE_CHECKING:
    from edge.config.load import Config, Sources
    from edge.diagnose.client import Hub

_ANSWER_SECONDS = 5.0
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL, Amazon Linux
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora from 43 on
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)
"""Where systems keep the certificate authorities that they trust."""
_FIRST_STEPS = """\
first steps:
  edge serve                                run a hub on http://127.0.0.1:8080, with a live page to open
  edge subscribe demo                       in a second terminal: print events as they are published
  edge publish demo '{"percent": 50}'       in a third: publish one

exit status: 0 success, 1 failed, 2 wrong usage or configuration, 3 no subscriber connected
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `edge` with `argv` (`sys.argv[1:]` if None) and return its exit status."""
    _open_standard_streams()
    _trust_the_systems_authorities()
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        return say(parser.format_help())
    try:
        if "client" in arguments:
            return client.run(arguments, say)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _open_standard_streams() -> None:
    """A descriptor below 3 that is closed would become a connection's, and libuv aborts when it closes that one."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


def _trust_the_systems_authorities() -> None:
    """The binary's OpenSSL looks for certificate authorities only where Debian has them."""
    if getattr(sys, "frozen", False) and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        found = next((path for path in AUTHORITIES if Path(path).exists()), None)
        if found is not None:
            os.environ["SSL_CERT_FILE"] = found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge",
        description="A self-hosted Server-Sent Events hub that never drops an event silently.",
        epilog=_FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="show versions and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    serve = commands.add_parser("serve", help="run the hub", allow_abbrev=False)
    _add_config_arguments(serve)
    serve.set_defaults(run=_serve)

    check = commands.add_parser(
        "check-config", help="check the configuration and show what is in effect", allow_abbrev=False
    )
    _add_config_arguments(check)
    check.set_defaults(run=_check_config)

    health = commands.add_parser("healthcheck", help="ask a running hub whether it is alive", allow_abbrev=False)
    health.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default: $EDGE_CONFIG)")
    health.add_argument("--url", help="what to ask (default: the hub of the configuration, on this machine)")
    health.add_argument(
        "--pid",
        type=int,
        metavar="PID",
        help="ask the hub that runs as this process, by its command line",
    )
    health.add_argument("--timeout", default="2s", metavar="DURATION", help="how long to wait (default: 2s)")
    health.set_defaults(run=_healthcheck)

    token = commands.add_parser("token", help="make a JSON Web Token for a client", allow_abbrev=False)
    token_command.add_arguments(token)
    token.set_defaults(run=_token)

    explain = commands.add_parser(
        "explain", help="ask a running hub why a project had no subscriber", allow_abbrev=False
    )
    explain.add_argument("project", metavar="PROJECT", help="its id")
    _add_hub_arguments(explain)
    explain.add_argument("--json", action="store_true", help="the answer as JSON")
    explain.set_defaults(run=_explain)

    selftest = commands.add_parser(
        "selftest", help="subscribe through a URL and report what goes wrong on the way", allow_abbrev=False
    )
    _add_hub_arguments(selftest)
    selftest.add_argument("--quick", action="store_true", help="don't wait for a heartbeat")
    selftest.add_argument(
        "--no-trigger", action="store_true", help="start no job (with trigger.url it would be a real one)"
    )
    selftest.set_defaults(run=_selftest)
    _add_store(commands)
    client.add_commands(commands)
    init = commands.add_parser("init", help="write a commented configuration file", allow_abbrev=False)
    init.add_argument("path", metavar="PATH", nargs="?", default="edge.toml", help="(default: edge.toml; - prints it)")
    init.add_argument("--force", action="store_true", help="replace an existing file")
    init.set_defaults(run=_init)
    completion = commands.add_parser("completion", help="print a completion script for a shell", allow_abbrev=False)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run=_completion)
    return parser


def _add_store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    store = commands.add_parser("store", help="back up, restore or copy a history", allow_abbrev=False)
    actions = store.add_subparsers(title="actions", metavar="ACTION", required=True)
    copy = actions.add_parser("copy", help="copy every project; no hub may be using either", allow_abbrev=False)
    copy.add_argument("source", metavar="FROM", help="sqlite:PATH or redis://HOST:PORT/DATABASE")
    copy.add_argument("destination", metavar="TO", help="an empty one of the other kind")
    copy.set_defaults(run=_store_copy)
    back_up = actions.add_parser("backup", help="copy the file of store.url, also while in use", allow_abbrev=False)
    back_up.add_argument("file", type=Path, metavar="FILE", help="the backup: a new file")
    restore = actions.add_parser("restore", help="replace the file of store.url by a backup", allow_abbrev=False)
    restore.add_argument("file", type=Path, metavar="FILE", help="a backup; no hub may be using store.url")
    for action in (back_up, restore):
        action.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default: $EDGE_CONFIG)")
        action.set_defaults(run=_store_backup, restores=action is restore)


def _add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file (default: $EDGE_CONFIG); its auth.token is sent"
    )
    parser.add_argument("--url", help="the hub (default: the one of the configuration, on this machine)")


def _add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default: $EDGE_CONFIG)")
    parser.add_argument("--host", help="address to listen on (server.host)")
    parser.add_argument("--port", help="port to listen on, 0 for a free one (server.port)")


# --- commands ---


def _serve(arguments: argparse.Namespace) -> int:
    from edge.config.load import ConfigError  # noqa: PLC0415 - see the head of this module
    from edge.server.listening import CantListenError  # noqa: PLC0415
    from edge.server.process import serve  # noqa: PLC0415

    try:
        status: int = serve(lambda: _loaded(arguments, listens=True))
        return status
    except ConfigError as error:
        return refuse(str(error), exit_codes.USAGE)
    except (CantListenError, OSError) as error:
        return refuse(f"edge: {error}", exit_codes.FAILED)


def _store_copy(arguments: argparse.Namespace) -> int:
    from edge.cli.store_copy import CopyError, copy  # noqa: PLC0415
    from edge.logs.setup import configure  # noqa: PLC0415

    configure("console", "critical")
    try:
        copied = copy(arguments.source, arguments.destination)
    except CopyError as error:
        return refuse(f"edge: {error}", exit_codes.FAILED)
    projects = "1 project" if copied.projects == 1 else f"{copied.projects} projects"
    events = "1 event" if copied.events == 1 else f"{copied.events} events"
    return say(f"edge: copied {projects} with {events}\n")


def _store_backup(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    if loaded is None:
        return exit_codes.USAGE
    from edge.cli.store_copy import CopyError, backup, restore  # noqa: PLC0415

    url = loaded[0].store.url
    try:
        if not arguments.restores:
            backup(url, arguments.file)
            return say(f"edge: backed up to {arguments.file}\n")
        replaced = restore(url, arguments.file)
    except CopyError as error:
        return refuse(f"edge: {error}", exit_codes.FAILED)
    kept = "" if replaced is None else f"; the history before is {replaced}"
    return say(f"edge: restored {arguments.file}{kept}\n")


def _check_config(arguments: argparse.Namespace) -> int:
    from edge.config.load import ConfigError, describe  # noqa: PLC0415
    from edge.config.validate import warnings  # noqa: PLC0415
    from edge.server.listening import tls_context  # noqa: PLC0415

    try:
        config, sources = _loaded(arguments, listens=True)
        tls_context(config, sources)
    except ConfigError as error:
        return refuse(str(error), exit_codes.USAGE)
    for key, sentence in warnings(config):
        refuse(f"edge: warning: {key}: {sentence}", exit_codes.OK)
    return say(describe(config, sources))


def _healthcheck(arguments: argparse.Namespace) -> int:
    from edge.cli import healthcheck  # noqa: PLC0415
    from edge.config.units import parse_duration  # noqa: PLC0415

    try:
        timeout_seconds = parse_duration(arguments.timeout)
        if timeout_seconds <= 0:
            raise ValueError("must be longer than nothing")
    except ValueError as error:
        return refuse(f"edge: --timeout {error}", exit_codes.USAGE)
    url, verify = arguments.url, True
    if url is None:
        try:
            if arguments.pid is not None:
                arguments = _parser().parse_args(healthcheck.serve_arguments(arguments.pid))
            loaded = _load(arguments)
            if loaded is None:
                return exit_codes.USAGE
            url = healthcheck.own_url(loaded[0])
        except ValueError as error:
            return refuse(f"edge: {error}", exit_codes.USAGE)
        verify = False
    elif (wrong := healthcheck.wrong_with(url)) is not None:
        return refuse(f"edge: --url {wrong}", exit_codes.USAGE)
    healthy, sentence = healthcheck.check(url, timeout_seconds, verify=verify)
    if not healthy:
        return refuse(f"edge: {sentence}", exit_codes.FAILED)
    return say(f"edge: {sentence}\n")


def _token(arguments: argparse.Namespace) -> int:
    loaded = _load(arguments)
    if loaded is None:
        return exit_codes.USAGE
    try:
        token = token_command.run(arguments, loaded[0].auth)
    except ValueError as error:
        return refuse(f"edge: {error}", exit_codes.USAGE)
    return say(f"{token}\n")


def _explain(arguments: argparse.Namespace) -> int:
    from urllib.parse import quote  # noqa: PLC0415

    from edge.diagnose.client import Unreachable, ask  # noqa: PLC0415
    from edge.logs.text import one_line  # noqa: PLC0415

    hub = _hub(arguments)
    if hub is None:
        return exit_codes.USAGE
    path = f"/projects/{quote(arguments.project, safe='')}/explain"
    try:
        accept = {"Accept": "application/json" if arguments.json else "text/plain"}
        response = ask(hub, "GET", path, headers=accept, timeout_seconds=_ANSWER_SECONDS)
    except Unreachable as error:
        return refuse(f"edge: {error}", exit_codes.FAILED)
    if response.status != 200:
        return refuse(one_line(f"edge: {hub.url} answered {response.status}: {response.detail}"), exit_codes.FAILED)
    answer = response.body.decode(errors="replace")
    return say(answer if answer.endswith("\n") else f"{answer}\n")


def _selftest(arguments: argparse.Namespace) -> int:
    import asyncio  # noqa: PLC0415

    from edge.diagnose.selftest import SelfTest  # noqa: PLC0415

    hub = _hub(arguments)
    if hub is None:
        return exit_codes.USAGE

    async def run() -> bool:
        passed = True
        async for step in SelfTest(hub, idle=not arguments.quick, trigger=not arguments.no_trigger).run():
            say(step.line() + "\n")
            passed = passed and step.ok
        return passed

    return exit_codes.OK if asyncio.run(run()) else exit_codes.FAILED


def _init(arguments: argparse.Namespace) -> int:
    from edge.cli import init  # noqa: PLC0415

    if arguments.path == "-":
        return say(init.commented(init.example()))
    try:
        init.write(Path(arguments.path), force=arguments.force)
    except FileExistsError:
        return refuse(f"edge: {arguments.path} exists; --force replaces it", exit_codes.USAGE)
    except OSError as error:
        return refuse(f"edge: {arguments.path}: {error.strerror}", exit_codes.FAILED)
    return say(f"edge: wrote {arguments.path}; start with it: edge serve --config {arguments.path}\n")


def _completion(arguments: argparse.Namespace) -> int:
    import shtab  # noqa: PLC0415

    return say(shtab.complete(_parser(), shell=arguments.shell) + "\n")


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(say(version_text()))


# --- helpers ---


def _loaded(arguments: argparse.Namespace, *, listens: bool = False) -> tuple[Config, Sources]:
    """The configuration and its sources. Raises ConfigError.

    With `listens` also for one that would open a hub to other machines without authentication, or holds a key that no
    token can be checked with.
    """
    from edge.auth.tokens import UnusableKey, Verifier  # noqa: PLC0415
    from edge.config.load import ConfigError, load_with_sources, refuse_exposure  # noqa: PLC0415

    given = {"server.host": getattr(arguments, "host", None), "server.port": getattr(arguments, "port", None)}
    flags = {key: text for key, text in given.items() if text is not None}
    config, sources = load_with_sources(arguments.config, os.environ, flags)
    if listens:
        refuse_exposure(config, sources)
        try:
            Verifier(config.auth)
        except UnusableKey as error:
            raise ConfigError("auth.jwt_key", sources["auth.jwt_key"], str(error)) from None
    return config, sources


def _load(arguments: argparse.Namespace) -> tuple[Config, Sources] | None:
    """As `_loaded`; None after an error was written."""
    from edge.config.load import ConfigError  # noqa: PLC0415

    try:
        return _loaded(arguments)
    except ConfigError as error:
        refuse(str(error), exit_codes.USAGE)
        return None


def _hub(arguments: argparse.Namespace) -> Hub | None:
    """The hub to ask; None after an error was written."""
    from edge.cli import healthcheck  # noqa: PLC0415
    from edge.diagnose.client import Hub  # noqa: PLC0415

    loaded = _load(arguments)
    if loaded is None:
        return None
    url = arguments.url
    if url is None:
        try:
            url = healthcheck.own_url(loaded[0], path="")
        except ValueError as error:
            refuse(f"edge: {error}", exit_codes.USAGE)
            return None
    elif (wrong := healthcheck.wrong_with(url)) is not None:
        refuse(f"edge: --url {wrong}", exit_codes.USAGE)
        return None
    return Hub(url.rstrip("/"), next(iter(loaded[0].auth.token), None), verify=arguments.url is not None)
