// A hub in memory, for tests of applications. Types: testing.d.ts; use: docs/development.md.
//
// It stands behind `fetch`, so that the real ProjectStream and the real Hub run against it, without a network or a process.

const RETRY_MS = 10; // a test waits for no pause
const encoder = new TextEncoder();
const real = globalThis.fetch;

export class FakeHub {
  jobs = [];
  #base;
  #onJob;
  #projects = new Map();
  #receipts = new Map();
  #refusal = null;
  #epochs = 0;
  #connections = 0;
  #waiting = new Set();

  constructor({ url = "http://127.0.0.1:8080", onJob } = {}) {
    this.#base = new URL(`${String(url).replace(/\/*$/, "")}/`, globalThis.location?.href).href;
    this.#onJob = onJob;
  }

  /** In place of `globalThis.fetch`; what isn't for this hub goes to the real one. */
  fetch = async (input, init) => {
    const request = new Request(new URL(input.url ?? input, globalThis.location?.href), init);
    if (!request.url.startsWith(this.#base)) return real(input, init);
    request.signal.throwIfAborted();
    const { pathname, searchParams: query } = new URL(request.url);
    const [, name, what = ""] = pathname.slice(new URL(this.#base).pathname.length).split("/");
    const handler = this[`${request.method} ${what}`];
    if (!name || !handler) return problem(404, "not_found", "The fake has no such resource.");
    return handler.call(this, decodeURIComponent(name), query, request, init?.signal);
  };

  install() {
    globalThis.fetch = this.fetch;
    return this;
  }

  uninstall() {
    globalThis.fetch = real;
    for (const name of this.#projects.keys()) this.cut(name);
  }

  publish(name, { type = "message", data }, { final = false } = {}) {
    const project = this.#project(name);
    const id = `${project.epoch}-${(project.seq += 1)}`;
    const event = { id, type, data: JSON.stringify(data), time: new Date().toISOString() };
    project.events.push(event);
    project.final = final;
    const connections = project.streams.size;
    for (const stream of project.streams) stream.send(event);
    if (connections) project.received = project.seq;
    if (final) for (const stream of [...project.streams]) stream.end("finished");
    return { project: name, id, connections, missed: connections === 0 };
  }

  events(name) {
    return this.#project(name).events.map(({ data, ...event }) => ({ ...event, data: JSON.parse(data) }));
  }

  connections(name) {
    return this.#project(name).streams.size;
  }

  cut(name) {
    for (const stream of [...this.#project(name).streams]) stream.fail();
  }

  restart() {
    for (const name of [...this.#projects.keys()]) {
      this.cut(name);
      this.#projects.delete(name);
    }
  }

  refuse(status, code) {
    this.#refusal = status && problem(status, code, `The fake refuses with ${code}.`);
  }

  #project(name) {
    if (!this.#projects.has(name)) {
      const epoch = `fake${(this.#epochs += 1)}`;
      this.#projects.set(name, { epoch, seq: 0, received: 0, events: [], streams: new Set(), final: false });
    }
    return this.#projects.get(name);
  }

  "GET events"(name, query, request, signal) {
    if (this.#refusal) return this.#refusal.clone();
    const project = this.#project(name);
    const asked = request.headers.get("Last-Event-ID") ?? query.get("last_event_id") ?? "";
    const [epoch, seq] = asked.split("-");
    const isKnown = !asked || epoch === project.epoch;
    const replay = asked && isKnown ? project.events.slice(Number(seq)) : this.#since(project, asked ? "all" : query.get("since"));
    if (project.final && !replay.length) return new Response(null, { status: 204 });
    const ends = { oldest: project.events[0]?.id ?? null, newest: project.events.at(-1)?.id ?? null };
    const connection = `fake${(this.#connections += 1)}`;
    let stream;
    const body = new ReadableStream({
      start: (controller) => {
        const write = (text) => controller.enqueue(encoder.encode(text));
        const leave = (how) => {
          if (project.streams.delete(stream)) how();
        };
        stream = {
          send: ({ type, data, id }) => write(`event: ${type}\ndata: ${data}\nid: ${id}\n\n`),
          end: (reason) =>
            leave(() => {
              write(`event: edge.closing\ndata: ${JSON.stringify({ reason, retry_ms: RETRY_MS })}\n\n`);
              controller.close();
            }),
          fail: () => leave(() => controller.error(new TypeError("The fake cut the connection."))),
          leave: () => leave(() => {}),
        };
        signal?.addEventListener("abort", () => leave(() => controller.error(signal.reason)));
        const hello = { project: name, connection, heartbeat_seconds: 3600, ...ends, replayed: replay.length };
        const start = `${project.epoch}-${project.seq - replay.length}`;
        write(`retry: ${RETRY_MS}\nevent: edge.hello\ndata: ${JSON.stringify(hello)}\nid: ${start}\n\n`);
        const gap = { asked, ...ends, lost: null, reason: "restart" };
        if (!isKnown) write(`event: edge.gap\ndata: ${JSON.stringify(gap)}\n\n`);
        project.streams.add(stream);
        replay.forEach(stream.send);
        project.received = project.seq;
        if (project.final) stream.end("finished");
        for (const look of this.#waiting) look();
      },
      cancel: () => stream.leave(),
    });
    return new Response(body, { headers: { "Content-Type": "text/event-stream; charset=utf-8" } });
  }

  #since(project, since) {
    if (since === "none") return [];
    if (since?.startsWith("last")) return project.events.slice(-(since.slice(5) || 1));
    return since === "all" ? project.events : project.events.slice(project.received);
  }

  async "POST events"(name, query, request) {
    return this.#once(name, request, async (body) => {
      const needed = Number(query.get("require") ?? (query.has("wait") ? 1 : 0));
      if (!(await this.#ready(name, needed, query.get("wait")))) return noConnection();
      const final = query.get("final") === "true";
      if (!request.headers.get("Content-Type")?.includes("ndjson")) {
        const receipt = this.publish(name, JSON.parse(body), { final });
        return json(receipt.missed ? 202 : 201, receipt);
      }
      const lines = body.split("\n").filter((line) => line.trim());
      if (final && !lines.length) return problem(400, "invalid_event", "There is no line to be the last event.");
      const receipts = lines.map((line, at) => this.publish(name, JSON.parse(line), { final: final && at === lines.length - 1 }));
      return json(201, {
        published: receipts.length,
        first_id: receipts[0]?.id ?? null,
        last_id: receipts.at(-1)?.id ?? null,
        connections: this.connections(name),
        misses: receipts.filter(({ missed }) => missed).length,
      });
    });
  }

  async "POST trigger"(project, query, request) {
    return this.#once(project, request, async (body) => {
      const { name, data = null, id = `job${this.jobs.length + 1}` } = JSON.parse(body);
      const started = Date.now();
      const isReady = await this.#ready(project, Number(query.get("connections") ?? 1), query.get("timeout") ?? "3000ms");
      if (!isReady && query.get("on_timeout") !== "dispatch") return noConnection();
      const job = { id, name, ts: Date.now(), project, data };
      this.jobs.push(job);
      if (this.#onJob) queueMicrotask(() => this.#onJob(job));
      else this.publish(project, { type: name, data });
      const target = this.#onJob ? { kind: "webhook", status: 202, attempts: 1 } : { kind: "stream", status: 201, attempts: 1 };
      const connections = this.connections(project);
      const waited_ms = Date.now() - started;
      return json(202, { project, id, name, waited_ms, connections, confirmed: "client", dispatched: true, target });
    });
  }

  "POST ticket"() {
    return json(201, { ticket: crypto.randomUUID(), expires_in: 60 });
  }

  "POST connections"() {
    return new Response(null, { status: 204 });
  }

  "GET history"(name, query) {
    const project = this.#project(name);
    const events = this.#since(project, query.get("since") ?? "all").slice(0, Number(query.get("limit") ?? 100));
    const [oldest, newest] = [project.events[0]?.id ?? null, project.events.at(-1)?.id ?? null];
    return json(200, { project: name, oldest, newest, gap: null, events });
  }

  /** Runs `answer` once for an idempotency key; refusals aren't remembered. */
  async #once(name, request, answer) {
    const body = await request.text();
    const key = request.headers.get("Idempotency-Key");
    const remembered = key && this.#receipts.get(`${name} ${key}`);
    if (remembered) return remembered.clone();
    const response = await answer(body);
    if (key && response.ok) this.#receipts.set(`${name} ${key}`, response.clone());
    return response;
  }

  #ready(name, needed, timeout) {
    const isReady = () => this.connections(name) >= needed;
    if (isReady() || !timeout) return isReady();
    return new Promise((resolve) => {
      const done = (found) => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        resolve(found);
      };
      const look = () => isReady() && done(true);
      const timer = setTimeout(done, parseFloat(timeout), false);
      this.#waiting.add(look);
    });
  }
}

const json = (status, body) => new Response(JSON.stringify(body), { status, headers: { "Content-Type": "application/json" } });

const problem = (status, code, detail) => json(status, { type: `urn:edge:problem:${code}`, title: code, status, detail, code });

const noConnection = () => problem(409, "no_connection", "No subscriber is connected to the fake.");
