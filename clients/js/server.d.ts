/** Types of server.js. How to use it: docs/javascript.md. */

import type { Secret } from "./edge.js";
import type { History, LinesTaken, NewEvent, ProjectPage, ProjectStatus, Receipt, Receipts, Ticket, Triggered } from "./wire.js";

export { EdgeError } from "./edge.js";
export type { Secret } from "./edge.js";
export type * from "./wire.js";

export interface HubOptions {
  /** Where the hub is, with its `server.base_path` if it has one. Default `http://127.0.0.1:8080`. */
  url?: string | URL;
  /** `auth.token`, a JSON Web Token, or a function that returns one for each request. */
  token?: Secret;
  /** How often a request is repeated after a network error, 408, 429, 502, 503 or 504. Default 3. */
  retries?: number;
  /** How long one request may take, in milliseconds, beside what it waits for subscribers. Default 10000. */
  timeout?: number;
}

export interface CallOptions {
  /** Ends the call; it rejects with the signal's reason. */
  signal?: AbortSignal;
}

export interface PublishOptions extends CallOptions {
  /** Wait so many milliseconds until a subscriber is ready; otherwise `no_connection`, and nothing is stored. */
  wait?: number;
  /** Fewer connections than this are `no_connection`, and nothing is stored. */
  require?: number;
  /** The project's last event: streams end once they have it. */
  final?: boolean;
  /** The idempotency key; by default a new one for each call, under which the call repeats itself. */
  key?: string;
}

export interface PublishManyOptions extends CallOptions {
  /** The last of the events is the project's last. */
  final?: boolean;
  /** With a key all of the events are published or none, and an array is sent again after a network error. */
  key?: string;
}

export interface TriggerOptions extends CallOptions {
  /** How long the hub waits for subscribers, in milliseconds. Default 3000. */
  timeout?: number;
  /** The job's id. */
  id?: string;
  /** The idempotency key; by default the job's id, or a new one for every call. */
  key?: string;
  /** How many connections must be confirmed. Default 1. */
  connections?: number;
  /** What happens when there are not so many in time. Default `fail`. */
  on_timeout?: "fail" | "dispatch";
  /** `client`: edge.js itself confirms, whatever proxies are between. Default `transport`: the peer of the connection. */
  confirm?: "client" | "transport";
}

export interface ListOptions extends CallOptions {
  limit?: number;
  offset?: number;
  sort?: "connections" | "lost" | "name" | "pending";
  /** A part of the name. */
  match?: string;
}

export interface HistoryOptions extends CallOptions {
  /** Where to start: `all`, `missed`, `none`, `last:20`, an event id, or a duration such as `10m`. */
  since?: string;
  /** Only events after this one. */
  lastEventId?: string;
  limit?: number;
}

/** A hub, as a server asks it. Every call rejects with an `EdgeError`: `code` is the hub's, or `network` or `timeout`. */
export class Hub {
  constructor(options?: HubOptions);
  publish(project: string, event: NewEvent, options?: PublishOptions): Promise<Receipt>;
  /** Publishes one event to each of up to 32 projects: to all, or to none. */
  publish(projects: readonly string[], event: NewEvent, options?: PublishOptions): Promise<Receipts>;
  /**
   * Publishes events over one request, each as it comes. The iterable is asked for the next event only when the hub has
   * room. The error names what was published before it: `error.problem.published`, `last_id`, `line`.
   */
  publishMany(
    project: string,
    events: Iterable<NewEvent> | AsyncIterable<NewEvent>,
    options?: PublishManyOptions,
  ): Promise<LinesTaken>;
  /** Starts a job once a subscriber is confirmed; otherwise `no_connection`. */
  trigger(project: string, name: string, data?: unknown, options?: TriggerOptions): Promise<Triggered>;
  /** A ticket with which a browser opens one stream of the project. */
  ticket(project: string, options?: CallOptions): Promise<Ticket>;
  status(project: string, options?: CallOptions): Promise<ProjectStatus>;
  /** A page of the list of projects. */
  status(project?: undefined, options?: ListOptions): Promise<ProjectPage>;
  history(project: string, options?: HistoryOptions): Promise<History>;
}

/** What a target receives with `trigger.format = "json"`. */
export interface Job<Data = unknown> {
  id: string;
  name: string;
  /** When it was triggered, in milliseconds since 1970. */
  ts: number;
  project: string;
  data: Data;
}

/**
 * Checks the signature of a trigger or hook (Standard Webhooks), and parses its body.
 * @param secret `trigger.secret` or `hooks.secret`; several while it is being rotated.
 * @param headers Of the Fetch API, or of Node's http.
 * @param body The body as it came, not parsed.
 * @throws EdgeError `invalid_signature`: not signed with the secret, or not within five minutes.
 */
export function verifyWebhook<Body = Job>(
  secret: string | readonly string[],
  headers: Headers | Record<string, string | string[] | undefined>,
  body: string | Uint8Array | ArrayBuffer,
): Promise<Body>;

