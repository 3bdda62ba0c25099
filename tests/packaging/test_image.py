"""The image, built from the Dockerfile and run by podman, in a storage of the tests' own.

No registry is asked: what stands in for the official Python image is a Debian made of the same parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from edge import __version__
from tests.packaging.conftest import ARCHITECTURE, KEPT, NATIVE, ROOT, run
from tests.packaging.running import client, does_its_job, events, wait_until
from tests.ports import free_port

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1800)]
PYTHON_IMAGE = "docker.io/library/python:3.11-bookworm"
TOKEN = "a-token-that-stands-in-the-environment"
LOCKED_DOWN = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
# crun, Debian's default, doesn't start on machines with both kinds of control groups; and a container may not ask for
# more descriptors than this machine has.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1024:1024"]
[engine]
runtime = "runc"
"""


class Podman:
    """podman with a storage and a configuration of its own."""

    def __init__(self, folder: Path) -> None:
        configuration = folder / "containers.conf"
        configuration.write_text(CONFIGURATION)
        self.environ = {**os.environ, "CONTAINERS_CONF": str(configuration)}
        # Podman takes no long path for its state, and wants the same one for a storage each time.
        state = f"/run/edge-tests-{hashlib.sha256(bytes(KEPT / ARCHITECTURE)).hexdigest()[:8]}"
        storage = KEPT / f"containers-{ARCHITECTURE}"
        self.command = ("podman", "--log-level=fatal", f"--root={storage}", f"--runroot={state}")

    def __call__(self, *arguments: str | Path) -> str:
        return run(*self.command, *arguments, env=self.environ).strip()

    @contextmanager
    def container(self, image: str, *options: str) -> Iterator[str]:
        """A container of `image`, started with `options`; its id."""
        name = self("run", "--detach", *options, image)
        try:
            yield name
        finally:
            self("rm", "--force", "--time=0", name)

    def state(self, container: str) -> dict[str, object]:
        state: dict[str, object] = json.loads(self("inspect", "--format={{json .State}}", container))
        return state

    def url(self, container: str) -> str:
        return "http://" + self("port", container, "8080/tcp")


@pytest.fixture(scope="module")
def podman(as_root: None, tmp_path_factory: pytest.TempPathFactory) -> Podman:
    return Podman(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="module")
def image(podman: Podman, debian_with_python: Path) -> str:
    """The image's name."""
    if PYTHON_IMAGE not in podman("images", "--format={{.Repository}}:{{.Tag}}").splitlines():
        podman("import", "--quiet", f"--arch={ARCHITECTURE}", debian_with_python, PYTHON_IMAGE)
    here: list[str] = []
    if "PIP_CERT" in os.environ:  # this machine's way to its packages has an authority of its own
        certificates = Path(os.environ["PIP_CERT"])
        here = [f"--volume={certificates.parent}:{certificates.parent}:ro", f"--env=PIP_CERT={certificates}"]
    podman(
        *(
            "build",
            "--quiet",
            "--format=docker",
            f"--platform=linux/{ARCHITECTURE}",
            *here,
            "--tag=localhost/edge-tests",
        ),
        *(f"--build-arg=PYTHON_IMAGE={PYTHON_IMAGE}", "--build-arg=SOURCE_COMMIT=0123abc"),
        *("--build-arg=SOURCE_DATE_EPOCH=1700000000", ROOT),
    )
    # What a build left that was broken off holds images, which then can't be removed.
    for container in podman("ps", "--all", "--external", "--quiet").split():
        podman("rm", "--force", "--time=0", container)
    podman("image", "prune", "--force")
    return "localhost/edge-tests"


@pytest.fixture(scope="module")
def patient(podman: Podman, image: str) -> tuple[str, ...]:
    """Options that check health by the image's command without its 3 s: on a busy machine it takes longer to start."""
    checked = json.loads(podman("image", "inspect", "--format={{json .HealthCheck}}", image))
    assert ("CMD", 3_000_000_000) == (checked["Test"][0], checked["Timeout"])
    return (f"--health-cmd={json.dumps(checked['Test'][1:])}", "--health-timeout=60s")


@pytest.fixture(scope="module")
def running(podman: Podman, image: str, patient: tuple[str, ...]) -> Iterator[str]:
    """A container as compose.yaml starts it."""
    options = (*LOCKED_DOWN, *patient, "--publish=127.0.0.1::8080", f"--env=EDGE_AUTH_TOKEN={TOKEN}")
    with podman.container(image, *options) as container:
        wait_until(lambda: "listening" in podman("logs", container))
        yield container


def hub(podman: Podman, container: str) -> httpx.Client:
    return client(podman.url(container), Authorization=f"Bearer {TOKEN}")


def test_it_does_its_job_with_a_read_only_root_and_no_rights(podman: Podman, running: str) -> None:
    with hub(podman, running) as inside:
        does_its_job(inside)


@pytest.mark.linux
def test_it_runs_as_its_own_user_with_no_capability(podman: Podman, running: str) -> None:
    status = Path(f"/proc/{podman.state(running)['Pid']}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\t(.*)$", status, re.MULTILINE))
    assert (["65532"] * 4, ["65532"] * 4) == (fields["Uid"].split(), fields["Gid"].split())
    assert (0, "1") == (int(fields["CapEff"], 16), fields["NoNewPrivs"])


def test_its_health_is_checked_by_edge_itself(podman: Podman, running: str) -> None:
    podman("healthcheck", "run", running)
    assert "healthy" == json.loads(podman("inspect", "--format={{json .State.Health}}", running))["Status"]


def test_a_hub_that_doesnt_answer_fails_its_health_check(podman: Podman, image: str, patient: tuple[str, ...]) -> None:
    """It hangs; and its health is checked on the port of its own command line."""
    options = (
        f"--env=EDGE_AUTH_TOKEN={TOKEN}",
        "--entrypoint=/usr/bin/edge",
        *patient,
        "--health-retries=1",
        "--health-start-period=0s",
    )
    name = podman("run", "--detach", *options, image, "serve", "--port=8081")
    try:
        wait_until(lambda: "listening" in podman("logs", name))
        podman("healthcheck", "run", name)
        podman("kill", "--signal=STOP", name)
        with pytest.raises(AssertionError, match="exit status 1"):
            podman("healthcheck", "run", name)
        health = json.loads(podman("inspect", "--format={{json .State.Health}}", name))
        # Emulated, it is too slow for the 3 s of the image: podman ends it, which counts as unhealthy as well.
        assert health["Log"][-1]["ExitCode"] in ({1} if ARCHITECTURE == NATIVE else {1, -1})
    finally:
        podman("rm", "--force", "--time=0", name)


def test_sigterm_drains_it_and_it_ends_with_0(podman: Podman, image: str) -> None:
    options = (*LOCKED_DOWN, "--publish=127.0.0.1::8080", f"--env=EDGE_AUTH_TOKEN={TOKEN}")
    with podman.container(image, *options) as container:
        wait_until(lambda: "listening" in podman("logs", container))
        with hub(podman, container) as inside, inside.stream("GET", "/projects/p/events") as stream:
            heard = events(stream)
            assert "edge.hello" == next(heard)[0]
            podman("kill", "--signal=TERM", container)
            assert "edge.closing" == next(heard)[0]
        assert "0" == podman("wait", container)


def test_a_secret_is_taken_from_a_file(podman: Podman, image: str, tmp_path: Path) -> None:
    secret = tmp_path / "auth.token"
    secret.write_text(TOKEN + "\n")
    secret.chmod(0o444)
    options = ("--publish=127.0.0.1::8080", f"--volume={secret}:/run/secrets/auth.token:ro")
    with podman.container(image, *options) as container:
        wait_until(lambda: "listening" in podman("logs", container))
        with hub(podman, container) as inside:
            assert 200 == inside.get("/projects").status_code


def test_without_any_word_on_who_may_do_what_it_doesnt_start(podman: Podman, image: str) -> None:
    name = podman("run", "--detach", image)
    try:
        assert "2" == podman("wait", name)
    finally:
        podman("rm", "--force", name)


def test_it_says_what_it_is(podman: Podman, image: str) -> None:
    assert podman("run", "--rm", image, "--version").startswith(f"edge {__version__} (commit 0123abc, for glibc ")
    labels = json.loads(podman("inspect", "--format={{json .Config.Labels}}", image))
    assert ("edge", "0123abc") == (
        labels["org.opencontainers.image.title"],
        labels["org.opencontainers.image.revision"],
    )


def test_there_is_nothing_inside_but_the_hub_and_what_it_loads(podman: Podman, image: str, tmp_path: Path) -> None:
    container = podman("create", image)
    try:
        podman("export", f"--output={tmp_path}/image.tar", container)
    finally:
        podman("rm", container)
    names = run("tar", "--list", "--file", tmp_path / "image.tar").splitlines()
    outside = [name for name in names if not name.endswith("/") and not name.startswith("usr/lib/edge/")]
    allowed = re.compile(
        r"usr/bin/edge|etc/(passwd|group|ssl/certs/ca-certificates.crt|hosts|hostname|resolv.conf|mtab)"
        r"|(usr/)?lib(64)?/(\S+-linux-gnu/)?(ld-linux\S*|lib(c|m|dl|z|rt|pthread|util|resolv))\.so\.\d+"
        r"|\.dockerenv|dev/\S+|run/\.containerenv"
    )
    assert [] == [name for name in outside if not allowed.fullmatch(name)]


def test_the_base_is_pinned_by_digest() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(
        r"^ARG PYTHON_IMAGE=docker\.io/library/python:3\.11-bookworm@sha256:[0-9a-f]{64}$", text, re.MULTILINE
    )
    assert ["${PYTHON_IMAGE} AS build", "scratch"] == re.findall(r"^FROM (.*)$", text, re.MULTILINE)


def test_compose_starts_the_hub_with_the_example_app_and_a_job_reports_its_progress(
    podman: Podman, image: str, tmp_path: Path
) -> None:
    podman("tag", image, "localhost/edge")
    program = tmp_path / "podman"
    program.write_text('#!/bin/sh\nexec {} "$@"\n'.format(" ".join(podman.command)))
    program.chmod(0o755)
    port = free_port()
    environ = {**podman.environ, "EDGE_AUTH_TOKEN": TOKEN, "PORT": str(port), "PYTHON_IMAGE": PYTHON_IMAGE}
    project = f"edge-tests-{os.getpid()}"
    compose = ("podman-compose", f"--podman-path={program}", f"--project-name={project}", "--file=compose.yaml")

    def demo() -> httpx.Client:
        return client(f"http://127.0.0.1:{port}", Authorization=f"Bearer {TOKEN}")

    try:
        run(*compose, "up", "--detach", env=environ, cwd=ROOT)
        wait_until(lambda: "listening" in podman("logs", f"{project}_edge_1"))
        with demo() as inside, inside.stream("GET", "/projects/demo/events") as stream:
            heard = events(stream)
            assert "edge.hello" == next(heard)[0]
            answer = inside.post("/projects/demo/trigger", json={"name": "render"})
            assert 202 == answer.status_code, answer.text
            job = answer.json()["id"]
            expected = [("progress", {"job": job, "percent": percent}) for percent in (33, 66, 100)]
            assert expected == [next(heard) for _ in expected]
        podman("restart", f"{project}_edge_1")
        wait_until(lambda: 2 == podman("logs", f"{project}_edge_1").count("edge: listening on "))
        with demo() as inside:
            assert 3 == inside.get("/projects/demo").json()["ring"]["events"], "the volume keeps the history"
    finally:
        run(*compose, "down", "--volumes", env=environ, cwd=ROOT)
        podman("network", "rm", "--force", f"{project}_default")
