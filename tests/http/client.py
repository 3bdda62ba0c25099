"""A hub as tests see it: requests with their answers, and streams read frame by frame."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import aiohttp
import jsonschema_rs

from edge.config.schema import Config
from edge.http.context import Context
from edge.http.openapi import document
from edge.http.problems import PROBLEMS

DOCUMENT = document(Config())


def closed(schema: Any) -> Any:
    """`schema`, in which an object has no other properties than those that are listed."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(each) for name, each in schema.items()}
    return {"additionalProperties": False, **made} if isinstance(made.get("properties"), dict) else made


@lru_cache
def _validator(method: str, path: str, status: int) -> jsonschema_rs.Draft202012Validator:
    content = DOCUMENT["paths"][path][method]["responses"][str(status)]["content"]
    schema = {**content["application/json"]["schema"], "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(closed(schema))


def check_answer(method: str, path: str, status: int, content_type: str, body: bytes) -> None:
    """Hold an answer in JSON against the document: it has all that its schema requires, of these types, and no more."""
    if content_type != "application/json" or path == "/openapi.json":
        return
    fitting = (each for each in DOCUMENT["paths"] if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", each), path))
    _validator(method.lower(), next(fitting), status).validate(json.loads(body))


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document, held against the table of all codes."""
        assert "application/problem+json" == self.headers["Content-Type"]
        document: dict[str, Any] = self.json
        row = PROBLEMS[document["code"]]
        assert (row.status, row.title) == (self.status, document["title"])
        assert row.status == document["status"]
        assert f"urn:edge:problem:{document['code']}" == document["type"]
        assert document["detail"].endswith(".")
        return document


class Frame:
    """One block of a stream, up to its empty line, or one comment."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.fields: dict[str, str] = {}
        for line in raw.decode().splitlines():
            name, _, value = line.partition(": ")
            self.fields[name] = f"{self.fields[name]}\n{value}" if name in self.fields else value

    def __repr__(self) -> str:
        return f"Frame({self.raw!r})"

    @property
    def id(self) -> str | None:
        return self.fields.get("id")

    @property
    def seq(self) -> int:
        return int(self.fields["id"].rpartition("-")[2])

    @property
    def event(self) -> str:
        return self.fields.get("event", "message")

    @property
    def data(self) -> Any:
        return json.loads(self.fields["data"])


class Stream:
    """An open stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.hello: dict[str, Any] = {}

    async def next(self) -> Frame:
        """The next frame; EOFError at the end of the stream."""
        try:
            raw = await self.response.content.readuntil(b"\n")
            while not (raw.startswith(b":") or raw.endswith(b"\n\n")):
                raw += await self.response.content.readuntil(b"\n")
            return Frame(raw)
        except asyncio.IncompleteReadError:
            raise EOFError from None

    async def take(self, count: int) -> list[Frame]:
        return [await self.next() for _ in range(count)]

    async def ended(self) -> bool:
        return b"" == await self.response.content.read()


class Site:
    """A running hub; its project is `p` unless a test names another."""

    def __init__(self, url: str, context: Context, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.context = context
        self.session = session

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, self.url + path, allow_redirects=False, **options) as response:
            body = await response.read()
            if method not in ("HEAD", "OPTIONS"):
                inside = response.url.path.removeprefix(self.context.config.server.base_path or "")
                check_answer(method, inside, response.status, response.content_type, body)
            return Answer(response.status, response.headers, body)

    async def publish(self, data: object = 1, kind: str | None = None, project: str = "p", **params: str) -> Answer:
        body = {"data": data} if kind is None else {"type": kind, "data": data}
        return await self.ask("POST", f"/projects/{project}/events", json=body, params=params)

    async def trigger(self, body: object = None, headers: Mapping[str, str] | None = None, **params: str) -> Answer:
        body = {"name": "job"} if body is None else body
        return await self.ask("POST", "/projects/p/trigger", json=body, params=params, headers=headers)

    @asynccontextmanager
    async def stream(
        self, project: str = "p", headers: Mapping[str, str] | None = None, **params: str
    ) -> AsyncIterator[Stream]:
        """An open stream whose hello has been read."""
        url = f"{self.url}/projects/{project}/events"
        async with self.session.get(url, params=params, headers=headers) as response:
            assert 200 == response.status, await response.text()
            stream = Stream(response)
            hello = await stream.next()
            assert "edge.hello" == hello.event
            stream.hello = hello.data
            yield stream

    async def connections(self, count: int, project: str = "p") -> None:
        """Wait until `project` has that many."""
        while self.context.hub.connected(project) != count:
            await asyncio.sleep(0.005)

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own on which `request` was sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        await writer.drain()
        return reader, writer

    async def exchange(self, request: bytes) -> Answer:
        """Send bytes as they are; the one answer to them, after which the server must close."""
        reader, writer = await self.raw(request)
        try:
            answer = await read_answer(reader)
            assert b"" == await reader.read()
            return answer
        finally:
            writer.close()
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """One answer with a Content-Length, off the wire."""
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = dict(each.split(": ", 1) for each in lines)
    return Answer(int(line.split()[1]), headers, await reader.readexactly(int(headers.get("Content-Length", 0))))
