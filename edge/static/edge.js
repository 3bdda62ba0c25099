// Events of projects in the browser, and triggers. Types: edge.d.ts; use: docs/browser.md.
//
// Invariant: at most one request for events is open, behind `lastEventId`; each event is dispatched once, in order.

const NOT_CONNECTED = "Failed to establish real-time connection. Please refresh and try again.";
const CONNECT_MS = 10_000; // a seventh or dead connection hangs
const MAX_BACKOFF_MS = 30_000;
const MAX_WAIT_MS = 3_600_000; // a timer overflows at 2 ** 31
const SILENT_HEARTBEATS = 2.5;
const JITTER = 0.25;
const LAST_MS = 160_000;
const slots = [Promise.resolve(), Promise.resolve()]; // of triggers: a probe's answer needs one of six connections
const OWN_NAMES = ["event", "statechange", "gap", "closing"]; // come as "event" only

export class EdgeError extends Error {
  constructor(code, message, fields = {}) {
    super(message, fields);
    Object.assign(this, fields, { name: "EdgeError", code });
  }
}

export class ProjectEvent extends MessageEvent {
  constructor(type, { project, name, data, id, lastEventId = id }) {
    super(type, { data, lastEventId });
    Object.assign(this, { project, id, name });
  }

  get json() {
    return JSON.parse(this.data);
  }
}

/** WHATWG HTML, 9.2.6: bytes in, events out. */
export class EventStreamParser {
  #decoder = new TextDecoder();
  #afterCr = false;
  #line = "";
  #type = "";
  #data = [];
  #id = "";
  retry;

  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return [];
    if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    return lines.map((line) => this.#take(line)).filter(Boolean);
  }

  #take(line) {
    if (!line) return this.#dispatch();
    const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = +value;
  }

  #dispatch() {
    const [name, data] = [this.#type || "message", this.#data];
    this.#type = "";
    this.#data = [];
    return data.length && { name, data: data.join("\n"), id: this.#id };
  }
}

export class ProjectStream extends EventTarget {
  state = "connecting";
  error = null;
  hello = null;
  lastEventId = "";
  #base;
  #options;
  #projects;
  #seen = { __proto__: null }; // last id by project
  #hellos = {};
  #retryMs = 1000;
  #closingMs;
  #silentMs = 0;
  #failures = 0;
  #renewals = 0;
  #heardAt = 0;
  #ended = new AbortController();
  #attempt = null;
  #wake = () => {};
  #channel = null;
  #leading = true;

  constructor(url, options) {
    super();
    const base = new URL(url, globalThis.location?.href);
    this.#base = new URL(`${base.pathname.replace(/\/*$/, "")}/`, base);
    this.#options = options;
    this.#projects = options.projects ?? [options.project];
    const untilEnd = { signal: this.#ended.signal };
    globalThis.addEventListener?.("online", () => this.#hurry(true), untilEnd);
    globalThis.document?.addEventListener("visibilitychange", () => document.hidden || this.#hurry(), untilEnd);
    if (options.shared && globalThis.navigator?.locks && globalThis.BroadcastChannel) this.#share();
    else this.#lead();
  }

  get isConnected() {
    return this.state === "open";
  }

  ready({ timeout = 3000 } = {}) {
    return new Promise((resolve, reject) => {
      const done = () => {
        clearTimeout(timer);
        this.removeEventListener("statechange", look);
      };
      const refuse = () => {
        done();
        const { code = "not_connected", status, problem } = this.error ?? {};
        reject(new EdgeError(code, NOT_CONNECTED, { status, problem, cause: this.error }));
      };
      const look = () => {
        if (this.isConnected) resolve(done());
        else if (this.state === "closed") refuse();
      };
      const timer = setTimeout(refuse, timeout);
      this.addEventListener("statechange", look);
      look();
      if (!this.isConnected) this.#hurry();
    });
  }

  async trigger(name, data = null, { timeout = 3000, id, key = id ?? newKey(), project, ...query } = {}) {
    const path = `${this.#path(project)}trigger?${new URLSearchParams({ timeout: `${Math.round(timeout)}ms`, confirm: "client", ...query })}`;
    let lost;
    for (let ms = CONNECT_MS; ; ms *= 4) {
      await this.ready({ timeout }).catch((error) => {
        throw lost ?? error;
      });
      try {
        // Asked again under the same key: dispatched once.
        const ask = async () =>
          (await this.#post(path, { name, data, id }, timeout + ms, { "Idempotency-Key": key })).json();
        slots.push(slots.shift().then(ask, ask));
        return await slots[1];
      } catch (error) {
        lost = Object.assign(known(error), { key });
        if (lost.code !== "network" || ms === LAST_MS) throw lost;
      }
    }
  }

  close() {
    this.#end(null);
  }

  async #lead() {
    await null; // the caller adds listeners first
    while (!this.#ended.signal.aborted) {
      const error = await this.#connect();
      if (this.#ended.signal.aborted) return;
      if (this.#isFinal(error.status)) return this.#end(error);
      const jitter = 1 + JITTER * (2 * Math.random() - 1);
      const slowerMs = Math.min(this.#retryMs * 2 ** this.#failures++, MAX_BACKOFF_MS);
      const backoffMs = Math.max(this.#retryMs, slowerMs) * jitter;
      const wantedMs = this.#closingMs ?? Math.max(backoffMs, error.waitMs || 0);
      const waitMs = error.isHurried ? 0 : Math.min(wantedMs, MAX_WAIT_MS);
      this.#closingMs = this.hello = null;
      this.#change("reconnecting", error, waitMs);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, waitMs);
        this.#wake = (always) => {
          if (error.waitMs && !always) return; // Retry-After
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  #isFinal(status) {
    if (status === 204) return true; // the project is finished
    if (status === 401 && (this.#options.token?.call || this.#options.ticket?.call)) return this.#renewals++ > 0;
    return /^4/.test(status) && ![408, 425, 429].includes(status);
  }

  async #connect() {
    const attempt = (this.#attempt = new AbortController());
    let timer;
    const expectWithin = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(() => attempt.abort(new EdgeError("silent", `No data for ${ms / 1000} s.`)), ms);
    };
    try {
      expectWithin(CONNECT_MS);
      const response = await this.#open(attempt.signal);
      const reader = response.body.getReader();
      const parser = new EventStreamParser();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) throw new EdgeError("ended", "The stream ended.");
        this.#heardAt = Date.now();
        for (const event of parser.push(value)) {
          attempt.signal.throwIfAborted(); // a listener may have closed the stream
          this.#take(event);
        }
        this.#retryMs = parser.retry ?? this.#retryMs;
        expectWithin(this.#silentMs || CONNECT_MS);
      }
    } catch (error) {
      return known(attempt.signal.reason ?? error);
    } finally {
      clearTimeout(timer);
      attempt.abort();
    }
  }

  async #open(signal) {
    const { projects, ticket, observe, since = "missed" } = this.#options;
    const flags = { ...(observe && { observe }), ...(projects && { prefix: true }) };
    const query = new URLSearchParams({ since, heartbeat: "event", ...flags });
    const headers = { Accept: "text/event-stream" };
    if (this.lastEventId) headers["Last-Event-ID"] = this.lastEventId;
    for (const project of this.#projects) {
      if (projects) query.append("project", project);
      const once = await given(ticket, signal, project);
      if (once) query.append("ticket", once);
    }
    const response = await this.#fetch(`${projects ? "" : this.#path()}events?${query}`, { headers, signal });
    if (response.status === 204) throw finished();
    if (/^text\/event-stream\b/.test(response.headers.get("Content-Type"))) return response;
    throw new EdgeError("not_a_stream", `${response.url} is not an event stream.`, { status: response.status });
  }

  #take(event) {
    if (!event.name.startsWith("edge.")) return this.#tell({ event: this.#options.projects ? apart(event) : event });
    const type = event.name.slice(5);
    const fields = JSON.parse(event.data);
    if (type === "hello") {
      this.#failures = this.#renewals = 0;
      this.#silentMs = SILENT_HEARTBEATS * 1000 * fields.heartbeat_seconds;
      this.hello = this.#hellos[fields.project] = fields;
      this.lastEventId = event.id;
      this.#change("open");
    } else if (type === "gap" || type === "closing") {
      this.#closingMs = fields.retry_ms;
      this.#tell({ type, detail: fields });
      if (fields.reason === "finished" && !this.#options.projects) throw finished();
    } else if (type === "probe") {
      // An answer that is lost is asked for again.
      const { project, connection } = this.#hellos[fields.project ?? this.#projects[0]];
      this.#post(`${this.#path(project)}connections/${connection}/ack`, fields, CONNECT_MS).catch(() => {});
    }
  }

  #hurry(networkChanged) {
    if (!this.#leading) return this.#channel.postMessage({ ask: true });
    if (this.isConnected && (networkChanged || Date.now() - this.#heardAt > this.#silentMs))
      this.#attempt.abort(new EdgeError("network", "The network changed.", { isHurried: true }));
    this.#wake();
  }

  #path(project = this.#projects[0]) {
    return `projects/${encodeURIComponent(project)}/`;
  }

  #post(path, body, ms, headers) {
    const init = { method: "POST", body: JSON.stringify(body), signal: AbortSignal.timeout(Math.round(ms)) };
    return this.#fetch(path, { headers: { "Content-Type": "application/json", ...headers }, ...init });
  }

  async #fetch(path, init) {
    const { token, credentials = "same-origin" } = this.#options;
    const bearer = await given(token, init.signal);
    if (bearer) init.headers.Authorization = `Bearer ${bearer}`;
    const response = await fetch(new URL(path, this.#base), { cache: "no-store", credentials, ...init });
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({})); // a proxy's page
    const { code = `http_${response.status}`, detail = `The hub responded with status ${response.status}.` } = problem;
    const waitMs = 1000 * response.headers.get("Retry-After") || 0;
    throw new EdgeError(code, detail, { status: response.status, problem, waitMs });
  }

  async #share() {
    const name = `edge ${[this.#base, this.#projects, this.#options.observe]}`;
    this.#leading = false;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => {
      if (!this.#leading) this.#hear(data);
      else if (data.ask) {
        this.#hurry();
        this.#change(this.state, this.error);
      }
    };
    this.#channel.postMessage({ ask: true });
    const lead = () => {
      this.#leading = true;
      if (this.state !== "connecting")
        this.#change("reconnecting", new EdgeError("ended", "The leading tab closed."));
      return this.#lead();
    };
    await navigator.locks.request(name, { signal: this.#ended.signal }, lead).catch(() => {
      if (!this.#ended.signal.aborted) return lead(); // this document may hold no locks
    });
  }

  #change(state, error = null, waitMs = 0) {
    const { code, message, status } = error ?? {};
    error &&= { code, message, status };
    this.#tell({ change: { state, error, waitMs, hello: this.hello, lastEventId: this.lastEventId } });
  }

  #tell(message) {
    this.#channel?.postMessage(message);
    this.#hear(message);
  }

  #hear({ event, change, type, detail }) {
    if (this.#ended.signal.aborted) return;
    if (change) {
      this.lastEventId = change.lastEventId || this.lastEventId;
      const { state, error, waitMs, hello } = change;
      this.hello = hello;
      this.#enter(state, error && new EdgeError(error.code, error.message, error), waitMs);
    } else if (event && isAfter(event.id, this.#seen[event.project])) {
      this.#seen[event.project] = event.id;
      this.lastEventId = event.lastEventId ?? event.id;
      for (const type of OWN_NAMES.includes(event.name) ? ["event"] : ["event", event.name])
        this.dispatchEvent(new ProjectEvent(type, { project: this.#projects[0], ...event }));
    } else if (type) {
      this.dispatchEvent(new CustomEvent(type, { detail }));
    }
  }

  #enter(state, error, waitMs) {
    const previous = this.state;
    Object.assign(this, { state, error });
    if (state === previous && state !== "reconnecting") return;
    this.dispatchEvent(new CustomEvent("statechange", { detail: { state, previous, error, waitMs } }));
  }

  #end(error) {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort();
    this.#attempt?.abort();
    this.#wake(true);
    this.#channel?.close();
    this.hello = null;
    this.#enter("closed", error, 0);
  }
}

const finished = () => new EdgeError("finished", "The project is finished.", { status: 204 });

// What a function gives, which may hang.
const given = async (value, signal, project) =>
  Promise.race([
    value?.call ? value(project) : value,
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  ]);

// Type `<project>/<name>`, id `<project>:<id>,…`.
function apart({ name, data, id }) {
  const [project] = name.split("/");
  const [own] = `,${id}`.split(`,${project}:`)[1].split(",");
  return { project, name: name.slice(project.length + 1), data, id: own, lastEventId: id };
}

const newKey = () =>
  crypto.getRandomValues(new Uint8Array(16)).reduce((key, byte) => key + byte.toString(16).padStart(2, "0"), "");

const known = (cause) =>
  cause instanceof EdgeError ? cause : new EdgeError("network", `The connection failed: ${cause?.message}`, { cause });

// Another epoch comes after.
function isAfter(id, last = "") {
  const [epoch, seq] = id.split("-");
  const [lastEpoch, lastSeq] = last.split("-");
  return epoch !== lastEpoch || +seq > lastSeq;
}
