"""The SQLite store under a real process that is killed at any moment, and what its next life knows."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("STORE_KILLS", "12"))
"""A thousand of them is `STORE_KILLS=1000`; see docs/durability.md."""


@contextmanager
def hub(path: Path, durability: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edge", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "EDGE_STORE_URL": f"sqlite:{path}", "EDGE_STORE_DURABILITY": durability},
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        yield process, port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(port: int, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Publishers(threading.Thread):
    """Publishes single events, one after the other, until the hub is gone; keeps every receipt."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__()
        self.port = port
        self.project = name
        self.receipts: list[tuple[str, str]] = []
        """`(id, data)` of what was acknowledged."""
        self.sent = 0

    def run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            while True:
                data = f"{self.project}-{self.sent}-{random.random()}"
                self.sent += 1
                connection.request("POST", f"/projects/{self.project}/events", data, {"Content-Type": "text/plain"})
                answer = connection.getresponse()
                receipt = json.loads(answer.read())
                self.receipts.append((receipt["id"], data))
        except (OSError, HTTPException, ValueError):
            connection.close()


def everything(port: int, project: str) -> list[tuple[str, str]]:
    """`(id, data)` of all that is held."""
    newest = json.loads(ask(port, "GET", f"/projects/{project}")[1])["ring"]["newest"]
    found: list[tuple[str, str]] = []
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(f"GET /projects/{project}/events?since=all HTTP/1.0\r\n\r\n".encode())
        fields: dict[str, str] = {}
        for raw in sock.makefile("rb"):
            name, _, value = raw.decode().rstrip("\r\n").partition(": ")
            if name:
                fields[name] = value
                continue
            if "id" in fields and "event" not in fields:
                found.append((fields["id"], fields["data"]))
                if fields["id"] == newest:
                    return found
            fields = {}
    raise AssertionError("the stream ended early")


@pytest.mark.timeout(600 + 5 * KILLS)
def test_no_committed_event_is_lost_or_doubled_by_kills_at_random_moments(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    promised: dict[str, dict[str, str]] = {"a": {}, "b": {}}
    for round_number in range(KILLS):
        with hub(path, "commit") as (process, port):
            for project, receipts in promised.items():
                if receipts:
                    _check(port, project, receipts)
            publishers = [Publishers(port, project) for project in promised for _ in range(2)]
            for publisher in publishers:
                publisher.start()
            time.sleep(random.Random(round_number).uniform(0.0, 0.25))
            process.send_signal(signal.SIGKILL)
            for publisher in publishers:
                publisher.join()
                promised[publisher.project].update(publisher.receipts)
    with hub(path, "commit") as (_, port):
        for project, receipts in promised.items():
            _check(port, project, receipts)


def test_with_async_a_kill_takes_the_last_events_at_most_and_none_from_between(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with hub(path, "commit") as (_, port):
        ask(port, "POST", "/projects/a/events", '{"data": "the first"}')
    for round_number in range(max(3, KILLS // 4)):
        with hub(path, "async") as (process, port):
            publishers = [Publishers(port, "a") for _ in range(3)]
            for publisher in publishers:
                publisher.start()
            time.sleep(random.Random(round_number).uniform(0.0, 0.25))
            process.send_signal(signal.SIGKILL)
            for publisher in publishers:
                publisher.join()
        receipts = {key: data for publisher in publishers for key, data in publisher.receipts}
        with hub(path, "async") as (_, port):
            kept = dict(everything(port, "a"))
            numbers = {int(key.rpartition("-")[2]) for key in kept}
            lost = {int(key.rpartition("-")[2]) for key, data in receipts.items() if kept.get(key) != data}
            assert [] == [seq for seq in lost if min(numbers) <= seq <= max(numbers)]
            _check(port, "a", {})


def _check(port: int, project: str, promised: dict[str, str]) -> None:
    held = everything(port, project)
    numbers = [int(event_id.rpartition("-")[2]) for event_id, _ in held]
    assert list(range(numbers[0], numbers[-1] + 1)) == numbers
    assert len({data for _, data in held}) == len(held)
    oldest = numbers[0]
    by_id = dict(held)
    still_held = {key: data for key, data in promised.items() if int(key.rpartition("-")[2]) >= oldest}
    assert still_held == {key: by_id.get(key) for key in still_held}
    misses = json.loads(ask(port, "GET", f"/projects/{project}")[1])["misses"]
    assert misses["total"] == misses["recovered"] + misses["lost"] + misses["pending"]
    assert numbers[-1] == misses["total"]


def test_a_client_resumes_after_a_kill_with_its_id_and_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with hub(path, "commit") as (process, port):
        ids = [json.loads(ask(port, "POST", "/projects/p/events", '{"data": 1}')[1])["id"] for _ in range(3)]
        process.send_signal(signal.SIGKILL)
    with hub(path, "commit") as (_, port), socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(f"GET /projects/p/events HTTP/1.0\r\nLast-Event-ID: {ids[0]}\r\n\r\n".encode())
        text = b""
        while f"id: {ids[2]}\n".encode() not in text.partition(b"\n\n")[2]:
            text += sock.recv(65536)
        assert b"edge.gap" not in text
        assert f"id: {ids[1]}".encode() in text


def test_a_second_process_on_the_file_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with hub(path, "async") as (first, port):
        event_id = json.loads(ask(port, "POST", "/projects/p/events", '{"data": 1}')[1])["id"]
        with hub(path, "async") as (_, second_port):
            status, body = ask(second_port, "GET", "/readyz")
            assert (503, True) == (status, b"another process has it open" in body)
            assert 503 == ask(second_port, "POST", "/projects/p/events", '{"data": 1}')[0]
            first.terminate()
            first.wait()
            deadline = time.monotonic() + 60
            while ask(second_port, "GET", "/readyz")[0] != 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert event_id in str(everything(second_port, "p"))


def test_a_folder_that_cannot_be_written_to_shows_in_readyz() -> None:
    with hub(Path("/proc/history.db"), "async") as (_, port):
        status, body = ask(port, "GET", "/readyz")
        assert (503, True) == (status, b"does its folder exist" in body)


def test_another_programs_file_stops_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    refused = subprocess.run(
        [sys.executable, "-m", "edge", "serve", "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "EDGE_STORE_URL": f"sqlite:{tmp_path / 'history.db'}", "EDGE_SERVER_LOG_LEVEL": "error"},
    )
    assert 2 == refused.returncode
    assert "it is not a database" in refused.stderr
    assert 1 == len(refused.stderr.splitlines())


def test_a_keyed_publish_that_was_answered_is_not_done_again_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for round_number in range(max(3, KILLS // 2)):
        answers: dict[str, bytes] = {}
        with hub(path, "commit") as (process, port):
            workers = [
                threading.Thread(target=_publish_keyed, args=(port, f"{round_number}-{n}", answers)) for n in range(4)
            ]
            for worker in workers:
                worker.start()
            time.sleep(random.Random(round_number).uniform(0.02, 0.3))
            process.send_signal(signal.SIGKILL)
            for worker in workers:
                worker.join()
        with hub(path, "commit") as (_, port):
            held = len(everything(port, "k"))
            for key, answer in answers.items():
                status, again = ask(port, "POST", "/projects/k/events", '{"data": 1}', **{"Idempotency-Key": key})
                assert (202, answer) == (status, again)
            assert held == len(everything(port, "k"))


def _publish_keyed(port: int, worker: str, answers: dict[str, bytes]) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for number in itertools.count():
            key = f"{worker}-{number}"
            connection.request("POST", "/projects/k/events", '{"data": 1}', {"Idempotency-Key": key})
            answer = connection.getresponse().read()
            answers[key] = answer
    except (OSError, HTTPException):
        connection.close()
