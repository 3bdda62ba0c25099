// The same story against a hub (node fake.test.mjs URL) and against FakeHub (without URL): both have to print the same.
import assert from "node:assert/strict";
import process from "node:process";

import { ProjectStream } from "edge-hub";
import { Hub } from "edge-hub/server";
import { FakeHub } from "edge-hub/testing";

const [url = "http://fake.test:1234"] = process.argv.slice(2);
const fake = process.argv[2] ? null : new FakeHub({ url }).install();
const hub = new Hub({ url, retries: 0 });
const say = (...words) => console.log(words.map((word) => JSON.stringify(word)).join(" "));
const seq = (id) => id && Number(id.split("-")[1]);
const until = async (so) => {
  const deadline = Date.now() + 60_000;
  while (!so()) {
    assert.ok(Date.now() < deadline, `timed out: ${so}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

function read(project, options) {
  const stream = new ProjectStream(url, { project, ...options });
  const seen = [];
  stream.addEventListener("event", ({ id, name, data }) => seen.push([seq(id), name, data]));
  stream.addEventListener("closing", ({ detail }) => seen.push(["closing", detail.reason]));
  stream.addEventListener("gap", ({ detail }) => seen.push(["gap", detail.reason]));
  return { stream, seen };
}

const receipt = ({ project, id, connections, missed }) => [project, seq(id), connections, missed];
const code = (promise) => promise.then(() => "fine", (error) => [error.code, error.status]);

// Published before anybody is there, then live.
say("early", receipt(await hub.publish("p", { type: "progress", data: { percent: 50 } })));
const first = read("p");
await first.stream.ready();
say("hello", first.stream.hello.replayed, seq(first.stream.hello.oldest), seq(first.stream.hello.newest));
say("live", receipt(await hub.publish("p", { data: "two\nlines" })));
await until(() => first.seen.length === 2);
say("seen", first.seen);

// Where a second one starts.
for (const since of ["missed", "all", "none", "last", "last:2", first.stream.lastEventId]) {
  const { stream, seen } = read("p", { since });
  await stream.ready();
  const { replayed } = stream.hello;
  await until(() => seen.length === replayed);
  say("since", since === first.stream.lastEventId ? "id" : since, replayed, seen);
  stream.close();
}

// Triggers.
const { id, name, connections, dispatched } = await first.stream.trigger("api/iterate", { a: 1 }, { id: "job-1" });
await until(() => first.seen.length === 3);
say("trigger", id, name, connections, dispatched, first.seen.at(-1));
say("again", (await hub.trigger("p", "api/iterate", { a: 1 }, { id: "job-1" })).id, first.seen.length);
say("absent", await code(hub.trigger("absent", "api/iterate", null, { timeout: 20 })));
say("dispatch", (await hub.trigger("absent", "job", 1, { timeout: 20, on_timeout: "dispatch" })).connections);

// What publishing asks for.
say("require", await code(hub.publish("empty", { data: 1 }, { require: 1 })));
say("wait", await code(hub.publish("empty", { data: 1 }, { wait: 20 })));
const key = { key: "the-key-of-a-test" };
say("key", seq((await hub.publish("k", { data: 1 }, key)).id), seq((await hub.publish("k", { data: 1 }, key)).id));
const many = await hub.publishMany("many", [{ data: 1 }, { type: "x", data: [2] }]);
say("many", many.published, seq(many.first_id), seq(many.last_id), many.connections, many.misses);
const { events, gap, oldest, newest } = await hub.history("many");
say("history", gap, seq(oldest), seq(newest), events.map(({ id, type, data }) => [seq(id), type, data]));
say("ticket", Object.keys(await hub.ticket("p")));

// The end.
await hub.publish("p", { type: "complete", data: null }, { final: true });
await until(() => first.stream.state === "closed");
say("end", first.seen.slice(3), first.stream.error.code);
const late = read("p", { since: "all" });
await until(() => late.stream.state === "closed");
say("late", late.seen, late.stream.error.code);

if (fake) {
  // What only the fake can do.
  assert.deepEqual(fake.events("absent").map(({ data }) => data), [1]);
  const { stream, seen } = read("cable");
  const states = [];
  stream.addEventListener("statechange", ({ detail }) => states.push(detail.state));
  await stream.ready();
  fake.refuse(503, "draining");
  fake.cut("cable");
  await until(() => stream.state === "reconnecting");
  fake.publish("cable", { data: "meanwhile" });
  await stream.ready({ timeout: 5 }).catch((error) => assert.equal(error.code, "draining"));
  fake.refuse(null);
  await stream.ready({ timeout: 60_000 });
  await until(() => seen.length === 1);
  fake.restart();
  await until(() => seen.length === 2);
  assert.deepEqual(seen, [[1, "message", '"meanwhile"'], ["gap", "restart"]]);
  assert.equal(fake.connections("cable"), 1);
  assert.deepEqual(fake.jobs.map((job) => [job.project, job.name, job.data]), [["p", "api/iterate", { a: 1 }], ["absent", "job", 1]]);
  fake.uninstall();
  const worked = [];
  const app = new FakeHub({ onJob: (job) => worked.push(job.id) }).install();
  const page = new ProjectStream("http://127.0.0.1:8080", { project: "p" });
  await page.trigger("render", {}, { id: "j" });
  await until(() => worked.length === 1);
  assert.deepEqual(app.events("p"), []);
  page.close();
  await until(() => app.connections("p") === 0);
  app.uninstall();
}
process.exit(0);
