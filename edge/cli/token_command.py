"""`edge token`: its arguments, and what they make. No secret is taken from the command line, where `ps` shows it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from edge.config.schema import AuthSettings

_ON_PROJECTS = ("subscribe", "publish", "trigger", "status", "admin")
_GRANT = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._~-]{0,127})?\*?", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `edge token`."""
    parser.description = (
        "Print a JSON Web Token that a hub with this configuration accepts. Signed with auth.jwt_key if "
        "that is a shared secret, else with the private key in --key-file."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default: $EDGE_CONFIG)")
    for permission in _ON_PROJECTS:
        parser.add_argument(
            f"--{permission}",
            action="append",
            default=[],
            metavar="PROJECTS",
            help=f"permission {permission} for projects, comma-separated; team-* is a prefix, * all (may be repeated)",
        )
    parser.add_argument("--metrics", action="store_true", help="permission metrics")
    parser.add_argument("--ttl", default="1h", metavar="DURATION", help="how long it is valid (default: 1h)")
    parser.add_argument("--subject", metavar="NAME", help="the claim sub: whom it is for")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="private key (PEM) to sign with")


def run(arguments: argparse.Namespace, auth: AuthSettings) -> str:
    """The token. Raises ValueError, with a sentence."""
    import time  # noqa: PLC0415 - `edge --version` needs none of these

    from edge.auth.mint import mint  # noqa: PLC0415
    from edge.config.load import read_secret  # noqa: PLC0415
    from edge.config.units import parse_duration  # noqa: PLC0415

    grants = {permission: _projects(permission, getattr(arguments, permission)) for permission in _ON_PROJECTS}
    if arguments.metrics:
        grants["metrics"] = ["*"]
    if not any(grants.values()):
        raise ValueError("a token without permissions is useless: add one, such as --subscribe p1")
    try:
        ttl_seconds = parse_duration(arguments.ttl)
    except ValueError as error:
        raise ValueError(f"--ttl {error}") from None
    if ttl_seconds < 1:
        raise ValueError("--ttl must be a second or more")
    private_pem = None
    if arguments.key_file is not None:
        try:
            private_pem = read_secret(arguments.key_file)
        except ValueError as error:
            raise ValueError(f"--key-file {error}") from None
    return mint(auth, grants, ttl_seconds, time.time(), private_pem=private_pem, subject=arguments.subject)


def _projects(permission: str, given: list[str]) -> list[str]:
    projects = [name for name in (part.strip() for text in given for part in text.split(",")) if name]
    for name in projects:
        if _GRANT.fullmatch(name) is None:
            raise ValueError(f"--{permission} {name} is neither a project id nor a prefix that ends in *")
    return projects
