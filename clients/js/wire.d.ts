// What is on the wire. `make docs` generates this file from the hub's OpenAPI document.

/** The body: the token of the probe. On a stream of several projects the probe names its project, too. */
export interface Ack {
  probe: string;
  project?: string | null;
}

/** One open stream. */
export interface ConnectionStatus {
  id: string;
  since: string;
  address: string;
  last_event: string | null;
  unacknowledged_bytes: number;
  round_trip_ms: number | null;
  paused: boolean;
  confirmable: "acknowledged" | "written";
  /** The `sub` of the JSON Web Token that opened the stream. */
  sub: string | null;
}

/** The project was deleted. */
export interface Deleted {
  project: string;
  connections_closed: number;
  events_dropped: number;
}

/** What the target returned. `answer` is its body: the JSON as it came, or its text as a string, without it if the body was empty. `truncated`: there was more. */
export interface Delivery {
  kind: string;
  status: number;
  attempts: number;
  answer?: unknown;
  truncated?: boolean;
}

/** Why no subscriber was connected. */
export interface Explanation {
  project: string;
  connections: number;
  confirmed: string | null;
  cause: "connected" | "dropped" | "never_connected" | "refused" | "timing" | "unconfirmed" | "unknown";
  answer: string;
  why: string;
  todo: string[];
  misses: { [name: string]: number };
  facts: ShownFact[];
  known_since: string;
}

/** History that is no longer available, as in `edge.gap`. */
export interface Gap {
  asked: string;
  oldest: string | null;
  newest: string | null;
  lost: number | null;
  reason: "evicted" | "restart" | "unknown";
}

/** Events of a project, oldest first. `newest` is the project's: continue after the last id for more. */
export interface History {
  project: string;
  oldest: string | null;
  newest: string | null;
  gap: Gap | null;
  events: HistoryEvent[];
}

/** One event in the ring; `data` is the text that subscribers receive. */
export interface HistoryEvent {
  id: string;
  type: string;
  data: string;
  time: string;
}

/** Misses of all projects, and the age of the oldest pending one. */
export interface HubMisses {
  total: number;
  recovered: number;
  lost: number;
  pending: number;
  oldest_pending_seconds: number | null;
}

/** What all rings hold, and `ring.total_bytes`. `bytes` includes the overhead of each event. */
export interface HubRing {
  events: number;
  bytes: number;
  max_bytes: number;
}

/** The totals of this process since it started, as in its metrics. */
export interface HubStatus {
  version: string;
  started: string;
  uptime_seconds: number;
  draining: boolean;
  /** The caller's, on the whole hub. */
  permissions: string[];
  projects: number;
  max_projects: number;
  connections: number;
  observers: number;
  /** Requests that wait for a subscriber. */
  waiting: number;
  published: number;
  delivered: number;
  ring: HubRing;
  misses: HubMisses;
  /** By outcome. */
  triggers: { [name: string]: number };
  store: HubStore;
  /** Resident memory; null where the platform does not report it. */
  memory_bytes: number | null;
}

/** Whether the store accepts events, the reason if it does not, and its failed writes. */
export interface HubStore {
  available: boolean;
  problem: string | null;
  errors: number;
}

/** When the last connection closed, and why. */
export interface LastDisconnect {
  at: string;
  reason: string;
}

/** When a waiting request last found the project ready, with how many connections, confirmed how. */
export interface LastReady {
  at: string;
  connections: number;
  confirmed: string;
}

/** The result of an NDJSON request. */
export interface LinesTaken {
  published: number;
  first_id: string | null;
  last_id: string | null;
  connections: number;
  misses: number;
}

/** Events that no subscriber received when they were published: total = recovered + lost + pending. */
export interface Misses {
  total: number;
  recovered: number;
  lost: number;
  pending: number;
}

/** Misses, with the time of the first and the last one. */
export interface MissesInTime {
  total: number;
  recovered: number;
  lost: number;
  pending: number;
  first: string | null;
  last: string | null;
}

/** One event as JSON: `data` is any JSON, `type` the name that subscribers listen for. */
export interface NewEvent {
  data: unknown;
  type?: string;
}

/** A page of projects, busiest first; `next_offset` is the offset of the next page. */
export interface ProjectPage {
  projects: ProjectSummary[];
  total: number;
  next_offset: number | null;
}

/** The state of one project. Of very many connections it lists the newest, and the number of all. */
export interface ProjectStatus {
  project: string;
  ring: Ring;
  misses: MissesInTime;
  epoch: string;
  connections: ConnectionStatus[];
  connections_total: number;
  last_connect: string | null;
  last_disconnect: LastDisconnect | null;
  last_ready: LastReady | null;
  finished?: boolean;
}

/** One line of the list of projects. */
export interface ProjectSummary {
  project: string;
  ring: Ring;
  misses: Misses;
  connections: number;
}

/** Enough connections are confirmed. */
export interface Ready {
  ready: true;
  waited_ms: number;
  connections: number;
  confirmed: "acknowledged" | "client" | "written";
}

/** What became of an event that was published to several projects. */
export interface Receipts {
  receipts: Receipt[];
}

/** What became of a published event. */
export interface Receipt {
  project: string;
  id: string;
  connections: number;
  missed: boolean;
}

/** The events a project holds for replay. */
export interface Ring {
  oldest: string | null;
  newest: string | null;
  events: number;
  bytes: number;
}

/** A fact as it is shown: `at` is ISO 8601 in UTC. */
export interface ShownFact {
  at: string;
  kind: string;
  reason: string;
  count: number;
  text: string;
}

/** The state of the process. */
export interface Sign {
  status: "ok" | "ready";
}

/** A ticket, and the number of seconds it is valid. */
export interface Ticket {
  ticket: string;
  expires_in: number;
}

/** The body of a trigger: the job's name, its data as JSON text, and an id to deduplicate by. */
export interface Trigger {
  name: string;
  data?: unknown;
  id?: string | null;
}

/** The job was dispatched. */
export interface Triggered {
  project: string;
  id: string;
  name: string;
  waited_ms: number;
  connections: number;
  confirmed: "acknowledged" | "client" | "written" | null;
  dispatched: true;
  target: Delivery;
}

/** A refusal, as RFC 9457 defines it; some codes add fields of their own. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: "invalid_project" | "invalid_event" | "invalid_trigger" | "invalid_parameter" | "invalid_request" | "unknown_parameter" | "half_closed" | "malformed_http" | "unauthenticated" | "forbidden" | "origin_not_allowed" | "not_found" | "unknown_project" | "unknown_connection" | "method_not_allowed" | "not_acceptable" | "request_timeout" | "no_connection" | "stale_probe" | "body_too_large" | "event_too_large" | "url_too_long" | "unsupported_media_type" | "unsupported_encoding" | "expectation_failed" | "wrong_host" | "idempotency_mismatch" | "too_many_project_connections" | "too_many_address_connections" | "header_too_large" | "internal" | "dispatch_failed" | "draining" | "store_unavailable" | "too_many_connections" | "too_many_descriptors" | "too_many_projects" | "too_many_waiting" | "too_many_tickets" | "keys_unavailable" | "too_many_idempotency_keys" | "unsupported_http_version";
  [field: string]: unknown;
}

/** What docs/errors.md has a row for. */
export type ProblemCode = Problem["code"];
