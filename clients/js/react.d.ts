/** Types of react.js. How to use it: docs/javascript.md. */

import type { ConnectionOptions, EdgeError, Gap, ProjectEvent, ProjectStream, StreamState } from "./edge.js";

export { EdgeError } from "./edge.js";
export type { Gap, ProjectEvent, StateChange, StreamState, TriggerOptions, TriggerReceipt } from "./edge.js";

export interface UseProjectStreamOptions extends ConnectionOptions {
  /** Where the hub is; a path is taken relative to the page. Default `/`. */
  url?: string;
  /** Handlers by the event's type, such as `{ progress(event) {…} }`. The newest ones are called; no need to memoize them. */
  on?: { [type: string]: (event: ProjectEvent) => void };
  /** Called for every event, before the handler of its type. */
  onEvent?: (event: ProjectEvent) => void;
  /** Called when history is no longer available: load your state anew. */
  onGap?: (gap: Gap) => void;
}

export interface ProjectStreamHandle {
  state: StreamState;
  /** Whether `state` is `open`. */
  isConnected: boolean;
  /** Why it isn't open. */
  error: EdgeError | null;
  /** Milliseconds until the next attempt, as of the last change of state. */
  waitMs: number;
  /** The last gap since the stream was made. */
  gap: Gap | null;
  /** Resolves when open; rejects with an `EdgeError`. */
  ready: ProjectStream["ready"];
  /** Waits until the connection is confirmed, then starts the job once. Rejects with an `EdgeError`. */
  trigger: ProjectStream["trigger"];
}

/**
 * The stream of a project, or of several over one connection, while the component is mounted; none while `project` is
 * null or empty. It is opened anew when the project or an option that describes the connection changes.
 */
export function useProjectStream(
  project: string | readonly string[] | null | undefined,
  options?: UseProjectStreamOptions,
): ProjectStreamHandle;
