"""The systemd units as they are read; tests/packaging/test_booted.py runs them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from edge.config.schema import FILE_KEYS, Config
from tests.packaging.conftest import ROOT, run

pytestmark = pytest.mark.packaging

UNITS = ROOT / "systemd"
HIGHEST_EXPOSURE = 1.2


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in a folder of their own, with a program where theirs will be."""
    for unit in ("edge.service", "edge.socket"):
        shutil.copy(UNITS / unit, tmp_path)
    context = tmp_path / "edge.service"
    context.write_text(context.read_text().replace("/usr/bin/edge", "/bin/true"))
    return tmp_path


def test_systemd_has_nothing_to_say_about_them(installed: Path) -> None:
    assert "" == run("systemd-analyze", "verify", "--man=no", installed / "edge.service", installed / "edge.socket")


def test_nor_about_the_service_with_the_example_drop_in(installed: Path) -> None:
    (installed / "edge.service.d").mkdir()
    shutil.copy(UNITS / "drop-in.conf", installed / "edge.service.d" / "local.conf")
    assert "" == run("systemd-analyze", "verify", "--man=no", installed / "edge.service")


def test_the_service_is_hardly_exposed(installed: Path) -> None:
    threshold = str(round(HIGHEST_EXPOSURE * 10))
    report = run(
        "systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", installed / "edge.service"
    )
    [exposure] = re.findall(r"Overall exposure level for edge.service: (\S+)", report)
    assert float(exposure) <= HIGHEST_EXPOSURE


def test_it_is_given_more_time_to_stop_than_it_takes() -> None:
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)s$", (UNITS / "edge.service").read_text(), re.MULTILINE)
    assert float(seconds) > Config().server.drain_seconds + 1


def test_every_secret_can_be_a_credential() -> None:
    found = re.findall(r"^LoadCredential=(\S+):edge\.(\S+)$", (UNITS / "edge.service").read_text(), re.MULTILINE)
    assert [] == [(key, file) for key, file in found if key != file]
    unit = (UNITS / "edge.service").read_text()
    named = re.findall(r"^Environment=EDGE_(\w+)_FILE=-%d/(\S+)$", unit, re.MULTILINE)
    assert {key.replace(".", "_").upper(): key for key in FILE_KEYS} == dict(named)
    assert {key for key, _ in found} == FILE_KEYS
    image = re.findall(r"EDGE_(\w+)_FILE=-/run/secrets/(\S+) ", (ROOT / "Dockerfile").read_text())
    assert dict(named) == dict(image)


def test_the_socket_is_where_the_hub_listens_by_default() -> None:
    server = Config().server
    assert f"\nListenStream={server.host}:{server.port}\n" in (UNITS / "edge.socket").read_text()


SCRIPTS = ("image", "portable/build", "portable/compile", "deb/postinst", "deb/prerm", "deb/postrm")


@pytest.mark.parametrize("script", SCRIPTS)
def test_shell_scripts_are_sound(script: str) -> None:
    assert "" == run("shellcheck", ROOT / "build" / script)
