// A project's events in the browser, and its triggers. Types: edge.d.ts; use: docs/browser.md.
//
// Invariant: at most one request for events is open, and each event is dispatched once and in order: `#lastId` moves
// only with what was dispatched, and every request, of this tab or one that takes over, continues behind it.

const NOT_CONNECTED = "Failed to establish real-time connection. Please refresh and try again.";
const CONNECT_MS = 10_000; // a seventh HTTP/1.1 connection hangs
const MAX_BACKOFF_MS = 30_000;
const MAX_WAIT_MS = 3_600_000; // a timer overflows at 2 ** 31
const SILENT_HEARTBEATS = 2.5;
const JITTER = 0.25;
const TRIES = 3;
const OWN_NAMES = ["event", "statechange", "gap", "closing"]; // a project's events so called come as "event" only

export class EdgeError extends Error {
  constructor(code, message, fields = {}) {
    super(message, fields);
    Object.assign(this, fields, { name: "EdgeError", code });
  }
}

export class ProjectEvent extends MessageEvent {
  constructor(type, { name, data, id }) {
    super(type, { data, lastEventId: id });
    this.id = id;
    this.name = name;
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
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch() {
    const event = { name: this.#type || "message", data: this.#data.join("\n"), id: this.#id };
    const any = this.#data.length > 0;
    this.#type = "";
    this.#data = [];
    return any && event;
  }
}

export class ProjectStream extends EventTarget {
  #base;
  #options;
  #state = "connecting";
  #error = null;
  #hello = null;
  #lastId = "";
  #fromStart = false; // all that the hub holds came after us
  #retryMs = 1000;
  #closingMs = null;
  #silentMs = 0;
  #failures = 0;
  #renewals = 0;
  #heardAt = 0;
  #ended = new AbortController();
  #attempt = null;
  #hurried = false;
  #wake = () => {};
  #channel = null;
  #leading = true;

  constructor(url, options) {
    super();
    const base = new URL(url, globalThis.location?.href);
    this.#base = new URL(`${base.pathname.replace(/\/*$/, "")}/projects/${encodeURIComponent(options.project)}/`, base);
    this.#options = options;
    const untilEnd = { signal: this.#ended.signal };
    globalThis.addEventListener?.("online", () => this.#hurry(true), untilEnd);
    globalThis.document?.addEventListener("visibilitychange", () => document.hidden || this.#hurry(), untilEnd);
    if (options.shared && globalThis.navigator?.locks && globalThis.BroadcastChannel) this.#share();
    else this.#lead();
  }

  get state() {
    return this.#state;
  }

  get isConnected() {
    return this.#state === "open";
  }

  get lastEventId() {
    return this.#lastId;
  }

  get hello() {
    return this.#hello;
  }

  get error() {
    return this.#error;
  }

  ready({ timeout = 3000 } = {}) {
    return new Promise((resolve, reject) => {
      const done = () => {
        clearTimeout(timer);
        this.removeEventListener("statechange", look);
      };
      const refuse = () => {
        done();
        const { code = "not_connected", status, problem } = this.#error ?? {};
        reject(new EdgeError(code, NOT_CONNECTED, { status, problem, cause: this.#error }));
      };
      const look = () => {
        if (this.isConnected) resolve(done());
        else if (this.#state === "closed") refuse();
      };
      const timer = setTimeout(refuse, timeout);
      this.addEventListener("statechange", look);
      look();
      if (!this.isConnected) this.#hurry();
    });
  }

  async trigger(name, data = null, { timeout = 3000, id, key = id ?? newKey(), ...query } = {}) {
    const path = `trigger?${new URLSearchParams({ timeout: `${Math.round(timeout)}ms`, confirm: "client", ...query })}`;
    let lost;
    for (let tries = TRIES; ; tries -= 1) {
      await this.ready({ timeout }).catch((error) => {
        throw lost ?? error;
      });
      try {
        // Asked again under the same key: dispatched once.
        return await (await this.#post(path, { name, data, id }, { "Idempotency-Key": key })).json();
      } catch (error) {
        lost = Object.assign(known(error), { key });
        if (lost.code !== "network" || tries === 1) throw lost;
      }
    }
  }

  close() {
    this.#end(null);
  }

  // One connection after another, until the end

  async #lead() {
    await null; // the caller adds listeners first
    while (!this.#ended.signal.aborted) {
      const error = await this.#connect();
      if (this.#ended.signal.aborted) return;
      if (this.#isFinal(error.status)) return this.#end(error);
      const jitter = 1 + JITTER * (2 * Math.random() - 1);
      const slowerMs = Math.min(this.#retryMs * 2 ** this.#failures++, MAX_BACKOFF_MS);
      const backoffMs = Math.max(this.#retryMs, slowerMs) * jitter;
      const toldMs = this.#closingMs ?? Math.max(backoffMs, error.waitMs || 0);
      const waitMs = this.#hurried ? 0 : Math.min(toldMs, MAX_WAIT_MS);
      this.#hurried = false;
      this.#closingMs = null;
      this.#hello = null;
      this.#change("reconnecting", error, waitMs);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, waitMs);
        this.#wake = (always) => {
          if (error.waitMs && !always) return; // the hub has said when to come back
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = () => {};
    }
  }

  #isFinal(status) {
    if (status === 204) return true; // the project is finished
    if (status === 401 && (this.#options.token?.call || this.#options.ticket?.call)) return this.#renewals++ > 0;
    return status >= 400 && status < 500 && ![408, 425, 429].includes(status);
  }

  // Reads one connection to its end, and returns why it ended.
  async #connect() {
    const attempt = (this.#attempt = new AbortController());
    let timer;
    const expectWithin = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(() => attempt.abort(new EdgeError("silent", `No data for ${ms / 1000} s.`)), ms);
    };
    try {
      expectWithin(CONNECT_MS);
      const response = await orAborted(this.#open(attempt.signal), attempt.signal);
      const reader = response.body.getReader();
      const parser = new EventStreamParser();
      for (;;) {
        const { done, value } = await orAborted(reader.read(), attempt.signal);
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
      return known(error);
    } finally {
      clearTimeout(timer);
      attempt.abort();
    }
  }

  async #open(signal) {
    const { ticket, observe, since = "missed" } = this.#options;
    const query = new URLSearchParams({ heartbeat: "event" });
    if (observe) query.set("observe", "true");
    const headers = { Accept: "text/event-stream" };
    if (this.#lastId) headers["Last-Event-ID"] = this.#lastId;
    else query.set("since", this.#fromStart ? "all" : since);
    const once = await given(ticket);
    if (once) query.set("ticket", once);
    const response = await this.#fetch(`events?${query}`, { headers, signal });
    if (response.status === 204) throw finished();
    if (/^text\/event-stream\b/.test(response.headers.get("Content-Type"))) return response;
    throw new EdgeError("not_a_stream", `${this.#base}events is not an event stream.`, { status: response.status });
  }

  #take(event) {
    if (!event.name.startsWith("edge.")) return this.#tell({ event });
    const fields = JSON.parse(event.data);
    if (event.name === "edge.hello") this.#greet(fields);
    else if (event.name === "edge.gap") this.#tell({ gap: fields });
    else if (event.name === "edge.closing") {
      this.#closingMs = fields.retry_ms;
      this.#tell({ closing: fields });
      if (fields.reason === "finished") throw finished();
    } else if (event.name === "edge.probe") {
      // An answer that is lost is asked for again.
      this.#post(`connections/${this.#hello.connection}/ack`, fields).catch(() => {});
    }
  }

  #greet(hello) {
    const { heartbeat_seconds, newest, replayed } = hello;
    this.#failures = this.#renewals = 0;
    this.#silentMs = SILENT_HEARTBEATS * 1000 * heartbeat_seconds;
    this.#hello = hello;
    if (!this.#lastId && !replayed) {
      this.#lastId = newest ?? "";
      this.#fromStart = !newest;
    }
    this.#change("open");
  }

  #hurry(networkChanged) {
    if (!this.#leading) return this.#channel.postMessage({ ask: true });
    if (this.isConnected && (networkChanged || Date.now() - this.#heardAt > this.#silentMs)) {
      this.#hurried = true;
      this.#attempt.abort(new EdgeError("network", "The network changed."));
    }
    this.#wake();
  }

  #post(path, body, headers) {
    const init = { method: "POST", headers: { "Content-Type": "application/json", ...headers } };
    return this.#fetch(path, { ...init, body: JSON.stringify(body) });
  }

  async #fetch(path, init) {
    const { token, credentials = "same-origin" } = this.#options;
    const bearer = await given(token);
    if (bearer) init.headers.Authorization = `Bearer ${bearer}`;
    const response = await fetch(new URL(path, this.#base), { cache: "no-store", credentials, ...init }).catch(
      (error) => {
        throw known(error);
      },
    );
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({})); // a proxy's own page has no JSON
    const { code = `http_${response.status}`, detail = `The hub responded with status ${response.status}.` } = problem;
    const waitMs = 1000 * response.headers.get("Retry-After") || 0;
    throw new EdgeError(code, detail, { status: response.status, problem, waitMs });
  }

  // Many tabs: the one that holds the lock leads and tells the others

  async #share() {
    const name = `edge ${this.#base}`;
    this.#leading = false;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => {
      if (!this.#leading) this.#hear(data);
      else if (data.ask) {
        this.#hurry();
        this.#change(this.#state, this.#error);
      }
    };
    this.#channel.postMessage({ ask: true });
    const lead = () => {
      this.#leading = true;
      if (this.#state !== "connecting")
        this.#change("reconnecting", new EdgeError("ended", "The tab that held the connection closed."), 0);
      return this.#lead();
    };
    await navigator.locks.request(name, { signal: this.#ended.signal }, lead).catch(() => {
      if (!this.#ended.signal.aborted) return lead(); // this document may hold no locks
    });
  }

  #change(state, error = null, waitMs = 0) {
    const { code, message, status } = error ?? {};
    const told = error && { code, message, status };
    const place = { hello: this.#hello, lastId: this.#lastId, fromStart: this.#fromStart };
    this.#tell({ change: { state, error: told, waitMs, ...place } });
  }

  #tell(message) {
    this.#channel?.postMessage(message);
    this.#hear(message);
  }

  #hear({ event, gap, closing, change }) {
    if (this.#ended.signal.aborted) return;
    if (change) {
      this.#lastId ||= change.lastId;
      this.#fromStart ||= change.fromStart;
      this.#hello = change.hello;
      const { error, waitMs } = change;
      this.#enter(change.state, error && new EdgeError(error.code, error.message, error), waitMs);
    } else if (event && isAfter(event.id, this.#lastId)) {
      this.#lastId = event.id;
      this.dispatchEvent(new ProjectEvent("event", event));
      if (!OWN_NAMES.includes(event.name)) this.dispatchEvent(new ProjectEvent(event.name, event));
    } else if (gap) {
      if (gap.asked === this.#lastId) {
        this.#lastId = "";
        this.#fromStart = true;
      }
      this.dispatchEvent(new CustomEvent("gap", { detail: gap }));
    } else if (closing) {
      this.dispatchEvent(new CustomEvent("closing", { detail: closing }));
    }
  }

  #enter(state, error, waitMs) {
    const previous = this.#state;
    this.#state = state;
    this.#error = error;
    if (state === previous && state !== "reconnecting") return;
    this.dispatchEvent(new CustomEvent("statechange", { detail: { state, previous, error, waitMs } }));
  }

  #end(error) {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort();
    this.#attempt?.abort();
    this.#wake(true);
    this.#channel?.close();
    this.#hello = null;
    this.#enter("closed", error, 0);
  }
}

const finished = () => new EdgeError("finished", "The project is finished.", { status: 204 });

const given = (value) => (value?.call ? value() : value);

const newKey = () =>
  crypto.getRandomValues(new Uint8Array(16)).reduce((key, byte) => key + byte.toString(16).padStart(2, "0"), "");

const known = (error) =>
  error instanceof EdgeError
    ? error
    : new EdgeError("network", `The connection failed: ${error.message}`, { cause: error });

// Ids of another epoch come after whatever was.
function isAfter(id, last) {
  const [epoch, seq] = id.split("-");
  const [lastEpoch, lastSeq] = last.split("-");
  return epoch !== lastEpoch || !(Number(seq) <= Number(lastSeq));
}

function orAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    promise.then(resolve, reject);
  });
}
