// Asks a hub from Node 18+, Deno and Bun: publish, trigger, look. Types: server.d.ts; use: docs/javascript.md.
//
// Invariant: a request is repeated only where that can't do it twice: it reads, or it has an idempotency key.

import { EdgeError } from "./edge.js";

export { EdgeError };

const FIRST_PAUSE_MS = 200;
const MAX_PAUSE_MS = 10_000;
const TRANSIENT = [408, 429, 502, 503, 504];
const TOLERANCE_SECONDS = 300; // as Standard Webhooks recommend

const utf8 = new TextEncoder();

export class Hub {
  #base;
  #token;
  #retries;
  #timeoutMs;

  constructor({ url = "http://127.0.0.1:8080", token, retries = 3, timeout = 10_000 } = {}) {
    this.#base = String(url).replace(/\/*$/, "/");
    this.#token = token;
    this.#retries = retries;
    this.#timeoutMs = timeout;
  }

  async publish(project, event, { wait, require, final, key, signal } = {}) {
    key ??= await newKey();
    const several = Array.isArray(project);
    const query = { ...(several && { project }), wait: wait && duration(wait), require, final };
    const timeoutMs = this.#timeoutMs + (wait ?? 0);
    const target = several ? "events" : `${path(project)}/events`;
    return this.#ask("POST", target, { query, body: event, key, signal, timeoutMs });
  }

  publishMany(project, events, { final, key, signal } = {}) {
    // With a key all lines are published or none. What was generated can't be sent again.
    const retries = key && Array.isArray(events) ? this.#retries : 0;
    return this.#ask("POST", `${path(project)}/events`, { query: { final }, events, key, signal, retries });
  }

  async trigger(project, name, data = null, { timeout = 3000, id, key = id, signal, ...query } = {}) {
    key ??= await newKey();
    const body = { name, data, id };
    const timeoutMs = this.#timeoutMs * 4 + timeout; // the hub itself repeats what the target refuses
    query.timeout = duration(timeout);
    return this.#ask("POST", `${path(project)}/trigger`, { query, body, key, signal, timeoutMs });
  }

  ticket(project, { signal } = {}) {
    return this.#ask("POST", `${path(project)}/ticket`, { signal });
  }

  status(project, { signal, ...query } = {}) {
    return this.#ask("GET", project === undefined ? "projects" : path(project), { query, signal });
  }

  history(project, { lastEventId, signal, ...query } = {}) {
    return this.#ask("GET", `${path(project)}/history`, { query: { last_event_id: lastEventId, ...query }, signal });
  }

  async #ask(method, target, { retries = this.#retries, signal, key, ...request }) {
    for (let tries = 0; ; tries += 1) {
      try {
        return await this.#askOnce(method, target, { signal, key, ...request });
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof EdgeError)) throw error;
        if (key) error.key = key;
        const pauseMs = Math.max(FIRST_PAUSE_MS * 2 ** tries * (0.75 + Math.random() / 2), error.waitMs ?? 0);
        if (tries >= retries || !isTransient(error) || pauseMs > MAX_PAUSE_MS) throw error;
        await pause(pauseMs, signal);
        signal?.throwIfAborted();
      }
    }
  }

  async #askOnce(method, target, { query = {}, body, events, key, signal, timeoutMs = this.#timeoutMs }) {
    const url = new URL(target, this.#base);
    for (const [name, value] of Object.entries(query))
      for (const each of [value].flat()) if (each !== undefined) url.searchParams.append(name, each);
    const timer = new AbortController();
    const stop = () => timer.abort();
    let late;
    const expectWithin = (ms) => {
      clearTimeout(late);
      late = ms && !timer.signal.aborted && setTimeout(stop, ms);
    };
    const turn = (isHubs) => expectWithin(isHubs && timeoutMs);
    turn(true);
    signal?.addEventListener("abort", stop);
    try {
      signal?.throwIfAborted();
      const stopped = new Promise((_, reject) => timer.signal.addEventListener("abort", reject));
      const token = await Promise.race([this.#token?.call ? this.#token() : this.#token, stopped]);
      const headers = {
        Accept: "application/json",
        ...(token && { Authorization: `Bearer ${token}` }),
        ...(key && { "Idempotency-Key": key }),
        ...((body || events) && { "Content-Type": events ? "application/x-ndjson" : "application/json" }),
      };
      const response = await fetch(url, {
        method,
        headers,
        body: events ? ndjson(events, turn, timer.signal) : body && JSON.stringify(body),
        ...(events && { duplex: "half" }),
        redirect: "error",
        signal: timer.signal,
      });
      const text = await response.text();
      if (response.ok) return JSON.parse(text);
      throw refusal(response, text);
    } catch (error) {
      if (error instanceof EdgeError) throw error;
      const code = timer.signal.aborted && !signal?.aborted ? "timeout" : "network";
      throw new EdgeError(code, `${method} ${url.origin}${url.pathname}: ${reason(code, error)}`, { cause: error });
    } finally {
      stop();
      clearTimeout(late);
      signal?.removeEventListener("abort", stop);
    }
  }
}

export async function verifyWebhook(secret, headers, body) {
  const header = (name) => (headers.get ? headers.get(name) : [headers[name]].flat()[0]) ?? "";
  const [id, timestamp] = [header("webhook-id"), header("webhook-timestamp")];
  const refuse = (why) => {
    throw new EdgeError("invalid_signature", `${why} Answer 401 and do nothing.`, { status: 401 });
  };
  if (!id || !timestamp) refuse("The request has no webhook-id or webhook-timestamp.");
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) < TOLERANCE_SECONDS))
    refuse("The request's webhook-timestamp is more than five minutes away.");
  const bytes = typeof body === "string" ? utf8.encode(body) : new Uint8Array(body);
  const signed = new Uint8Array([...utf8.encode(`${id}.${timestamp}.`), ...bytes]);
  const signatures = header("webhook-signature").split(" ");
  const { subtle } = await webcrypto();
  for (const each of [secret].flat()) {
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    const key = await subtle.importKey("raw", base64(each.replace(/^whsec_/, "")), algorithm, false, ["verify"]);
    const isGood = async (signature) => subtle.verify("HMAC", key, base64(signature.slice(3)), signed);
    for (const signature of signatures.filter((one) => one.startsWith("v1,")))
      if (await isGood(signature).catch(() => false))
        return JSON.parse(new TextDecoder().decode(bytes));
  }
  return refuse("No webhook-signature of the request is that of the secret.");
}

/** One event a line, taken only as fast as the hub reads them. `turn` is called with whether it is the hub's turn. */
function ndjson(events, turn, signal) {
  const iterator = (events[Symbol.asyncIterator] ?? events[Symbol.iterator]).call(events);
  const end = async () => iterator.return?.();
  signal.addEventListener("abort", () => end().catch(() => {})); // Node cancels no stream that it reads
  return new ReadableStream(
    {
      async pull(controller) {
        turn(false);
        const { done, value } = await iterator.next();
        turn(true);
        if (done) controller.close();
        else controller.enqueue(utf8.encode(`${JSON.stringify(value)}\n`));
      },
    },
    { highWaterMark: 0 },
  );
}

function refusal(response, text) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // a proxy's own page
  }
  const { code = `http_${response.status}`, detail = `The hub responded with status ${response.status}.` } = problem;
  const waitMs = 1000 * response.headers.get("Retry-After") || 0;
  return new EdgeError(code, detail, { status: response.status, problem, waitMs });
}

const isTransient = ({ code, status }) =>
  ["network", "timeout"].includes(code) || (TRANSIENT.includes(status) && code !== "dispatch_failed");

const reason = (code, error) =>
  code === "timeout" ? "no response in time." : `${error?.cause?.message || error?.message}.`;

const pause = (ms, signal) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
    signal?.addEventListener("abort", resolve);
  });

const webcrypto = async () => globalThis.crypto ?? (await import("node:crypto")).webcrypto; // Node 18

const newKey = async () => (await webcrypto()).randomUUID();

const path = (project) => `projects/${encodeURIComponent(project)}`;

const duration = (ms) => `${Math.round(ms)}ms`;

const base64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
