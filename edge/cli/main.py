"""The command line. Imports little, and each command imports what it needs, so that `--version` is quick.

Exit status: `edge.cli.hub.ExitStatus`. A user's mistake is one line on standard error, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from edge import __version__
from edge.cli import client, commands
from edge.cli.hub import CommandError, ExitStatus, say, warn

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

_OPTION = re.compile(r"-[^\d.\s]\S*")
"""What argparse reads as an option, known or not: no `-`, no negative number, no text with spaces."""


class _Command(argparse.ArgumentParser):
    """Takes options between the arguments, too: `edge publish PROJECT --type TYPE DATA`, which argparse refuses."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._subparsers is None and args is not None:
            args = self._options_first(args)
        return super().parse_known_args(args, namespace)

    def _options_first(self, args: Sequence[str]) -> list[str]:
        options: list[str] = []
        others: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                others += [word, *words]
            elif _OPTION.fullmatch(word):
                known = self._option_string_actions.get(word)
                wants = 1 if known is not None and known.nargs is None else 0
                value = list(islice(words, wants))
                # One that lacks its value stays at the end, or it would take an argument for it.
                (options if len(value) == wants else others).extend([word, *value])
            else:
                others.append(word)
        return options + others


def main(argv: Sequence[str] | None = None) -> int:
    """Run `edge` with `argv` (`sys.argv[1:]` if None) and return its exit status."""
    _open_standard_streams()
    _trust_the_systems_authorities()
    arguments = command_line().parse_args(argv)
    run: Callable[[argparse.Namespace], int | None] = _version if arguments.version else arguments.run
    try:
        return run(arguments) or ExitStatus.OK
    except CommandError as error:
        warn(str(error))
        return error.status
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED


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


def command_line() -> argparse.ArgumentParser:
    """Every command with its options; docs/edge.1 and the completion scripts are made of it."""
    parser = argparse.ArgumentParser(
        prog="edge",
        description="A self-hosted Server-Sent Events hub that never drops an event silently.",
        epilog=_FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=lambda _: say(parser.format_help()))
    parser.add_argument("--version", action="store_true", help="show versions and exit")
    of_commands: type[argparse.ArgumentParser] = _Command
    listed = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=of_commands)

    commands.add_to(listed)
    client.add_to(listed)
    completion = listed.add_parser("completion", help="print a completion script for a shell", allow_abbrev=False)
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run=_completion)
    return parser


def _completion(arguments: argparse.Namespace) -> None:
    import shtab

    say(shtab.complete(command_line(), shell=arguments.shell) + "\n")


def _version(_arguments: argparse.Namespace) -> None:
    say(version_text())


def version_text() -> str:
    """`edge VERSION`, the commit where a build wrote it down, and what it runs on."""
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, version

    try:
        build = import_module("edge._build_info")
        built = f" (commit {build.COMMIT}, for glibc {build.GLIBC} or later)"
    except ModuleNotFoundError:  # from source
        built = ""
    parts = [f"Python {sys.version.split()[0]}"]
    for package in ("aiohttp", "aiohttp-sse", "uvloop", "msgspec", "structlog"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # uvloop doesn't exist everywhere, nor metadata in every bundle
            continue
    return f"edge {__version__}{built}\n{', '.join(parts)}\n"
