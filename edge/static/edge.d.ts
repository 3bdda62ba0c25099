/** Types of edge.js. How to use it: docs/browser.md. */

/** JSON as the hub takes and gives it. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/**
 * - `connecting`: has not been open yet.
 * - `open`: the hub has sent hello; events arrive.
 * - `reconnecting`: was refused or dropped, and comes back by itself.
 * - `closed`: for good, by `close()` or because asking again can't help (`stream.error` says why).
 */
export type StreamState = "connecting" | "open" | "reconnecting" | "closed";

/** A secret, or what fetches one: it is called anew for every request that needs it. */
export type Secret = string | (() => string | Promise<string>);

export interface ConnectionOptions {
  /** Sent as `Authorization: Bearer …`. A function is asked again after a 401. */
  token?: Secret;
  /** Sent as `?ticket=`; works once, so give a function unless the first connection is to be the only one. With several projects it is called for each. */
  ticket?: string | ((project: string) => string | Promise<string>);
  /** For cookies (`edge_token`), as in fetch; default `same-origin`. */
  credentials?: "omit" | "same-origin" | "include";
  /** Where to begin when nothing has been received yet: `missed` (default), `all`, `none`, an event id, or a duration such as `10m`. */
  since?: string;
  /** See everything and count as nothing; requires the permission `status`. */
  observe?: boolean;
  /** One connection for all tabs of this origin. Needs Web Locks (https or localhost); elsewhere each tab has its own. */
  shared?: boolean;
}

/** Of one project, by its id, or of up to 32 over one connection. */
export type StreamOptions = ConnectionOptions &
  ({ project: string; projects?: undefined } | { project?: undefined; projects: readonly string[] });

/** What went wrong. */
export class EdgeError extends Error {
  constructor(code: string, message: string, more?: { status?: number; problem?: Problem; cause?: unknown });
  readonly name: "EdgeError";
  /**
   * The hub's code (`no_connection`, `unauthenticated`, `forbidden`, `draining`, …), `http_<status>` where the answer had
   * none, or one of edge.js: `not_connected`, `network`, `silent`, `ended`, `finished`, `not_a_stream`.
   */
  readonly code: string;
  /** The HTTP status, where there was an answer. */
  readonly status?: number;
  /** The problem document of the answer (RFC 9457). */
  readonly problem?: Problem;
  /** The idempotency key of the trigger that failed: repeat it with this key and it is dispatched once. */
  readonly key?: string;
}

export interface Problem {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  code?: string;
  [field: string]: unknown;
}

/** An event of the project; like EventSource's, with a name and an id of its own. */
export class ProjectEvent extends MessageEvent<string> {
  constructor(type: string, event: { name: string; data: string; id: string; project?: string; lastEventId?: string });
  /** The project whose event it is. */
  readonly project: string;
  /** The project's name for its kind, such as `progress`; `message` when the publisher gave none. */
  readonly name: string;
  /** `<epoch>-<seq>`. */
  readonly id: string;
  /** The data as published, as text. */
  readonly data: string;
  /** The data parsed. Throws SyntaxError when it isn't JSON. */
  readonly json: any;
}

export interface Hello {
  project: string;
  /** The hub's id for the connection. */
  connection: string;
  heartbeat_seconds: number;
  oldest: string | null;
  newest: string | null;
  /** How many events follow that were published before. */
  replayed: number;
}

export interface StateChange {
  state: StreamState;
  previous: StreamState;
  /** Why it isn't open. */
  error: EdgeError | null;
  /** Milliseconds until the next attempt; 0 when there is none or it is under way. */
  waitMs: number;
}

/** History that can't be given any more. */
export interface Gap {
  /** Which project's, on a stream of several. */
  project?: string;
  /** The id, or the `since`, that was asked for. */
  asked: string;
  oldest: string | null;
  newest: string | null;
  /** How many events; null where that can't be known. */
  lost: number | null;
  reason: "evicted" | "restart" | "unknown";
}

export interface Closing {
  /** Which project's, on a stream of several. */
  project?: string;
  reason: string;
  retry_ms: number;
}

export interface TriggerOptions {
  /** How long to wait for a connection, in milliseconds: here first, then confirmed by the hub. Default 3000. */
  timeout?: number;
  /** The job's id. */
  id?: string;
  /** The idempotency key; by default the job's id, or a new one for every call. */
  key?: string;
  /** The project whose job it is. Default: the first of the stream. */
  project?: string;
  /** How many connections it takes. Default 1. */
  connections?: number;
  /** What happens when there are not so many in time. Default `fail`. */
  on_timeout?: "fail" | "dispatch";
  /**
   * Who confirms a connection. `client`, the default: its edge.js, whatever stands between it and the hub. `transport`: the
   * peer of the hub's connection, which may be a proxy.
   */
  confirm?: "client" | "transport";
}

export interface TriggerReceipt {
  project: string;
  id: string;
  name: string;
  waited_ms: number;
  connections: number;
  confirmed: "acknowledged" | "written" | string | null;
  dispatched: true;
  target: { [key: string]: any };
}

export interface StreamEvents {
  statechange: CustomEvent<StateChange>;
  gap: CustomEvent<Gap>;
  closing: CustomEvent<Closing>;
  /** Every event of the project. */
  event: ProjectEvent;
}

type Listener<E> = ((this: ProjectStream, event: E) => unknown) | { handleEvent(event: E): unknown };

/** The events of one project or several: it connects at once and comes back until closed. */
export class ProjectStream extends EventTarget {
  /** @param url Where the hub is; a path is taken relative to the page. */
  constructor(url: string | URL, options: StreamOptions);
  readonly state: StreamState;
  readonly isConnected: boolean;
  /** Behind which event the next connection continues; empty before the first hello. With several projects it names each. */
  readonly lastEventId: string;
  /** What the hub sent when it opened the connection (in shared mode the leading tab's); null while there is none. With several projects, for the last of them. */
  readonly hello: Hello | null;
  /** Why it isn't open; null when it is. */
  readonly error: EdgeError | null;
  /** Resolves when open; rejects with an `EdgeError` when it is closed, or not open within `timeout` milliseconds (3000). */
  ready(options?: { timeout?: number }): Promise<void>;
  /** Waits until the connection is confirmed, then starts the job, once however often the network fails. Rejects with an `EdgeError`. */
  trigger(name: string, data?: unknown, options?: TriggerOptions): Promise<TriggerReceipt>;
  /** Ends it for good. */
  close(): void;

  addEventListener<K extends keyof StreamEvents>(
    type: K,
    listener: Listener<StreamEvents[K]> | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: Listener<ProjectEvent> | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof StreamEvents>(
    type: K,
    listener: Listener<StreamEvents[K]> | null,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: Listener<ProjectEvent> | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** The event-stream format: bytes in, events out. */
export class EventStreamParser {
  /** The events that `bytes` complete, in order. */
  push(bytes: Uint8Array): { name: string; data: string; id: string }[];
  /** The last `retry:`, in milliseconds. */
  retry?: number;
}
