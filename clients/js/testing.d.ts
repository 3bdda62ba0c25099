/** Types of testing.js. How to use it: docs/development.md. */

import type { Job } from "./server.js";
import type { NewEvent, ProblemCode, Receipt } from "./wire.js";

export interface FakeHubOptions {
  /** The URL that the code under test uses for the hub. Default `http://127.0.0.1:8080`. */
  url?: string | URL;
  /** Called with every job that is triggered, as a target would be. Without it a job is published to its own project. */
  onJob?: (job: Job) => void;
}

/** A hub in memory. It answers `fetch`, so the real `ProjectStream`, `useProjectStream` and `Hub` run against it. */
export class FakeHub {
  constructor(options?: FakeHubOptions);
  /** Every job that was triggered, in order. */
  readonly jobs: readonly Job[];
  /** In place of `fetch`; what isn't for this hub goes to the real one. */
  readonly fetch: typeof globalThis.fetch;
  /** Puts `fetch` in place of the global one. */
  install(): this;
  /** Gives the global `fetch` back and ends all streams. */
  uninstall(): void;
  publish(project: string, event: NewEvent, options?: { final?: boolean }): Receipt;
  /** Everything that was published to the project, data parsed. */
  events(project: string): { id: string; type: string; data: any; time: string }[];
  /** How many streams are open. */
  connections(project: string): number;
  /** Cuts the project's streams; clients reconnect. */
  cut(project: string): void;
  /** Cuts all streams and forgets all events: who reconnects gets a gap. */
  restart(): void;
  /** Refuses new streams with a status and code, such as `refuse(503, "draining")`, until `refuse(null)`. */
  refuse(status: number, code: ProblemCode): void;
  refuse(status: null): void;
}
