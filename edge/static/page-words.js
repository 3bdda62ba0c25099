// The page's texts about connections and gaps.

import { plural } from "./page-dom.js";

export const ESTABLISHED = "Real-time connection established";
export const NOT_ACTIVE = "Real-time connection not active";
export const BADGES = {
  connecting: "Connecting",
  open: "Observing",
  reconnecting: "Reconnecting",
  closed: "Not connected",
};
export const CLOSINGS = {
  shutdown: "the hub is shutting down",
  deleted: "the project was deleted",
  expired: "the token has expired",
  lifetime: "the stream reached stream.max_lifetime_seconds",
  finished: "the project is finished",
};

/** A gap as one sentence. */
export function gapText({ lost, reason, asked }) {
  if (reason === "restart") return `${restartText(false)} Earlier events are gone.`;
  if (reason === "unknown") return `The hub never issued the id ${asked}; the events it holds follow.`;
  return lost === null
    ? "Earlier events were evicted before this page received them."
    : `${plural(lost, "event was", "events were")} evicted before this page received ${lost === 1 ? "it" : "them"}.`;
}

/** What a new epoch in the ids means, as one sentence. */
export const restartText = (continues) =>
  continues
    ? "The hub restarted; its history continues."
    : "The history began anew: the hub restarted, or the project was deleted.";

/** Why there is no connection, in a few words. */
export function why(error) {
  if (!error) return "the connection was closed";
  const { code, status, message } = error;
  if (status === 401) return "the hub requires a token";
  if (status === 204) return CLOSINGS.finished;
  if (code === "network") return "the hub can't be reached";
  if (code === "ended") return "the stream ended";
  return message;
}
