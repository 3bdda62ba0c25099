"""Publishers and callers of triggers: they write down what they sent and each answer, and repeat what has a key."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp

from tests.faultcheck.processes import Node
from tests.faultcheck.records import History, Sent
from tests.faultcheck.wire import event, reset

ANSWER_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 0.04


class Publisher:
    """Sends one request after the other, in all the ways there are, until it is stopped."""

    def __init__(
        self,
        name: str,
        projects: list[str],
        nodes: list[Node],
        history: History,
        clock: Callable[[], float],
        dice: random.Random,
        *,
        triggers: bool = False,
    ) -> None:
        self.name = name
        self.stopped = False
        self.keyed: dict[str, Sent] = {}
        """Requests with a key by it, to be repeated."""
        self._projects = projects
        self._nodes = nodes
        self._history = history
        self._clock = clock
        self._dice = dice
        self._triggers = triggers
        self._number = 0

    async def run(self) -> None:
        async with self._session() as client:
            while not self.stopped:
                await self._next(client)
                await asyncio.sleep(self._dice.choice([0.0, self._dice.uniform(0.0, LONGEST_PAUSE_SECONDS)]))

    async def publish(self, project: str, what: str) -> Sent:
        """One keyed event, as often as it takes; its last attempt."""
        async with self._session() as client:
            return await self._until_answered(client, self._new(project, "json", what, key=f"k-{what}"))

    async def repeat_all(self) -> None:
        """Each keyed request once more: what was answered once is answered so again."""
        async with self._session() as client:
            for sent in list(self.keyed.values()):
                await self._until_answered(client, sent)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=5),
            connector=aiohttp.TCPConnector(force_close=self._dice.random() < 0.3),
        )

    async def _next(self, client: aiohttp.ClientSession) -> None:
        self._number += 1
        project, token = self._dice.choice(self._projects), f"{self.name}-{self._number}"
        if self.keyed and self._dice.random() < 0.2:
            await self._until_answered(client, self._dice.choice(list(self.keyed.values())))
        elif self._triggers:
            key = self._dice.choice(["", f"t-{token}", f"t-{token}"])
            trigger = self._new(project, "trigger", token, key=key)
            await (self._until_answered(client, trigger) if key else self._send(client, trigger))
        else:
            way = self._dice.choice(["json"] * 4 + ["keyed"] * 4 + ["text", "ndjson", "half"])
            if way == "ndjson":
                await self._send_lines(client, project, token)
            elif way == "half":
                await self._send_half(project, token)
            elif way == "keyed":
                await self._until_answered(client, self._new(project, "json", token, key=f"k-{token}"))
            else:
                await self._send(client, self._new(project, "text" if way == "text" else "json", token))

    def _new(self, project: str, way: Any, token: str, key: str = "") -> Sent:
        return Sent(0.0, 0.0, self.name, way, project, token, "unknown", key)

    async def _until_answered(self, client: aiohttp.ClientSession, sent: Sent) -> Sent:
        """Repeat a keyed request until it is accepted, or refused for good; at times begin with two at once."""
        self.keyed[sent.key] = sent
        if self._dice.random() < 0.2:
            await asyncio.gather(self._send(client, sent), self._send(client, sent))
        while True:
            sent = await self._send(client, sent)
            if sent.outcome == "accepted" or sent.status in {409, 422, 500, 502} or self.stopped:
                return sent
            await asyncio.sleep(self._dice.uniform(0.02, 0.2))

    async def _send(self, client: aiohttp.ClientSession, sent: Sent) -> Sent:
        url, body, headers = self._request(sent)
        at = self._clock()
        status, text, answered = await self._post(client, url, body, headers)
        done = replace(sent, at=at, until=self._clock(), status=status, body=text, **_read(status, text, answered))
        if done.outcome != "unsent":
            self._history.add(done)
        return done

    def _request(self, sent: Sent) -> tuple[str, str, dict[str, str]]:
        hub = f"{self._dice.choice(self._nodes).url}/projects/{sent.project}"
        headers = {"Idempotency-Key": sent.key} if sent.key else {}
        if sent.way == "trigger":
            # Half of the keys by the job's id, always the same way for the same key.
            body: dict[str, object] = {"name": "job", "data": event(sent.token)}
            if sent.key and len(sent.token) % 2:
                body["id"], headers = sent.key, {}
            return f"{hub}/trigger?timeout=2s", json.dumps(body), headers | {"Content-Type": "application/json"}
        if sent.way == "text":
            return f"{hub}/events?type=note", event(sent.token), headers | {"Content-Type": "text/plain"}
        condition = "" if sent.key else self._dice.choice(["", "", "?require=1", "?wait=1s"])
        return (
            f"{hub}/events{condition}",
            json.dumps({"data": event(sent.token)}),
            headers | {"Content-Type": "application/json"},
        )

    async def _post(
        self, client: aiohttp.ClientSession, url: str, body: str, headers: dict[str, str]
    ) -> tuple[int, str, dict[str, str]]:
        try:
            async with client.post(url, data=body.encode(), headers=headers) as answer:
                text = (await answer.text()).strip()
                return answer.status, text, {name.lower(): value for name, value in answer.headers.items()}
        except aiohttp.ClientConnectorError:
            return 0, "not connected", {}
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return 0, repr(error), {}

    async def _send_lines(self, client: aiohttp.ClientSession, project: str, token: str) -> None:
        tokens = [f"{token}.{number}" for number in range(self._dice.randint(2, 12))]
        body = "".join(json.dumps({"data": event(each)}) + "\n" for each in tokens)
        url, at = f"{self._dice.choice(self._nodes).url}/projects/{project}/events", self._clock()
        status, text, headers = await self._post(client, url, body, {"Content-Type": "application/x-ndjson"})
        answer = _json(text)
        published, until = int(answer.get("published", 0)), self._clock()
        read = _read(status, text, headers) | {"id": ""}
        refused = read["outcome"] == "refused"
        for number, each in enumerate(tokens):
            outcome = "accepted" if refused and number < published else read["outcome"]
            # The first and the last have ids; what others published stands between them.
            ids = {0: answer.get("first_id"), published - 1: answer.get("last_id")} if published else {}
            details = read | {"outcome": outcome, "id": ids.get(number) or ""}
            sent = self._new(project, "ndjson", each)
            self._history.add(replace(sent, at=at, until=until, status=status, body=text, **details))

    async def _send_half(self, project: str, token: str) -> None:
        """A request that is never sent whole, or sent whole and left at once."""
        tokens = [f"{token}.{number}" for number in range(3)]
        lines = [(json.dumps({"data": event(each)}) + "\n").encode() for each in tokens]
        many = self._dice.random() < 0.5
        body = b"".join(lines) if many else lines[0]
        kind = "application/x-ndjson" if many else "application/json"
        head = f"POST /projects/{project}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        cut = self._dice.choice([len(whole), self._dice.randrange(len(whole))])
        abrupt, at = self._dice.random() < 0.5, self._clock()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._dice.choice(self._nodes).port)
            writer.write(whole[:cut])
            await writer.drain()
            if abrupt:
                reset(writer)
            writer.close()
        except OSError:
            cut = min(cut, len(whole) - 1)
        sent_bytes = cut - (len(whole) - len(body))
        end = 0
        for each, line in zip(tokens, lines, strict=True):
            if not many and each != tokens[0]:
                break
            end += len(line)
            # A whole line of NDJSON is published; one JSON document only when all of it came.
            sent = self._new(project, "half", each)
            came = sent_bytes >= end - (1 if not many or end == len(body) else 0)
            self._history.add(replace(sent, at=at, until=self._clock(), outcome="unknown" if came else "unsent"))


def _read(status: int, text: str, headers: dict[str, str]) -> dict[str, Any]:
    """What an answer says, as fields of the record."""
    answer = _json(text)
    outcome = "unsent" if text == "not connected" else "unknown"
    if status:
        outcome = "accepted" if status in {200, 201, 202} else "refused"
    return {
        "outcome": outcome,
        "id": answer.get("id") or "",
        "code": answer.get("code", ""),
        "replayed": headers.get("idempotency-replayed") == "true",
        "may_have_started": bool(answer.get("may_have_started")),
    }


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
