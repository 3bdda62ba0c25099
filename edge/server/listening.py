"""Where a hub listens: TCP addresses, a Unix socket, or the sockets that systemd hands over; and its certificate."""

from __future__ import annotations

import errno
import grp
import os
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edge.config import load
from edge.config.load import DEFAULT_SOURCE, ConfigError, Sources
from edge.config.schema import Config, replaced, value_of
from edge.config.texts import UNIX_PREFIX, is_local

BACKLOG = 4096
"""Connections that may wait to be accepted; a thousand clients that reconnect at once must not be refused."""
_ADVICE = {
    errno.EADDRINUSE: "another process listens there: stop it, or choose another port or path",
    errno.EADDRNOTAVAIL: "this machine does not have that address: see server.host",
    errno.EAFNOSUPPORT: "this machine does not support that kind of address: see server.host",
    errno.EACCES: "that requires a permission this user lacks: choose a port above 1023, or a folder it may write",
}


class CantListenError(Exception):
    """The address can't be listened on; the text is a sentence that says why and what to do."""


@contextmanager
def listening(host: str, port: int, *, unix_mode: str = "0660", unix_group: str | None = None) -> Iterator[Any]:
    """Listening sockets for `host`, closed at the end; the file of a Unix socket is removed then. Raises
    CantListenError.
    """
    created: tuple[Path, object] | None = None
    if host.startswith(UNIX_PREFIX):
        path = Path(host.removeprefix(UNIX_PREFIX))
        sockets = [_listen_on_unix(path, unix_mode, unix_group)]
        created = path, _identity(path)
    else:
        sockets = listen(host, port)
    try:
        yield sockets
    finally:
        close(sockets)
        # Not the file of a process that has taken our place meanwhile.
        with suppress(FileNotFoundError):
            if created is not None and _identity(created[0]) == created[1]:
                created[0].unlink()


def _identity(path: Path) -> object:
    """What distinguishes one file from another that took its name, and perhaps its inode."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_ctime_ns


def close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets bound to every address of `host` that this machine has, all on one port. `::` is IPv4 as well.

    Raises CantListenError when the name has no address, one is taken, or none is this machine's (`localhost` names ::1
    even where IPv6 is off).
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise CantListenError(
            f"can't listen on {host}: the name has no address; give server.host an address of this machine"
        ) from None
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            address = (address[0], port, *address[2:])
            both = host == "::" and socket.has_dualstack_ipv6()
            try:
                sock = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
            else:
                sockets.append(sock)
                port = sock.getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except OSError as error:
        close(sockets)
        raise CantListenError(f"can't listen on {host}, port {port}: {_advice(error)}") from None
    return sockets


def _listen_on_unix(path: Path, mode: str, group: str | None) -> socket.socket:
    try:
        group_id = -1 if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise CantListenError(f"can't listen on {UNIX_PREFIX}{path}: there is no group {group}") from None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _abandoned(path):
            path.unlink()
        umask = os.umask(0o777)  # no process may connect until mode and group are set
        try:
            sock.bind(str(path))
        finally:
            os.umask(umask)
        os.chown(path, -1, group_id)
        path.chmod(int(mode, 8))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CantListenError(f"can't listen on {UNIX_PREFIX}{path}: {_advice(error)}") from None
    return sock


def _abandoned(path: Path) -> bool:
    """Whether `path` is a socket that a process has left behind."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                return probe.connect_ex(str(path)) == errno.ECONNREFUSED
    return False


def _advice(error: OSError) -> str:
    return _ADVICE.get(error.errno or 0) or error.strerror or str(error)


def refuse_exposure(config: Config, sources: Sources, sockets: Sequence[socket.socket], key: str) -> None:
    """Raise ConfigError about the setting `key` if other machines could use the hub without authentication.

    Decided by the sockets: a name may resolve to anything, and a socket may have been inherited.
    """
    for sock in sockets:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            load.refuse_exposure(config, sources, sock.getsockname()[0].partition("%")[0], key)


def with_real_address(config: Config, sockets: Sequence[socket.socket]) -> Config:
    """`config` with the address of inherited sockets: access control depends on whether other machines reach it."""
    addresses = [sock.getsockname() for sock in sockets if sock.family != socket.AF_UNIX]
    if not addresses:
        host, port = UNIX_PREFIX + sockets[0].getsockname(), 0
    else:
        reachable = [address for address in addresses if not is_local(address[0])]
        host, port = (reachable or addresses)[0][:2]
    return replaced(config, {"server.host": host, "server.port": port})


def urls(sockets: Sequence[socket.socket], *, tls: bool) -> list[str]:
    """Under which URLs the hub answers; a Unix socket as `unix:PATH`."""
    found = []
    for sock in sockets:
        if sock.family == socket.AF_UNIX:
            found.append(f"{UNIX_PREFIX}{sock.getsockname()}")
        else:
            host, port = sock.getsockname()[:2]
            found.append(f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}")
    return found


def tls_context(config: Config, sources: Sources) -> ssl.SSLContext | None:
    """The server side of TLS, when a certificate is configured. Raises ConfigError that names the key and the file."""
    server = config.server
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, config, sources)
    return context


def load_certificate(context: ssl.SSLContext, config: Config, sources: Sources) -> None:
    """Read the certificate and the key into `context`. Raises ConfigError that names the key and the file."""
    cert, key = config.server.tls_cert, config.server.tls_key
    assert cert is not None
    assert key is not None

    def refusal(name: str, why: str) -> ConfigError:
        return ConfigError(name, sources.get(name, DEFAULT_SOURCE), why, value=value_of(config, name))

    def no_pass_phrase() -> bytes:
        raise refusal("server.tls_key", "is encrypted: the hub asks for no pass phrase; decrypt it with `openssl pkey`")

    for name, path in (("server.tls_cert", cert), ("server.tls_key", key)):
        try:
            Path(path).read_bytes()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise refusal(name, f"can't read the file: {why or type(error).__name__}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=cert)
    except ssl.SSLError:
        raise refusal("server.tls_cert", "holds no certificate in PEM format") from None
    try:
        context.load_cert_chain(cert, key, password=no_pass_phrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise refusal("server.tls_key", "is not the key of the certificate in server.tls_cert") from None
        raise refusal("server.tls_key", "holds no private key in PEM format that OpenSSL accepts") from None
