"""The Debian package, installed where nothing runs; tests/packaging/test_booted.py does it on a machine that runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, run, unpack

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1800)]


@pytest.fixture
def root(bare_debian: Path, tmp_path: Path) -> Iterator[Path]:
    """A Debian of its own for each test."""
    root = unpack(bare_debian, tmp_path / "root")
    run("mount", "-t", "proc", "proc", root / "proc")
    yield root
    run("umount", root / "proc")


def files(root: Path) -> set[str]:
    """Every file but what dpkg, the log and the linker keep for themselves."""
    own = re.compile(r"/(var/lib/dpkg|var/log|var/cache|etc/ld\.so\.cache)(/|$)")
    found = run("find", root, "-xdev", "!", "-type", "d", "-printf", "/%P\n").splitlines()
    return {path for path in found if not own.match(path)}


def units_enabled(root: Path) -> set[str]:
    return {path for path in files(root) if path.startswith("/etc/systemd/system/") and "/edge." in path}


def install(root: Path, package: Path) -> None:
    target = root / "tmp" / "edge.deb"
    target.write_bytes(package.read_bytes())
    run("chroot", root, "dpkg", "--install", "--force-confold", "/tmp/edge.deb")
    target.unlink()


def newer(package: Path, folder: Path) -> Path:
    """The same package with the next version and another default configuration, as an upgrade brings it."""
    run("dpkg-deb", "--raw-extract", package, folder / "unpacked")
    control = folder / "unpacked" / "DEBIAN" / "control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+next", control.read_text(), flags=re.MULTILINE))
    for name in ("edge.toml", "edge.env"):
        shipped = folder / "unpacked" / "etc" / "edge" / name
        shipped.write_text(shipped.read_text() + "# A line that the next version has.\n")
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", folder / "unpacked", folder / "next.deb")
    return folder / "next.deb"


def test_installed_upgraded_removed_and_purged_it_keeps_the_configuration_and_leaves_nothing(
    root: Path, deb: Path, tmp_path: Path
) -> None:
    before = files(root)
    install(root, deb)
    assert run("chroot", root, "/usr/bin/edge", "--version").startswith("edge ")
    run("chroot", root, "/usr/bin/edge", "check-config", "--config", "/etc/edge/edge.toml")
    enabled = units_enabled(root)
    wants = "/etc/systemd/system/{}.target.wants/edge.{}"
    assert {wants.format("sockets", "socket"), wants.format("multi-user", "service")} == enabled

    mine = root / "etc" / "edge" / "edge.toml"
    mine.write_text(mine.read_text() + '\n[stream]\nheartbeat_seconds = "25s"\n')
    written = mine.read_text()
    (root / "var" / "lib" / "private" / "edge").mkdir(parents=True)
    (root / "var" / "lib" / "private" / "edge" / "edge.db").touch()
    install(root, newer(deb, tmp_path))
    assert written == mine.read_text(), "what was changed is kept"
    assert "next version" in (root / "etc" / "edge" / "edge.env").read_text(), "what wasn't is renewed"

    run("chroot", root, "dpkg", "--remove", "edge")
    assert written == mine.read_text()
    assert not (root / "usr" / "lib" / "edge").exists()
    assert (root / "var" / "lib" / "private" / "edge" / "edge.db").exists()

    run("chroot", root, "dpkg", "--purge", "edge")
    assert before == files(root)
    assert not (root / "etc" / "edge").exists()


def test_what_an_administrator_disabled_an_upgrade_leaves_disabled(root: Path, deb: Path, tmp_path: Path) -> None:
    install(root, deb)
    run("chroot", root, "systemctl", "disable", "edge.service", "edge.socket")
    install(root, newer(deb, tmp_path))
    assert set() == units_enabled(root)


def test_lintian_has_nothing_to_say(deb: Path) -> None:
    assert "" == run("lintian", "--allow-root", "--fail-on", "error,warning", deb)


def test_it_asks_for_what_the_binary_needs(deb: Path, dist: Path) -> None:
    depends = run("dpkg-deb", "--field", deb, "Depends").strip()
    glibc = re.findall(r"for glibc (\S+) or later", run(dist / "edge-dir" / "edge", "--version"))[0]
    assert f"libc6 (>= {glibc}), zlib1g" == depends


def test_its_configuration_is_the_example_with_every_setting_as_a_comment(deb: Path, tmp_path: Path) -> None:
    run("dpkg-deb", "--extract", deb, tmp_path)
    shipped = (tmp_path / "etc" / "edge" / "edge.toml").read_text()
    assert [] == re.findall(r"^\w.*", shipped, re.MULTILINE)
    keys = re.compile(r"^(?:# )?(\w+) = ", re.MULTILINE)
    example = keys.findall((ROOT / "edge" / "static" / "edge.example.toml").read_text())
    assert [key for key in example if key not in ("host", "port")] == keys.findall(shipped)


def test_the_man_page_is_well_formed_and_names_every_option_and_command() -> None:
    manual = ROOT / "docs" / "edge.1"
    assert "" == run("groff", "-man", "-Tutf8", "-ww", "-z", manual)
    text = manual.read_text().replace("\\-", "-")
    edge = (sys.executable, "-m", "edge")
    help_of = {
        name: run(*edge, *name.split(), "--help", cwd=ROOT) for name in ("", "serve", "check-config", "healthcheck")
    }
    options = {option for page in help_of.values() for option in re.findall(r"--[a-z-]+", page)}
    commands = re.findall(r"^    ([a-z-]+)  ", help_of[""], re.MULTILINE)
    assert [] == [word for word in sorted(options | set(commands)) if word not in text]
