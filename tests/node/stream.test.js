// What a browser would need minutes for: how long edge.js waits, waits by its own events, against a server in this process.
import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { createServer } from "node:http";
import { getEventListeners, once } from "node:events";
import test from "node:test";

import { ProjectStream } from "../../edge/static/edge.js";

// Browsers have them; Node does from 19 on, and Debian 12 has 18.
globalThis.crypto ??= webcrypto;
globalThis.CustomEvent ??= class extends Event {
  constructor(type, { detail }) {
    super(type);
    this.detail = detail;
  }
};

const HELLO = 'event: edge.hello\ndata: {"connection":"c","heartbeat_seconds":15,"newest":null,"replayed":0}\n\n';

/** Runs `use(url)` with a server that answers as `answer` says. */
async function withServer(answer, use) {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    return await use(`http://127.0.0.1:${server.address().port}`);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

/** The pauses of the first `count` attempts; each is cut short by `ready()`. */
async function pauses(url, count) {
  const stream = new ProjectStream(url, { project: "p" });
  const waits = [];
  await new Promise((resolve) => {
    stream.addEventListener("statechange", ({ detail }) => {
      if (detail.state !== "reconnecting") return;
      waits.push(detail.waitMs);
      if (waits.length === count) resolve();
      else setTimeout(() => stream.ready({ timeout: 10 }).catch(() => {}), 0);
    });
  });
  stream.close();
  return waits;
}

const stream = (text) => (request, response) =>
  response.writeHead(200, { "Content-Type": "text/event-stream" }).end(text);

test("a pause doubles from one second to thirty, with a quarter of jitter either way", async () => {
  const waits = await withServer(
    (request, response) => response.writeHead(500).end(),
    (url) => pauses(url, 8),
  );
  const middle = [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000];
  waits.forEach((ms, at) => assert.ok(ms >= middle[at] * 0.75 && ms <= middle[at] * 1.25, `${at}: ${ms}`));
  assert.ok(new Set(waits.slice(5)).size > 1);
});

test("pauses begin anew once a hub has sent hello", async () => {
  const waits = await withServer(stream(HELLO), (url) => pauses(url, 4));
  for (const ms of waits) assert.ok(ms <= 1250, String(ms));
});

test("retry: is the shortest pause, also beyond thirty seconds", async () => {
  const waits = await withServer(stream(`retry: 60000\n${HELLO}`), (url) => pauses(url, 2));
  for (const ms of waits) assert.ok(ms >= 45_000 && ms <= 75_000, String(ms));
});

test("a pause that no timer can hold is an hour", async () => {
  assert.deepEqual(await withServer(stream(`retry: 99999999999\n${HELLO}`), (url) => pauses(url, 1)), [3_600_000]);
});

test("edge.closing says exactly when to come back", async () => {
  const closing = 'event: edge.closing\ndata: {"reason":"shutdown","retry_ms":1234}\n\n';
  assert.deepEqual(await withServer(stream(HELLO + closing), (url) => pauses(url, 1)), [1234]);
});

test("Retry-After is obeyed, and ready() doesn't shorten it", async () => {
  let asked = 0;
  const busy = (request, response) => {
    asked += 1;
    response.writeHead(503, { "Retry-After": "7" }).end();
  };
  await withServer(busy, async (url) => {
    const opened = new ProjectStream(url, { project: "p" });
    const [change] = await once(opened, "statechange");
    assert.equal(change.detail.waitMs, 7000);
    await assert.rejects(opened.ready({ timeout: 100 }), { code: "http_503", status: 503 });
    assert.equal(asked, 1);
    opened.close();
  });
});

test("a page of HTML with status 200 is not a stream, and is not the end either", async () => {
  const html = (request, response) => response.writeHead(200, { "Content-Type": "text/html" }).end("<h1>Log in</h1>");
  await withServer(html, async (url) => {
    const opened = new ProjectStream(url, { project: "p" });
    const [{ detail }] = await once(opened, "statechange");
    assert.deepEqual([detail.state, detail.error.code], ["reconnecting", "not_a_stream"]);
    opened.close();
  });
});

test("a trigger whose answer the network loses is asked again under the same key, three times at most", async () => {
  const keys = [];
  const losing = (request, response) => {
    if (request.method === "GET") return response.writeHead(200, { "Content-Type": "text/event-stream" }).write(HELLO);
    keys.push(request.headers["idempotency-key"]);
    if (keys.length % 2) return request.socket.destroy();
    response.writeHead(202, { "Content-Length": "100" }).write('{"dispatched":');
    setTimeout(() => request.socket.destroy(), 20);
  };
  await withServer(losing, async (url) => {
    const opened = new ProjectStream(url, { project: "p" });
    const error = await opened.trigger("job", 1).catch((refused) => refused);
    assert.deepEqual([error.name, error.code, error.key], ["EdgeError", "network", keys[0]]);
    assert.deepEqual(keys, Array(3).fill(keys[0]));
    assert.match(keys[0], /^[0-9a-f]{32}$/);
    opened.close();
  });
});

test("what gets no answer is aborted: a trigger is asked again under its key, and an ack holds no connection", async (t) => {
  const givenMs = [];
  t.mock.method(AbortSignal, "timeout", (ms) => {
    givenMs.push(ms);
    const late = new AbortController();
    setTimeout(() => late.abort(new DOMException("late", "TimeoutError")), 50);
    return late.signal;
  });
  const keys = [];
  let given, stream;
  const ackAborted = new Promise((resolve) => (given = resolve));
  const dead = (request, response) => {
    if (request.method === "GET") {
      stream = response.writeHead(200, { "Content-Type": "text/event-stream" });
      return stream.write(HELLO.replace("{", '{"project":"p",'));
    }
    if (/ack$/.test(request.url)) return response.on("close", given);
    keys.push(request.headers["idempotency-key"]);
    if (keys.length === 1) return stream.write('event: edge.probe\ndata: {"probe":"1"}\n\n');
    response.writeHead(202, { "Content-Type": "application/json" }).end('{"dispatched":true}');
  };
  await withServer(dead, async (url) => {
    const opened = new ProjectStream(url, { project: "p" });
    assert.deepEqual(await opened.trigger("job", 1, { timeout: 1500.4 }), { dispatched: true });
    await ackAborted;
    assert.deepEqual([keys.length, keys[1]], [2, keys[0]]);
    assert.deepEqual(givenMs, [11_500, 10_000, 41_500]);
    opened.close();
  });
});

/** A server of streams that say `frames` behind their hello. */
const open = (project, ...frames) => (request, response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write([HELLO.replace("{", `{"project":"${project}",`), ...frames].join(""));
};

test("a token that is refused without a reason is an error: of the stream, which tries again, and of a trigger", async () => {
  await withServer(open("p"), async (url) => {
    let token = () => Promise.reject();
    const opened = new ProjectStream(url, { project: "p", token: () => token() });
    const [{ detail }] = await once(opened, "statechange");
    assert.deepEqual([detail.state, detail.error.code], ["reconnecting", "network"]);
    token = () => "good";
    await opened.ready();
    token = () => Promise.reject();
    await assert.rejects(opened.trigger("job"), { name: "EdgeError", code: "network" });
    opened.close();
  });
});

test("a trigger whose token never comes times out", async (t) => {
  let late;
  t.mock.method(AbortSignal, "timeout", () => (late = new AbortController()).signal);
  await withServer(open("p"), async (url) => {
    let token = () => "good";
    const opened = new ProjectStream(url, { project: "p", token: () => token() });
    await opened.ready();
    token = () => new Promise(() => setTimeout(() => late.abort(new DOMException("late", "TimeoutError"))));
    await assert.rejects(opened.trigger("job"), { name: "EdgeError", code: "network" });
    opened.close();
  });
});

test("what a stream reads leaves nothing behind", async (t) => {
  const real = globalThis.fetch;
  let signal;
  t.mock.method(globalThis, "fetch", (url, init) => real(url, { ...init, signal: (signal = init.signal) }));
  let response;
  const answer = (request, given) => open("p")(request, (response = given));
  await withServer(answer, async (url) => {
    const opened = new ProjectStream(url, { project: "p" });
    await opened.ready();
    const before = getEventListeners(signal, "abort").length;
    for (let number = 1; number <= 20; number += 1) {
      response.write(`data: 1\nid: e-${number}\n\n`);
      await once(opened, "event");
    }
    assert.equal(getEventListeners(signal, "abort").length, before);
    opened.close();
  });
});

test("a project may have the name of what every object has", async () => {
  const frame = "event: constructor/message\ndata: 1\nid: constructor:e-1\n\n";
  await withServer(open("constructor", frame), async (url) => {
    const opened = new ProjectStream(url, { projects: ["constructor"] });
    const [event] = await once(opened, "event");
    assert.deepEqual([event.project, event.id, opened.state], ["constructor", "e-1", "open"]);
    opened.close();
  });
});

/** The error with which a stream is closed, and how many requests it made. */
async function end(answer, options = {}) {
  const asked = [];
  const count = (request, response) => {
    asked.push(request.url);
    answer(request, response);
  };
  return withServer(count, async (url) => {
    const stream = new ProjectStream(url, { project: "p", ...options });
    const detail = await new Promise((resolve) => {
      stream.addEventListener("statechange", (event) => event.detail.state === "closed" && resolve(event.detail));
    });
    return { code: detail.error.code, asked };
  });
}

test("a finished project closes the stream for good", async () => {
  const closing = 'event: edge.closing\ndata: {"reason":"finished","retry_ms":1}\n\n';
  for (const answer of [stream(HELLO + closing), (request, response) => response.writeHead(204).end()]) {
    const { code, asked } = await end(answer);
    assert.deepEqual([code, asked.length], ["finished", 1]);
  }
});

test("a stream that observes asks for it", async () => {
  const { asked } = await end((request, response) => response.writeHead(204).end(), { observe: true });
  assert.match(asked[0], /[?&]observe=true/);
});
