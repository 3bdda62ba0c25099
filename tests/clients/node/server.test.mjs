// The package's `edge-hub/server` against a running hub (EDGE_URL, EDGE_TOKEN), through a proxy that loses answers, and
// against a server that doesn't read. Runs in Node and Deno, in a folder that has the package.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { createServer, request as ask } from "node:http";
import process from "node:process";

import { EdgeError, Hub, verifyWebhook } from "edge-hub/server";

const { EDGE_URL: url, EDGE_TOKEN: token } = process.env;
const run = process.argv[2] ?? "run";
const hub = new Hub({ url, token: async () => token });
const tests = [];
const test = (name, body) => tests.push([name, body]);

async function listening(answer) {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await once(server, "listening");
  return [`http://127.0.0.1:${server.address().port}`, () => server.closeAllConnections?.() ?? server.close(), server];
}

/** Passes requests on to the hub, and loses the answers to the first `lost` of them. */
async function losing(lost) {
  const seen = [];
  const [proxy, , server] = await listening((request, response) => {
    seen.push(request.headers["idempotency-key"]);
    const lose = seen.length <= lost;
    const { method, headers } = request;
    const onward = ask(new URL(request.url, url), { method, headers }, (answer) => {
      answer.on("data", () => {});
      if (lose) answer.on("end", () => request.socket.destroy());
      else {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      }
    });
    request.pipe(onward);
  });
  return { proxy, seen, close: () => server.close() };
}

const code = (expected) => (error) => {
  assert.ok(error instanceof EdgeError, error);
  assert.equal(error.code, expected);
  return true;
};

test("publishes, and reads it back as history and status", async () => {
  const project = `${run}-publish`;
  const receipt = await hub.publish(project, { type: "progress", data: { percent: 50 } });
  assert.deepEqual([receipt.project, receipt.connections, receipt.missed], [project, 0, true]);
  const { events } = await hub.history(project, { since: "all" });
  assert.deepEqual(events.map(({ id, type, data }) => [id, type, data]), [[receipt.id, "progress", '{"percent":50}']]);
  assert.deepEqual((await hub.history(project, { lastEventId: receipt.id })).events, []);
  assert.equal((await hub.status(project)).ring.events, 1);
  assert.ok((await hub.status(undefined, { match: project })).projects.some((one) => one.project === project));
});

test("publishes one event to several projects", async () => {
  const projects = [`${run}-one`, `${run}-two`];
  const { receipts } = await hub.publish(projects, { data: "both" });
  assert.deepEqual(receipts.map(({ project }) => project), projects);
  for (const project of projects) assert.equal((await hub.history(project, { since: "all" })).events.length, 1);
});

test("a refusal is an error with the hub's code, and is not repeated", async () => {
  const project = `${run}-refused`;
  await assert.rejects(hub.publish(project, { data: 1 }, { require: 1 }), (error) => {
    code("no_connection")(error);
    assert.deepEqual([error.status, error.problem.project], [409, project]);
    assert.ok(error.key);
    return true;
  });
  await assert.rejects(hub.trigger(project, "job", {}, { timeout: 50 }), code("no_connection"));
  await assert.rejects(hub.publish("no good", { data: 1 }), code("invalid_project"));
  await assert.rejects(new Hub({ url, token: "wrong" }).status(), code("unauthenticated"));
  await assert.rejects(hub.status(`${run}-nothing`), code("unknown_project"));
});

test("a lost answer is asked for again under the same key: published once", async () => {
  const project = `${run}-lost`;
  const { proxy, seen, close } = await losing(2);
  const receipt = await new Hub({ url: proxy, token }).publish(project, { data: "once" });
  assert.equal(seen.length, 3);
  assert.equal(new Set(seen).size, 1);
  const { events } = await hub.history(project, { since: "all" });
  assert.deepEqual(events.map(({ id }) => id), [receipt.id]);
  close();
});

test("an array with a key is sent again, and published once", async () => {
  const project = `${run}-lost-array`;
  const { proxy, seen, close } = await losing(1);
  const events = [1, 2, 3].map((data) => ({ data }));
  const { published } = await new Hub({ url: proxy, token }).publishMany(project, events, { key: `${run}-batch` });
  assert.deepEqual([published, seen.length], [3, 2]);
  assert.equal((await hub.history(project, { since: "all" })).events.length, 3);
  close();
});

test("no connection is an error after the last try", async () => {
  const [gone, , server] = await listening(() => {});
  server.close();
  await once(server, "close");
  await assert.rejects(new Hub({ url: gone, token, retries: 1 }).publish("p", { data: 1 }), code("network"));
});

test("a silent hub is an error in time, and a signal ends a call", async () => {
  const [silent, , server] = await listening(() => {});
  await assert.rejects(new Hub({ url: silent, retries: 0, timeout: 50 }).status(), code("timeout"));
  const reason = new Error("enough");
  const ended = new AbortController();
  setTimeout(() => ended.abort(reason), 50);
  await assert.rejects(new Hub({ url: silent }).publish("p", { data: 1 }, { signal: ended.signal }), (error) => error === reason);
  server.closeAllConnections();
  server.close();
});

test("a signal ends the pause between two tries, and no token is waited for without end", async () => {
  const reason = new Error("enough");
  const ended = new AbortController();
  const [busy, , server] = await listening((request, response) => {
    response.writeHead(503, { "Retry-After": "9" }).end(() => setTimeout(() => ended.abort(reason), 50));
  });
  const started = Date.now();
  await assert.rejects(new Hub({ url: busy }).status("p", { signal: ended.signal }), (error) => error === reason);
  assert.ok(Date.now() - started < 8000);
  const never = () => new Promise(() => {});
  await assert.rejects(new Hub({ url: busy, token: never, retries: 0, timeout: 50 }).status(), code("timeout"));
  await assert.rejects(new Hub({ url: busy, token: never }).status("p", { signal: ended.signal }), (error) => error === reason);
  server.closeAllConnections();
  server.close();
});

test("many events may take their time, and the hub that should take them may not", async () => {
  const [silent, , server] = await listening((request) => request.pause());
  let published = 0;
  let ended = false;
  async function* slow() {
    try {
      for (; published < 2; published += 1) {
        yield { data: published };
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      yield* Array(9999).fill({ data: "x".repeat(64 * 1024) });
    } finally {
      ended = true;
    }
  }
  await assert.rejects(new Hub({ url: silent, timeout: 100 }).publishMany("p", slow()), code("timeout"));
  assert.equal(published, 2);
  while (!ended) await new Promise((resolve) => setTimeout(resolve, 10));
  server.closeAllConnections();
  server.close();
});

test("Retry-After is waited for", async () => {
  const asked = [];
  const [busy, , server] = await listening((request, response) => {
    asked.push(Date.now());
    if (asked.length === 1) response.writeHead(503, { "Retry-After": "1" }).end("busy");
    else response.end('{"project":"p"}');
  });
  assert.deepEqual(await new Hub({ url: busy }).status("p"), { project: "p" });
  assert.ok(asked[1] - asked[0] >= 990);
  server.close();
  server.closeAllConnections();
});

test("many events go over one request, each as it comes", async () => {
  const project = `${run}-many`;
  async function* counted() {
    for (let number = 0; number < 1000; number += 1) {
      if (number === 500) {
        const look = async () => (await hub.status(project).catch(() => undefined))?.ring.events;
        while ((await look()) !== 499) // the last one is held back, as it may be the final one
          await new Promise((resolve) => setTimeout(resolve, 20));
      }
      yield { type: "token", data: number };
    }
  }
  const taken = await hub.publishMany(project, counted(), { final: true });
  assert.deepEqual([taken.published, taken.misses], [1000, 1000]);
  assert.equal((await hub.status(project)).finished, true);
});

test("a bad event in the middle says what was published, and the generator is ended", async () => {
  const project = `${run}-bad`;
  let ended = false;
  async function* events() {
    try {
      for (let number = 0; ; number += 1) {
        yield number === 3 ? { type: "edge.reserved", data: 0 } : { data: number };
        if (number > 3) await new Promise((resolve) => setTimeout(resolve, 10));
      }
    } finally {
      ended = true;
    }
  }
  await assert.rejects(hub.publishMany(project, events()), (error) => {
    code("invalid_event")(error);
    assert.deepEqual([error.problem.line, error.problem.published], [4, 3]);
    return true;
  });
  while (!ended) await new Promise((resolve) => setTimeout(resolve, 10));
});

test("a hub that doesn't read holds the generator back", async () => {
  const sockets = [];
  const [slow, , server] = await listening((request, response) => {
    sockets.push(request.socket);
    request.pause();
    setTimeout(() => {
      request.resume();
      request.on("end", () => response.end('{"published":1}'));
    }, 500);
  });
  let made = 0;
  let atPause = 0;
  setTimeout(() => (atPause = made), 400);
  const data = "x".repeat(64 * 1024);
  function* events() {
    for (; made < 2000; made += 1) yield { data };
  }
  await new Hub({ url: slow }).publishMany("p", events());
  assert.equal(made, 2000);
  assert.ok(atPause < 1000, `${atPause} of 2000 events (128 MB) were made before any was read`);
  server.close();
  server.closeAllConnections();
});

test("a ticket opens a stream", async () => {
  const { ticket, expires_in } = await hub.ticket(`${run}-ticket`);
  const response = await fetch(`${url}/projects/${run}-ticket/events?ticket=${ticket}`);
  assert.equal(response.status, 200);
  await response.body.cancel();
  assert.equal(expires_in, 60);
});

test("a signed webhook is verified, whatever the form of its headers and body", async () => {
  const secret = `whsec_${btoa("a secret of twenty-four bytes or more")}`;
  const body = '{"id":"j","name":"api/iterate","ts":1,"project":"p","data":{"ü":1}}';
  const timestamp = String(Math.floor(Date.now() / 1000));
  const sign = (key, when) =>
    `v1,${createHmac("sha256", atob(key.slice(6))).update(`j.${when}.${body}`).digest("base64")}`;
  const headers = (signature, when = timestamp) => ({ "webhook-id": "j", "webhook-timestamp": when, "webhook-signature": signature });
  const good = headers(`v1,AAAA v1,! v1a,x ${sign(secret, timestamp)}`);
  const other = `whsec_${btoa("another secret that was there before it")}`;
  for (const given of [good, new Headers(good), Object.fromEntries(Object.entries(good).map(([k, v]) => [k, [v]]))])
    for (const raw of [body, new TextEncoder().encode(body)])
      assert.deepEqual((await verifyWebhook([other, secret], given, raw)).data, { ü: 1 });
  const old = String(Number(timestamp) - 301);
  for (const [given, raw] of [
    [good, body.replace("1", "2")],
    [headers(sign(other, timestamp)), body],
    [headers(sign(secret, old), old), body],
    [headers("v1,not base64!"), body],
    [headers("v1,!"), body],
    [headers(""), body],
    [{}, body],
  ])
    await assert.rejects(verifyWebhook(secret, given, raw), code("invalid_signature"));
});

for (const [name, body] of tests) {
  await body();
  console.log(`ok ${name}`);
}
process.exit(0);
